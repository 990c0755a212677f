//! Version 2.0.

use super::tests::Rig;
use crate::testing::NOW;
use gnomon_proto::v1::{WriteExemplar, WriteMetadata, WriteRequest, WriteSample, WriteSeries};
use prost::Message;

const HEADERS: [(&str, &str); 2] = [
    (
        "content-type",
        "application/x-protobuf;proto=io.prometheus.write.v2.Request",
    ),
    ("content-encoding", "snappy"),
];

/// gRPC's message is that of version 2.0 but for two fields, which it reserves.
fn pack(symbols: &[&str], timeseries: Vec<WriteSeries>) -> Vec<u8> {
    let request = WriteRequest {
        symbols: symbols.iter().map(|s| (*s).to_owned()).collect(),
        timeseries,
        ..WriteRequest::default()
    };
    snap::raw::Encoder::new()
        .compress_vec(&request.encode_to_vec())
        .unwrap()
}

fn samples(labels_refs: &[u32], samples: &[(i64, f64)]) -> WriteSeries {
    WriteSeries {
        labels_refs: labels_refs.to_vec(),
        samples: samples
            .iter()
            .map(|(timestamp, value)| WriteSample {
                value: *value,
                timestamp: *timestamp,
                start_timestamp: 0,
            })
            .collect(),
        ..WriteSeries::default()
    }
}

const SYMBOLS: [&str; 8] = ["", "__name__", "m", "job", "j", "help of m", "k", "trace_id"];

#[tokio::test]
async fn version_2_is_taken_and_says_what_was_written() {
    let rig = Rig::default();
    let mut series = samples(&[1, 2, 3, 4], &[(NOW, 1.0), (NOW + 1, 2.0)]);
    series.metadata = Some(WriteMetadata {
        r#type: 1,
        help_ref: 5,
        unit_ref: 0,
    });
    series.exemplars.push(WriteExemplar {
        labels_refs: vec![7, 4],
        value: 1.0,
        timestamp: NOW,
    });
    let body = pack(&SYMBOLS, vec![series, samples(&[1, 2, 3, 6], &[(NOW, 3.0)])]);
    let (status, text, statistics) = rig.send_2(&HEADERS, body.clone()).await;
    assert_eq!((status, text.as_str()), (204, ""));
    assert_eq!(statistics, ["3", "0", "1"]);
    let all = rig.read().await;
    assert_eq!(all[r#"{__name__="m", job="j"}"#], [(NOW, 1.0), (NOW + 1, 2.0)]);
    assert_eq!(all[r#"{__name__="m", job="k"}"#], [(NOW, 3.0)]);
    // Version 1.0 knows nothing of statistics.
    let (_, _, none) = rig.send_2(&[("content-encoding", "snappy")], Vec::new()).await;
    assert!(none.is_empty());
    let refused = pack(&SYMBOLS, vec![samples(&[1, 2, 3, 4], &[(NOW, 9.0), (NOW + 2, 1.0)])]);
    let (status, text, statistics) = rig.send_2(&HEADERS, refused).await;
    assert!(
        status == 400 && text.contains("1 samples refused, 1 committed"),
        "{text}"
    );
    assert_eq!(statistics, ["1", "0", "0"]);
}

#[tokio::test]
async fn version_2_that_names_what_is_not_there_is_malformed() {
    let rig = Rig::default();
    for (refs, part) in [(&[1, 2, 3, 8][..], "symbol 8"), (&[1, 2, 3], "without a value")] {
        let body = pack(
            &SYMBOLS,
            vec![samples(&[1, 2], &[(NOW, 1.0)]), samples(refs, &[(NOW, 1.0)])],
        );
        let (status, text, _) = rig.send_2(&HEADERS, body).await;
        assert!(status == 400 && text.contains(part), "{text}");
    }
    assert!(rig.read().await.is_empty(), "nothing of a malformed body is written");
    // A name twice, or none at all, is a series that cannot be; the rest is there.
    let twice = samples(&[1, 2, 3, 4, 3, 6], &[(NOW, 1.0)]);
    let body = pack(
        &SYMBOLS,
        vec![twice, samples(&[3, 4], &[(NOW, 1.0)]), samples(&[1, 2], &[(NOW, 1.0)])],
    );
    let (status, text, _) = rig.send_2(&HEADERS, body).await;
    assert!(
        status == 400 && text.contains("2: invalid metric name or labels"),
        "{text}"
    );
    assert_eq!(rig.read().await.len(), 1);
}

#[tokio::test]
async fn labels_that_are_named_again_and_again_are_bounded() {
    let rig = Rig::default();
    let long = "x".repeat(400 << 10);
    let symbols = ["", "__name__", "m", "long", long.as_str()];
    let many = (0..2000).map(|n| samples(&[1, 2, 3, 4], &[(NOW + n, 1.0)])).collect();
    let (status, text, _) = rig.send_2(&HEADERS, pack(&symbols, many)).await;
    assert!(status == 400 && text.contains("send fewer series"), "{text}");
}
