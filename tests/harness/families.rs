//! Federation in protobuf.

use super::Http;
use gnomon_proto::client::MetricFamily;
use prost::Message;

const KIND: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// The families of an answer; metrics of one name in the order of their labels, which not every server keeps.
pub async fn federated(http: &Http, path: &str) -> Vec<MetricFamily> {
    let accept = format!("{KIND};q=0.7,text/plain;version=0.0.4;q=0.3");
    let asked = http.client().get(http.url(path)).header("accept", accept);
    let response = asked.send().await.expect("answer");
    assert_eq!(response.status().as_u16(), 200, "{path}");
    let kind = response.headers().get("content-type").cloned().expect("a type");
    // Newer servers say how names are escaped.
    let kind = kind.to_str().expect("text").replace("; escaping=underscores", "");
    assert_eq!(kind, KIND, "{path}");
    let bytes = response.bytes().await.expect("body");
    let mut rest = &bytes[..];
    let mut families = Vec::new();
    while !rest.is_empty() {
        let mut family = MetricFamily::decode_length_delimited(&mut rest).expect("a family");
        family.metric.sort_by_key(|metric| format!("{:?}", metric.label));
        families.push(family);
    }
    families
}
