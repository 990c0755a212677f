//! From a series' bytes to its identity, and, where a shard does not know it, to its canonical labels.

use super::answer::{MOST_EXAMPLE, short};
use super::scan::{BadBody, Fields, LabelBytes, Outline, Span, find_labels, label};
use crate::ha::HaOptions;
use crate::intake::{NO_LABELS, put_canonical};
use gnomon_cluster::router::{LabelSource, SeriesIdentity};
use gnomon_model::labels::{METRIC_NAME, is_legacy_label_name, put_uvarint};
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

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
    /// Where the replica's label of HA pairs is dropped.
    pub(crate) ha: Option<&'a HaOptions>,
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
        if write_canonical(self.bytes(series), self.ha, out).is_none() {
            out.truncate(start);
            out.extend_from_slice(NO_LABELS);
        }
    }
}

/// None where the labels are no label set.
fn write_canonical(series: &[u8], ha: Option<&HaOptions>, out: &mut Vec<u8>) -> Option<()> {
    let mut labels = Vec::with_capacity(16);
    let mut fields = Fields::of("TimeSeries", series);
    while let Some((field, value)) = fields.next().ok()? {
        if field == 1 {
            labels.push(label(fields.bytes(field, value).ok()?).ok()?);
        }
    }
    put_canonical(labels, ha, out)
}

/// The first series of a body whose labels are no label set: its labels as text, and what is wrong with them.
pub(super) fn first_bad(body: &[u8]) -> Option<String> {
    let outline = Outline::of(body).ok()?;
    outline.series.iter().find_map(|(start, end)| {
        let mut labels = Vec::new();
        let mut fields = Fields::of("TimeSeries", body.get(*start as usize..*end as usize)?);
        while let Some((field, value)) = fields.next().ok()? {
            if field == 1 {
                labels.push(label(fields.bytes(field, value).ok()?).ok()?);
            }
        }
        what_is_wrong(&labels)
    })
}

/// None for a label set. Bytes that are no UTF-8 are shown as such.
pub(super) fn what_is_wrong(labels: &[(&[u8], &[u8])]) -> Option<String> {
    let mut names: Vec<&[u8]> = labels.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
    let why = if let Some(name) = twice {
        format!("label name {} is not unique", shown(name))
    } else if names.first().is_some_and(|name| name.is_empty()) {
        "a label has no name".to_owned()
    } else if let Some((name, _)) = labels.iter().find(|(name, value)| !is_text(name) || !is_text(value)) {
        format!("label {} is not UTF-8", shown(name))
    } else if !labels
        .iter()
        .any(|(name, value)| *name == METRIC_NAME.as_bytes() && !value.is_empty())
    {
        "there is no metric name".to_owned()
    } else {
        return None;
    };
    let text: Vec<_> = labels.iter().map(|(name, value)| of_label(name, value)).collect();
    Some(format!("{}: {}", short(format!("{{{}}}", text.join(", "))), short(why)))
}

fn of_label(name: &[u8], value: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(name) if is_legacy_label_name(name) => format!("{name}={}", shown(value)),
        _ => format!("{}={}", shown(name), shown(value)),
    }
}

/// In quotes, with escapes; no more than an example has.
fn shown(bytes: &[u8]) -> String {
    // Four bytes of each character at most.
    let most = bytes.get(..4 * MOST_EXAMPLE).unwrap_or(bytes);
    format!("{:?}", String::from_utf8_lossy(most))
}

/// The values of the two labels that tell HA pairs, of a series that is well formed.
pub(crate) fn pair<'a>(series: &'a [u8], ha: &HaOptions) -> (Option<&'a str>, Option<&'a str>) {
    let (mut cluster, mut replica) = (None, None);
    let mut fields = Fields::of("TimeSeries", series);
    while let Ok(Some((field, value))) = fields.next() {
        if field != 1 {
            continue;
        }
        let Ok((name, value)) = fields.bytes(field, value).and_then(label) else {
            break;
        };
        if name == ha.cluster_label.as_bytes() {
            cluster = std::str::from_utf8(value).ok();
        } else if name == ha.replica_label.as_bytes() {
            replica = std::str::from_utf8(value).ok();
        }
    }
    (cluster, replica)
}
