//! Making a batch again for a shard that does not know some of its references: the same items, those series by labels.

use super::chunk::{Chunk, ChunkWriter, ITEM_BYTES, NamedSeries};
use super::types::LabelSource;
use gnomon_model::LabelsRef;
use gnomon_proto::ServiceError;
use gnomon_proto::batch::{BadBatch, BatchView, Group, Item, SeriesKey};
use std::collections::HashMap;

/// Gives the batches to send instead of `chunk`, of which the shard does not know `unknown`: from rows the items of
/// those series only (the others were taken), from a tick everything (nothing was).
///
/// # Errors
/// `Internal` where the label source or the chunk is not what it should be.
pub(super) fn with_labels(
    chunk: &Chunk,
    unknown: &[u64],
    labels: &dyn LabelSource,
) -> Result<Vec<Chunk>, ServiceError> {
    let mut missing: HashMap<u64, Missing> = unknown.iter().map(|r| (*r, Missing::default())).collect();
    for named in &chunk.known {
        let Some(missing) = missing.get_mut(&named.reference.0) else {
            continue;
        };
        if missing.named.is_none() {
            missing.named = Some(*named);
            labels.write_labels(named.series, &mut missing.labels);
            LabelsRef::checked(&missing.labels)
                .map_err(|e| ServiceError::Internal(format!("labels made again for a series: {e}")))?;
        }
    }
    if let Some((reference, _)) = missing.iter().find(|(_, m)| m.named.is_none()) {
        return Err(ServiceError::Internal(format!(
            "the shard does not know reference {reference}, which was not sent"
        )));
    }
    let view = BatchView::parse(&chunk.bytes).map_err(|e| own_batch(&e))?;
    let good = chunk.known.iter().map(|named| (named.reference.0, *named)).collect();
    let resend = Resend {
        chunk,
        good,
        view,
        missing,
    };
    resend.run().map_err(|e| own_batch(&e))
}

fn own_batch(error: &BadBatch) -> ServiceError {
    ServiceError::Internal(format!("a batch of this router does not read back: {error}"))
}

#[derive(Default)]
struct Missing {
    named: Option<NamedSeries>,
    labels: Vec<u8>,
}

struct Resend<'a> {
    chunk: &'a Chunk,
    /// What the chunk named by reference and the shard knows.
    good: HashMap<u64, NamedSeries>,
    view: BatchView<'a>,
    missing: HashMap<u64, Missing>,
}

impl Resend<'_> {
    fn run(&self) -> Result<Vec<Chunk>, BadBatch> {
        let mut out = Vec::new();
        for group in self.view.groups() {
            let group = group?;
            let mut writer = match &group.tick {
                None => {
                    let writer = ChunkWriter::rows(self.view.tenant(), self.view.epoch());
                    writer.only_newer(self.chunk.only_newer)
                }
                Some(header) => {
                    let to_come = self.bound(&group)?;
                    ChunkWriter::tick(self.view.tenant(), self.view.epoch(), header.clone(), to_come)
                }
            };
            let keep_all = group.tick.is_some();
            for item in group.items() {
                self.copy(&item?, keep_all, &mut writer);
            }
            out.extend(writer.finish());
        }
        Ok(out)
    }

    /// An upper bound of what the items of a tick cost: the sum of what [`Self::copy`] asks room for.
    fn bound(&self, group: &Group<'_>) -> Result<usize, BadBatch> {
        let mut bytes = 0;
        for item in group.items() {
            bytes += self.cost(&item?);
        }
        Ok(bytes)
    }

    /// The labels by which a key has to be sent now; none where the reference is good.
    fn labels_of(&self, key: SeriesKey) -> Option<(NamedSeries, LabelsRef<'_>)> {
        match key {
            SeriesKey::Known(reference) => {
                let missing = self.missing.get(&reference.0)?;
                Some((missing.named?, LabelsRef::from_canonical(&missing.labels)))
            }
            SeriesKey::New(index) => {
                let named = *self.chunk.new.get(index as usize)?;
                Some((named, *self.view.new_series().get(index as usize)?))
            }
        }
    }

    fn key_of(item: &Item<'_>) -> Option<SeriesKey> {
        match item {
            Item::Sample { key, .. } | Item::Histogram { key, .. } | Item::Exemplar { key, .. } => Some(*key),
            Item::Metadata { .. } => None,
        }
    }

    fn cost(&self, item: &Item<'_>) -> usize {
        let series = Self::key_of(item).and_then(|key| self.labels_of(key));
        let texts = match item {
            Item::Sample { .. } => 0,
            Item::Histogram { encoded, .. } => encoded.len(),
            Item::Exemplar { labels, .. } => labels.as_bytes().len(),
            Item::Metadata {
                metric,
                kind,
                unit,
                help,
            } => metric.len() + kind.len() + unit.len() + help.len(),
        };
        ITEM_BYTES + texts + series.map_or(0, |(_, labels)| labels.as_bytes().len())
    }

    fn copy(&self, item: &Item<'_>, keep_all: bool, writer: &mut ChunkWriter) {
        let old = Self::key_of(item);
        let is_missing = matches!(old, Some(SeriesKey::Known(r)) if self.missing.contains_key(&r.0));
        if !keep_all && !is_missing {
            return;
        }
        writer.make_room(self.cost(item));
        let key = old.map(|old| match (self.labels_of(old), old) {
            (Some((named, labels)), _) => writer.new_series(named.key, named.series, labels),
            (None, SeriesKey::Known(reference)) => {
                let named = self.good.get(&reference.0);
                named.map_or(old, |named| writer.known(*named))
            }
            (None, SeriesKey::New(_)) => old,
        });
        match (item, key) {
            (
                Item::Sample {
                    timestamp_ms,
                    start_ms,
                    value,
                    ..
                },
                Some(key),
            ) => {
                writer.items().since(*start_ms);
                writer.items().sample(key, *timestamp_ms, *value);
            }
            (
                Item::Histogram {
                    timestamp_ms,
                    start_ms,
                    encoded,
                    ..
                },
                Some(key),
            ) => {
                writer.items().since(*start_ms);
                writer.items().histogram(key, *timestamp_ms, encoded);
            }
            (
                Item::Exemplar {
                    timestamp_ms,
                    value,
                    labels,
                    ..
                },
                Some(key),
            ) => writer.items().exemplar(key, *timestamp_ms, *value, *labels),
            (
                Item::Metadata {
                    metric,
                    kind,
                    unit,
                    help,
                },
                _,
            ) => writer.items().metadata(metric, kind, unit, help),
            (_, None) => {}
        }
    }
}
