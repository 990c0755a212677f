//! Every exposition parser over the same bytes: no panic, no endless loop, canonical labels.
#![no_main]

use gnomon_model::LabelsRef;
use gnomon_scraper::parse::{EntryKind, Format, check_metrics, parser_for};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for format in [Format::Text, Format::OpenMetrics, Format::Protobuf] {
        let mut parser = parser_for(format, bytes, true, true);
        let mut labels = Vec::new();
        while let Ok(Some(kind)) = parser.next_entry() {
            if matches!(kind, EntryKind::Sample | EntryKind::Histogram) {
                labels.clear();
                if parser.write_labels(&mut labels).is_ok() {
                    LabelsRef::checked(&labels).expect("canonical labels");
                }
                let _ = parser.histogram();
                labels.clear();
                while let Ok(Some(_)) = parser.exemplar(&mut labels) {}
            }
        }
    }
    let _ = check_metrics(bytes, true);
    let _ = check_metrics(bytes, false);
});
