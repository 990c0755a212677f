//! OTLP's metrics, as protobuf and as JSON, through the reader and the converter; and remote write 2.0's body.
#![no_main]

use gnomon_ingester::otlp::contents;
use gnomon_ingester::remote_write::Contents;
use gnomon_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use libfuzzer_sys::fuzz_target;
use prost::Message;

const MOST_BYTES: usize = 1 << 20;
/// What is said where labels that were made are no labels.
const NOT_CANONICAL: &str = "labels of a converted series";

fuzz_target!(|bytes: &[u8]| {
    for is_json in [false, true] {
        if let Err(error) = contents(bytes, is_json, MOST_BYTES) {
            assert!(!error.starts_with(NOT_CANONICAL), "{error}");
        }
    }
    // What the generated decoder takes, ours does, but for what is nested too deep or too large.
    if ExportMetricsServiceRequest::decode(bytes).is_ok()
        && let Err(error) = contents(bytes, false, MOST_BYTES)
    {
        assert!(error.contains("nested") || error.contains("fewer points"), "{error}");
    }
    let compressed = snap::raw::Encoder::new().compress_vec(bytes).expect("snappy");
    let _ = Contents::of_version_2(&compressed, MOST_BYTES);
});
