//! Requests that are large, broken or changed.

use super::*;

#[tokio::test]
async fn hostile_requests_are_bounded() {
    let rig = Rig::default();
    // Lists in lists, as deep as a body may be.
    let mut value = AnyValue {
        value: Some(Value::IntValue(1)),
    };
    for _ in 0..40 {
        value = AnyValue {
            value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })),
        };
    }
    let deep = [("a", value.value.unwrap())];
    let body = request(&[], vec![metric("g", "", gauge(vec![number(NANOS, 1.0, &deep)]))]).encode_to_vec();
    let protobuf = [("content-type", "application/x-protobuf")];
    let (status, told) = rig.post(&protobuf, body).await;
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(status == 400 && told.contains("nested more than 32"), "{status} {told}");
    // By hand, far deeper than any stack: a list in a list in a list.
    let within = |tag: u8, bytes: &[u8]| {
        let mut outer = vec![tag];
        gnomon_model::labels::put_uvarint(&mut outer, bytes.len() as u64);
        outer.extend_from_slice(bytes);
        outer
    };
    let mut any = Vec::new();
    for _ in 0..10_000 {
        any = within(0x2a, &within(0x0a, &any));
    }
    let resource = within(0x0a, &within(0x12, &any));
    assert_eq!(attributes::attributes("Resource", &resource, 1), Err(BadOtlp::Deep(32)));
    let lists = [r#"{"arrayValue":{"values":["#.repeat(200), "]}}".repeat(200)].concat();
    let body = format!(r#"{{"resourceMetrics":[{{"resource":{{"attributes":[{{"key":"a","value":{lists}}}]}}}}]}}"#);
    let (status, told) = rig.json(&body).await;
    assert!(status == 400 && told.contains("recursion limit"), "{status} {told}");

    // Two bytes for a point with a resource of many promoted attributes.
    let settings = OtlpSettings {
        promote_all: true,
        ..OtlpSettings::default()
    };
    let rig = Rig::new(settings, OtlpOptions::default());
    let keys: Vec<_> = (0..2000).map(|n| format!("attribute_number_{n}")).collect();
    let resource: Vec<_> = keys
        .iter()
        .map(|key| (key.as_str(), text("a value of some length")))
        .collect();
    let points = vec![number(NANOS, 1.0, &[]); 100_000];
    let body = request(&resource, vec![metric("g", "", gauge(points))]).encode_to_vec();
    let (status, told) = rig.post(&protobuf, body).await;
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(status == 400 && told.contains("send fewer points"), "{status} {told}");
    // More buckets than any histogram has.
    let wide = wire::ExponentialHistogramDataPoint {
        time_unix_nano: NANOS,
        positive: Some(wire::exponential_histogram_data_point::Buckets {
            offset: 0,
            bucket_counts: vec![1; 100_000],
        }),
        ..wire::ExponentialHistogramDataPoint::default()
    };
    let data = Data::ExponentialHistogram(wire::ExponentialHistogram {
        data_points: vec![wide],
        aggregation_temporality: 2,
    });
    let (rejected, told) = rig.export(&request(&[], vec![metric("e", "", data)])).await;
    assert!(rejected == 1 && told.contains("more than 16384 buckets"), "{told}");
    assert!(rig.read().await.is_empty());
}

/// A good request with bytes changed, cut out and doubled: it is read or refused, and what is read has labels that are
/// labels. The fuzz target does so for longer.
#[test]
fn changed_requests_are_read_or_refused() {
    let exponential = wire::ExponentialHistogramDataPoint {
        time_unix_nano: NANOS,
        count: 3,
        positive: Some(wire::exponential_histogram_data_point::Buckets {
            offset: -1,
            bucket_counts: vec![1, 0, 2],
        }),
        ..wire::ExponentialHistogramDataPoint::default()
    };
    let data = Data::ExponentialHistogram(wire::ExponentialHistogram {
        data_points: vec![exponential],
        aggregation_temporality: 2,
    });
    let pairs = [("a.b", text("c")), ("d", Value::IntValue(-1))];
    let metrics = vec![
        metric("e", "By/s", data),
        metric("c", "1", counter(vec![number(NANOS, 1.0, &pairs)], 2)),
    ];
    let protobuf = request(&[("service.name", text("s")), ("x", text("y"))], metrics).encode_to_vec();
    let json = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"name":"g","gauge":{{"dataPoints":[
            {{"timeUnixNano":"{NANOS}","asDouble":1.5,"attributes":[{{"key":"k","value":{{"boolValue":true}}}}]}}]}}}}]}}]}}]}}"#
    );
    let mut seed = 42_u64;
    let mut random = |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below.max(1)
    };
    let mut taken = 0;
    for round in 0..20_000 {
        let is_json = round % 4 == 0;
        let mut bytes = if is_json {
            json.clone().into_bytes()
        } else {
            protobuf.clone()
        };
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random(256) as u8),
                2 if !bytes.is_empty() => drop(bytes.remove(at)),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = random(256) as u8;
                    }
                }
            }
        }
        match contents(&bytes, is_json, 1 << 20) {
            Ok(_) => taken += 1,
            Err(error) => assert!(!error.starts_with("labels of a converted series"), "{error}: {bytes:?}"),
        }
    }
    assert!((1000..19_000).contains(&taken), "{taken}");
}
