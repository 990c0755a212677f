//! From the pairs of a series as they were sent to canonical labels.

use crate::ha::HaOptions;
use gnomon_model::METRIC_NAME;
use gnomon_model::labels::put_uvarint;

/// Written instead of labels that no series can have: no label set has these bytes, and the router refuses it.
pub(crate) const NO_LABELS: &[u8] = &[0xff];

/// Appends the canonical form: sorted, without empty values, and without the replica's label where the series is of an
/// HA pair. None where a name is empty or stands twice, a text is not UTF-8, or there is no metric name.
pub(crate) fn put_canonical(mut labels: Vec<(&[u8], &[u8])>, ha: Option<&HaOptions>, out: &mut Vec<u8>) -> Option<()> {
    if !labels.is_sorted_by(|a, b| a.0 < b.0) {
        labels.sort_unstable();
        if labels.windows(2).any(|w| w[0].0 == w[1].0) {
            return None;
        }
    }
    let has = |name: &str| labels.iter().any(|(n, v)| *n == name.as_bytes() && !v.is_empty());
    let dropped = ha
        .filter(|ha| has(&ha.cluster_label))
        .map(|ha| ha.replica_label.as_bytes());
    let mut has_name = false;
    for (name, value) in labels {
        if name.is_empty() || std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err() {
            return None;
        }
        if value.is_empty() || dropped == Some(name) {
            continue;
        }
        has_name |= name == METRIC_NAME.as_bytes();
        for text in [name, value] {
            put_uvarint(out, text.len() as u64);
            out.extend_from_slice(text);
        }
    }
    has_name.then_some(())
}
