//! A remote-write sender.

use super::{Http, eventually};
use gnomon_proto::prometheus::{Label, Sample, TimeSeries, WriteRequest};
use prost::Message;

/// A series of floats: label pairs (sorted by name) and (ms, value) pairs.
pub fn time_series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> TimeSeries {
    TimeSeries {
        labels: labels
            .iter()
            .map(|(n, v)| Label {
                name: (*n).into(),
                value: (*v).into(),
            })
            .collect(),
        samples: samples
            .iter()
            .map(|(timestamp, value)| Sample {
                timestamp: *timestamp,
                value: *value,
            })
            .collect(),
        ..TimeSeries::default()
    }
}

/// The body of a remote write 1.0 request.
pub fn body(timeseries: Vec<TimeSeries>) -> Vec<u8> {
    let bytes = WriteRequest {
        timeseries,
        metadata: vec![],
    }
    .encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&bytes).expect("snappy")
}

/// Sends a body; the status code and text, or the transport's error.
pub async fn send(http: &Http, body: Vec<u8>) -> Result<(u16, String), reqwest::Error> {
    let response = http
        .client()
        .post(http.url("/api/v1/write"))
        .header("content-type", "application/x-protobuf")
        .header("content-encoding", "snappy")
        .header("x-prometheus-remote-write-version", "0.1.0")
        .body(body)
        .send()
        .await?;
    let code = response.status().as_u16();
    Ok((code, response.text().await?))
}

/// Sends a body again and again until it is acknowledged: whoever leads may be gone, or not there yet.
pub async fn send_until_taken(http: &Http, body: &[u8]) {
    eventually("a write to be acknowledged", async || {
        match send(http, body.to_vec()).await {
            Ok((204, _)) => Some(()),
            Ok((503, _)) | Err(_) => None,
            Ok((code, text)) => panic!("{code}: {text}"),
        }
    })
    .await;
}
