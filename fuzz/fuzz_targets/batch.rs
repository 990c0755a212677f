//! Batch bytes as they come over the wire and out of the log.
#![no_main]

use gnomon_proto::batch::BatchView;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(view) = BatchView::parse(bytes) {
        let _ = view.check();
    }
});
