mod hostile;

use super::*;
use crate::service::WriteOptions;
use crate::testing::{NOW, Node};
use axum::http::Method;
use gnomon_model::is_stale_nan;
use gnomon_proto::opentelemetry::proto::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use gnomon_proto::opentelemetry::proto::common::v1::any_value::Value;
use gnomon_proto::opentelemetry::proto::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use gnomon_proto::opentelemetry::proto::metrics::v1 as wire;
use gnomon_proto::opentelemetry::proto::metrics::v1::metric::Data;
use gnomon_proto::opentelemetry::proto::resource::v1::Resource;
use gnomon_proto::v1::View;
use prost::Message;
use std::collections::BTreeMap;
use std::io::Write;
use tower::ServiceExt;

const NANOS: u64 = NOW as u64 * 1_000_000;

struct Rig {
    node: Node,
    receiver: Arc<Otlp>,
    _settings: watch::Sender<Arc<OtlpSettings>>,
}

type Read = BTreeMap<String, Vec<(i64, f64)>>;

impl Rig {
    fn new(settings: OtlpSettings, options: OtlpOptions) -> Self {
        let node = Node::new(WriteOptions::default());
        let (sender, settings) = watch::channel(Arc::new(settings));
        let intake = Intake::new(node.router.clone(), None);
        let receiver = Otlp::new(intake, options, settings, &node.metrics, node.clock.clone());
        Self {
            node,
            receiver,
            _settings: sender,
        }
    }

    async fn post(&self, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, Vec<u8>) {
        let mut request = Request::builder().method(Method::POST).uri(PATH);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        let response = self.receiver.routes().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, body.to_vec())
    }

    /// Rejected points, and the message.
    async fn export(&self, request: &ExportMetricsServiceRequest) -> (i64, String) {
        let headers = [("content-type", "application/x-protobuf")];
        let (status, body) = self.post(&headers, request.encode_to_vec()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let answer = ExportMetricsServiceResponse::decode(&body[..]).unwrap();
        let partial = answer.partial_success.unwrap_or_default();
        (partial.rejected_data_points, partial.error_message)
    }

    async fn json(&self, body: &str) -> (u16, String) {
        let (status, body) = self
            .post(&[("content-type", "application/json")], body.as_bytes().to_vec())
            .await;
        (status, String::from_utf8(body).unwrap())
    }

    async fn read(&self) -> Read {
        self.node.read(View::default()).await.unwrap()
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new(OtlpSettings::default(), OtlpOptions::default())
    }
}

fn text(value: &str) -> Value {
    Value::StringValue(value.into())
}

fn attributes(pairs: &[(&str, Value)]) -> Vec<KeyValue> {
    let pair = |(key, value): &(&str, Value)| KeyValue {
        key: (*key).into(),
        value: Some(AnyValue {
            value: Some(value.clone()),
        }),
    };
    pairs.iter().map(pair).collect()
}

fn metric(name: &str, unit: &str, data: Data) -> wire::Metric {
    wire::Metric {
        name: name.into(),
        unit: unit.into(),
        description: format!("about {name}"),
        data: Some(data),
        ..wire::Metric::default()
    }
}

fn request(resource: &[(&str, Value)], metrics: Vec<wire::Metric>) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest {
        resource_metrics: vec![wire::ResourceMetrics {
            resource: Some(Resource {
                attributes: attributes(resource),
                ..Resource::default()
            }),
            scope_metrics: vec![wire::ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: "lib".into(),
                    version: "1.2".into(),
                    attributes: attributes(&[("k.v", text("x"))]),
                    ..InstrumentationScope::default()
                }),
                metrics,
                schema_url: "http://schema".into(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn number(at: u64, value: f64, pairs: &[(&str, Value)]) -> wire::NumberDataPoint {
    wire::NumberDataPoint {
        time_unix_nano: at,
        attributes: attributes(pairs),
        value: Some(wire::number_data_point::Value::AsDouble(value)),
        ..wire::NumberDataPoint::default()
    }
}

fn gauge(points: Vec<wire::NumberDataPoint>) -> Data {
    Data::Gauge(wire::Gauge { data_points: points })
}

fn counter(points: Vec<wire::NumberDataPoint>, aggregation_temporality: i32) -> Data {
    Data::Sum(wire::Sum {
        data_points: points,
        aggregation_temporality,
        is_monotonic: true,
    })
}

fn lines(read: &Read) -> Vec<String> {
    read.iter()
        .map(|(labels, samples)| format!("{labels} {samples:?}"))
        .collect()
}

#[tokio::test]
async fn numbers_become_series_of_their_resource() {
    let rig = Rig::default();
    let resource = [
        ("service.name", text("shop")),
        ("service.namespace", text("eu")),
        ("service.instance.id", text("i1")),
        ("host.name", text("h")),
    ];
    let list = Value::ArrayValue(ArrayValue {
        values: vec![
            AnyValue {
                value: Some(Value::IntValue(1)),
            },
            AnyValue {
                value: Some(text("<b>")),
            },
        ],
    });
    let pairs = [
        ("http.method", text("GET")),
        ("ok", Value::BoolValue(true)),
        ("n", Value::IntValue(-3)),
        ("d", Value::DoubleValue(0.5)),
        ("b", Value::BytesValue(vec![255])),
        ("l", list),
        ("a.b", text("1")),
        ("a_b", text("2")),
        ("empty", text("")),
    ];
    let (at, later) = (NANOS, NANOS + 1_000_000);
    let told = rig
        .export(&request(
            &resource,
            vec![
                metric(
                    "req.count",
                    "{request}",
                    counter(vec![number(at, 1.0, &pairs), number(later, 2.0, &pairs)], 2),
                ),
                metric("temp", "Cel", gauge(vec![number(at, 21.5, &[])])),
            ],
        ))
        .await;
    assert_eq!(told, (0, String::new()));
    let expected = format!(
        r#"{{__name__="req_count_total", a_b="1;2", b="/w==", d="0.5", http_method="GET", instance="i1", job="eu/shop", l="[1,\"\\u003cb\\u003e\"]", n="-3", ok="true"}} [({NOW}, 1.0), ({}, 2.0)]"#,
        NOW + 1
    );
    assert_eq!(
        lines(&rig.read().await),
        [
            expected,
            format!(
                r#"{{__name__="target_info", host_name="h", instance="i1", job="eu/shop"}} [({NOW}, 1.0), ({}, 1.0)]"#,
                NOW + 1
            ),
            format!(r#"{{__name__="temp_celsius", instance="i1", job="eu/shop"}} [({NOW}, 21.5)]"#),
        ]
    );
}

#[tokio::test]
async fn settings_choose_names_and_labels() {
    let settings = OtlpSettings {
        strategy: Strategy::named("NoTranslation").unwrap(),
        promote_all: true,
        resource_attributes: ["secret".to_owned()].into(),
        promote_scope: true,
        keep_identifying: true,
        ..OtlpSettings::default()
    };
    let rig = Rig::new(settings, OtlpOptions::default());
    let resource = [
        ("service.name", text("s")),
        ("secret", text("x")),
        ("zone.id", text("z")),
    ];
    let own = [("zone.id", text("mine"))];
    rig.export(&request(
        &resource,
        vec![metric("a.b", "s", gauge(vec![number(NANOS, 1.0, &own)]))],
    ))
    .await;
    assert_eq!(
        lines(&rig.read().await),
        [
            format!(
                r#"{{__name__="a.b", job="s", "otel_scope_k.v"="x", otel_scope_name="lib", otel_scope_schema_url="http://schema", otel_scope_version="1.2", "service.name"="s", "zone.id"="mine"}} [({NOW}, 1.0)]"#
            ),
            format!(
                r#"{{__name__="target_info", job="s", secret="x", "service.name"="s", "zone.id"="z"}} [({NOW}, 1.0)]"#
            ),
        ]
    );
}

#[tokio::test]
async fn histograms_and_summaries_are_several_series() {
    let rig = Rig::default();
    let exemplar = |value| wire::Exemplar {
        time_unix_nano: NANOS,
        trace_id: vec![0xab; 16],
        value: Some(wire::exemplar::Value::AsDouble(value)),
        ..wire::Exemplar::default()
    };
    let histogram = wire::HistogramDataPoint {
        time_unix_nano: NANOS,
        count: 6,
        sum: Some(20.0),
        bucket_counts: vec![1, 2, 3],
        explicit_bounds: vec![0.5, 10.0],
        exemplars: vec![exemplar(7.0), exemplar(70.0)],
        ..wire::HistogramDataPoint::default()
    };
    let summary = wire::SummaryDataPoint {
        time_unix_nano: NANOS,
        count: 2,
        sum: 3.0,
        quantile_values: vec![wire::summary_data_point::ValueAtQuantile {
            quantile: 0.99,
            value: 2.5,
        }],
        ..wire::SummaryDataPoint::default()
    };
    let data = vec![
        metric(
            "h",
            "s",
            Data::Histogram(wire::Histogram {
                data_points: vec![histogram],
                aggregation_temporality: 2,
            }),
        ),
        metric(
            "q",
            "",
            Data::Summary(wire::Summary {
                data_points: vec![summary],
            }),
        ),
    ];
    assert_eq!(rig.export(&request(&[], data)).await.0, 0);
    let expected = [
        (r#"{__name__="h_seconds_bucket", le="+Inf"}"#, 6.0),
        (r#"{__name__="h_seconds_bucket", le="0.5"}"#, 1.0),
        (r#"{__name__="h_seconds_bucket", le="10"}"#, 3.0),
        (r#"{__name__="h_seconds_count"}"#, 6.0),
        (r#"{__name__="h_seconds_sum"}"#, 20.0),
        (r#"{__name__="q", quantile="0.99"}"#, 2.5),
        (r#"{__name__="q_count"}"#, 2.0),
        (r#"{__name__="q_sum"}"#, 3.0),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(labels, v)| format!("{labels} [({NOW}, {v:?})]"))
        .collect();
    assert_eq!(lines(&rig.read().await), expected);
}

#[tokio::test]
async fn native_histograms_and_markers() {
    let settings = OtlpSettings {
        convert_histograms_to_nhcb: true,
        ..OtlpSettings::default()
    };
    let rig = Rig::new(settings, OtlpOptions::default());
    let exponential = |at, flags| wire::ExponentialHistogramDataPoint {
        time_unix_nano: at,
        count: 3,
        sum: Some(7.0),
        scale: 2,
        zero_count: 1,
        positive: Some(wire::exponential_histogram_data_point::Buckets {
            offset: 1,
            bucket_counts: vec![2],
        }),
        flags,
        ..wire::ExponentialHistogramDataPoint::default()
    };
    let explicit = wire::HistogramDataPoint {
        time_unix_nano: NANOS,
        count: 3,
        sum: Some(5.0),
        bucket_counts: vec![1, 2],
        explicit_bounds: vec![1.0],
        ..wire::HistogramDataPoint::default()
    };
    let mut stale = number(NANOS + 1_000_000, 9.0, &[]);
    stale.flags = 1;
    let points = vec![exponential(NANOS, 0), exponential(NANOS + 1_000_000, 1)];
    let data = vec![
        metric(
            "e",
            "",
            Data::ExponentialHistogram(wire::ExponentialHistogram {
                data_points: points,
                aggregation_temporality: 2,
            }),
        ),
        metric(
            "h",
            "",
            Data::Histogram(wire::Histogram {
                data_points: vec![explicit],
                aggregation_temporality: 2,
            }),
        ),
        metric("g", "", gauge(vec![number(NANOS, 1.0, &[]), stale])),
    ];
    assert_eq!(rig.export(&request(&[], data)).await, (0, String::new()));
    let read = rig.read().await;
    // Of a histogram the sum is read.
    let e = &read[r#"{__name__="e"}"#];
    assert!(e[0] == (NOW, 7.0) && is_stale_nan(e[1].1), "{e:?}");
    assert_eq!(read[r#"{__name__="h"}"#], [(NOW, 5.0)]);
    let g = &read[r#"{__name__="g"}"#];
    assert!(g[0] == (NOW, 1.0) && is_stale_nan(g[1].1), "{g:?}");
}

#[tokio::test]
async fn what_is_not_taken_is_told_and_the_rest_is_there() {
    let rig = Rig::default();
    let valueless = wire::NumberDataPoint {
        time_unix_nano: NANOS,
        ..wire::NumberDataPoint::default()
    };
    let coarse = wire::ExponentialHistogramDataPoint {
        time_unix_nano: NANOS,
        scale: -7,
        ..wire::ExponentialHistogramDataPoint::default()
    };
    let ahead = NANOS + 3_600_000_000_000;
    let data = vec![
        metric(
            "d",
            "",
            counter(vec![number(NANOS, 1.0, &[]), number(NANOS, 1.0, &[])], 1),
        ),
        metric("u", "", counter(vec![number(NANOS, 1.0, &[])], 0)),
        metric("g", "", gauge(vec![valueless, number(NANOS, 4.0, &[])])),
        metric(
            "e",
            "",
            Data::ExponentialHistogram(wire::ExponentialHistogram {
                data_points: vec![coarse],
                aggregation_temporality: 2,
            }),
        ),
        metric("§", "", gauge(vec![number(NANOS, 1.0, &[])])),
        metric("f", "", gauge(vec![number(ahead, 1.0, &[])])),
    ];
    let (rejected, message) = rig.export(&request(&[], data.clone())).await;
    assert_eq!(rejected, 7, "{message}");
    for part in [
        "\"d\" has delta",
        "\"u\" has the aggregation",
        "\"g\" has no value",
        "scale -7",
        "nothing is left",
        "in the future",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(
        lines(&rig.read().await),
        [format!(r#"{{__name__="g"}} [({NOW}, 4.0)]"#)]
    );
    // Where deltas are wanted, they are taken as they are.
    let options = OtlpOptions {
        deltas: true,
        ..OtlpOptions::default()
    };
    let rig = Rig::new(OtlpSettings::default(), options);
    let one = vec![metric("d", "", counter(vec![number(NANOS, 1.0, &[])], 1))];
    assert_eq!(rig.export(&request(&[], one)).await.0, 0);
    assert_eq!(
        lines(&rig.read().await),
        [format!(r#"{{__name__="d_total"}} [({NOW}, 1.0)]"#)]
    );
}

#[tokio::test]
async fn target_info_is_there_for_the_whole_time_and_bounded() {
    let rig = Rig::default();
    let resource = [("service.name", text("s")), ("v", text("1"))];
    let span = 400_000_u64;
    let points = vec![number(NANOS - span * 1_000_000, 1.0, &[]), number(NANOS, 2.0, &[])];
    rig.export(&request(&resource, vec![metric("g", "", gauge(points))]))
        .await;
    let first = NOW - span as i64;
    let times: Vec<_> = rig.read().await[r#"{__name__="target_info", job="s", v="1"}"#]
        .iter()
        .map(|s| s.0)
        .collect();
    assert_eq!(times, [first, first + 150_000, first + 300_000, NOW]);
    // From the beginning of time to its end.
    let points = vec![number(0, 1.0, &[]), number(u64::MAX, 2.0, &[])];
    let converted = convert(
        &request(&resource, vec![metric("g", "", gauge(points))]).encode_to_vec(),
        Rules {
            settings: &OtlpSettings::default(),
            deltas: false,
            lookback_ms: 300_000,
        },
        1 << 20,
    )
    .unwrap()
    .items
    .len();
    assert_eq!(converted, 2 + 512);
}

#[tokio::test]
async fn json_is_the_same_as_protobuf() {
    let rig = Rig::default();
    let body = format!(
        r#"{{"resourceMetrics":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"s"}}}}],"droppedAttributesCount":0}},
        "scopeMetrics":[{{"scope":{{"name":"x"}},"metrics":[
          {{"name":"c","unit":"By","sum":{{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[
             {{"timeUnixNano":"{NANOS}","asInt":"42","attributes":[
               {{"key":"a","value":{{"arrayValue":{{"values":[{{"intValue":"7"}},{{"doubleValue":1e3}},{{"bytesValue":"/w=="}}]}}}}}},
               {{"key":"m","value":{{"kvlistValue":{{"values":[{{"key":"z","value":{{"boolValue":false}}}},{{"key":"b","value":null}}]}}}}}}],
              "exemplars":[{{"timeUnixNano":{NANOS},"asDouble":1.5,"traceId":"0123456789abcdef0123456789abcdef","spanId":"0123456789abcdef"}}]}}]}}}},
          {{"name":"e","exponentialHistogram":{{"aggregationTemporality":"AGGREGATION_TEMPORALITY_CUMULATIVE","dataPoints":[
             {{"timeUnixNano":"{NANOS}","count":3,"sum":6.5,"scale":-1,"zeroCount":"1","positive":{{"offset":-2,"bucketCounts":["1",1]}}}}]}}}},
          {{"name":"g","somethingNew":[{{}}],"gauge":{{"data_points":[{{"time_unix_nano":"{NANOS}","asDouble":"NaN"}}]}}}}
        ]}}]}}]}}"#
    );
    assert_eq!(rig.json(&body).await, (200, "{}".into()));
    let read = rig.read().await;
    let keys: Vec<_> = read.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            r#"{__name__="c_bytes_total", a="[7,1000,\"/w==\"]", job="s", m="{\"b\":null,\"z\":false}"}"#,
            r#"{__name__="e", job="s"}"#,
            r#"{__name__="g", job="s"}"#,
        ]
    );
    assert_eq!(read[keys[0]], [(NOW, 42.0)]);
    assert_eq!(read[keys[1]], [(NOW, 6.5)]);
    assert!(read[keys[2]][0].1.is_nan());
    for (wrong, part) in [
        ("{", "EOF"),
        ("[]", "an object"),
        (r#"{"resourceMetrics":{}}"#, "a list"),
        (r#"{"resourceMetrics":[[]]}"#, "an object for resource_metrics"),
        (r#"{"resourceMetrics":[{"schemaUrl":1}]}"#, "a number is not expected"),
        (
            r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"gauge":{"dataPoints":[{"timeUnixNano":1.5}]}}]}]}]}"#,
            "not a whole number",
        ),
        (
            r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"sum":{"dataPoints":[{"exemplars":[{"traceId":"x"}]}]}}]}]}]}"#,
            "hexadecimal",
        ),
    ] {
        let (status, text) = rig.json(wrong).await;
        assert!(
            status == 400 && text.contains(part) && text.contains("\"code\":3"),
            "{wrong}: {status} {text}"
        );
    }
}

#[tokio::test]
async fn headers_and_compression() {
    let rig = Rig::default();
    let body = request(&[], vec![metric("g", "", gauge(vec![number(NANOS, 1.0, &[])]))]).encode_to_vec();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let protobuf = ("content-type", "application/x-protobuf");
    let packed = ("content-encoding", "gzip");
    assert_eq!(rig.post(&[protobuf, packed], gzip(&body)).await.0, 200);
    assert_eq!(rig.post(&[protobuf, packed], body.clone()).await.0, 400);
    assert_eq!(
        rig.post(&[protobuf, ("content-encoding", "zstd")], body.clone())
            .await
            .0,
        415
    );
    assert_eq!(rig.post(&[("content-type", "text/plain")], body.clone()).await.0, 415);
    assert_eq!(rig.post(&[], body.clone()).await.0, 415);
    // A bomb of a thousand to one.
    let bomb = gzip(&vec![0; 33 << 20]);
    let (status, told) = rig.post(&[protobuf, packed], bomb).await;
    assert!(status == 400 && String::from_utf8_lossy(&told).contains("decompressed"));
    assert_eq!(rig.post(&[protobuf], body[..body.len() - 1].to_vec()).await.0, 400);
}

#[tokio::test]
async fn what_may_succeed_later_is_a_503() {
    let node = Node::new(WriteOptions::default());
    node.log.leads.store(false, std::sync::atomic::Ordering::Relaxed);
    let (_sender, settings) = watch::channel(Arc::new(OtlpSettings::default()));
    let intake = Intake::with_timeout(node.router.clone(), None, Duration::from_millis(50));
    let receiver = Otlp::new(
        intake,
        OtlpOptions::default(),
        settings,
        &node.metrics,
        node.clock.clone(),
    );
    let body = request(&[], vec![metric("g", "", gauge(vec![number(NANOS, 1.0, &[])]))]).encode_to_vec();
    let request = Request::post(PATH).header("content-type", "application/x-protobuf");
    let response = receiver
        .routes()
        .oneshot(request.body(Body::from(body)).unwrap())
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
}
