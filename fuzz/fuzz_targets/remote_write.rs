//! The body of a remote write request: the decoder over the bytes as they are and over the bytes compressed, and the
//! histograms in them.
#![no_main]

use gnomon_ingester::remote_write::Contents;
use gnomon_proto::prometheus::WriteRequest;
use libfuzzer_sys::fuzz_target;
use prost::Message;

const MOST_BYTES: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let _ = Contents::of(bytes, MOST_BYTES);
    let compressed = snap::raw::Encoder::new().compress_vec(bytes).expect("snappy");
    let ours = Contents::of(&compressed, MOST_BYTES);
    // What the generated decoder takes, ours counts alike (ours takes more: it skips what it does not know).
    let Ok(request) = WriteRequest::decode(bytes) else {
        return;
    };
    let Ok(contents) = ours else {
        panic!("refused: {ours:?}");
    };
    let series = &request.timeseries;
    assert_eq!(contents.series, series.len() as u64);
    assert_eq!(
        contents.samples,
        series.iter().map(|s| s.samples.len() as u64).sum::<u64>()
    );
    assert_eq!(
        contents.histograms,
        series.iter().map(|s| s.histograms.len() as u64).sum::<u64>()
    );
    for histogram in series.iter().flat_map(|s| &s.histograms) {
        let _ = gnomon_proto::histogram::from_wire(histogram);
    }
});
