//! From a series' bytes to its identity, and, where a shard does not know it, to its canonical labels.

use super::scan::{BadBody, Fields, LabelBytes, Span, find_labels, label};
use gnomon_cluster::router::{LabelSource, SeriesIdentity};
use gnomon_model::METRIC_NAME;
use gnomon_model::labels::put_uvarint;
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

/// Written instead of labels that no series can have: no label set has these bytes, and the router refuses it.
const NO_LABELS: &[u8] = &[0xff];

/// The identity of a series: the hash of its label fields as they were sent. Senders write a series' labels alike each
/// time; one that does not costs a second entry in the router's cache. With it come the bytes that hold what is no label.
#[inline]
pub(crate) fn identity(series: &[u8], seed: u64) -> Result<(SeriesIdentity, &[u8]), BadBody> {
    let (labels, others) = find_labels(series)?;
    let identity = match labels {
        LabelBytes::Together(bytes) => xxh3_128_with_seed(bytes, seed),
        LabelBytes::Apart => {
            let mut hash = Xxh3::with_seed(seed);
            let mut fields = Fields::of("TimeSeries", series);
            while let Some((field, value)) = fields.next()? {
                if field == 1 {
                    let bytes = fields.bytes(field, value)?;
                    // With tag and length, as if they stood together.
                    let mut head = vec![0x0a];
                    put_uvarint(&mut head, bytes.len() as u64);
                    hash.update(&head);
                    hash.update(bytes);
                }
            }
            hash.digest128()
        }
    };
    Ok((identity, others))
}

/// The labels of a body's series, made when they are asked for.
pub(crate) struct BodyLabels<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) series: &'a [Span],
}

impl<'a> BodyLabels<'a> {
    pub(crate) fn bytes(&self, series: u32) -> &'a [u8] {
        let (start, end) = self.series.get(series as usize).copied().unwrap_or((0, 0));
        self.body.get(start as usize..end as usize).unwrap_or(&[])
    }
}

impl LabelSource for BodyLabels<'_> {
    fn write_labels(&self, series: u32, out: &mut Vec<u8>) {
        let start = out.len();
        if write_canonical(self.bytes(series), out).is_none() {
            out.truncate(start);
            out.extend_from_slice(NO_LABELS);
        }
    }
}

/// Appends the canonical form: sorted, without empty values. None where a name is empty or stands twice, a text is not
/// UTF-8, or there is no metric name.
fn write_canonical(series: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut labels = Vec::with_capacity(16);
    let mut fields = Fields::of("TimeSeries", series);
    while let Some((field, value)) = fields.next().ok()? {
        if field == 1 {
            labels.push(label(fields.bytes(field, value).ok()?).ok()?);
        }
    }
    if !labels.is_sorted_by(|a, b| a.0 < b.0) {
        labels.sort_unstable();
        if labels.windows(2).any(|w| w[0].0 == w[1].0) {
            return None;
        }
    }
    let mut has_name = false;
    for (name, value) in labels {
        if name.is_empty() || std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err() {
            return None;
        }
        if value.is_empty() {
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
