//! What a part's block has beside samples: exemplars, and what is known of its metrics.

use super::Duties;
use super::upload::{UploadError, Waiting};
use crate::head::Head;
use crate::shard::select::stored_exemplars;
use gnomon_model::{LabelsRef, METRIC_NAME};
use gnomon_proto::ServiceError;
use gnomon_tsdb::{BlockWriter, Exemplar, MetricMetadata, SeriesExemplars, UploadSink};
use std::collections::{BTreeMap, BTreeSet};

/// An exemplar takes about so many bytes beside its labels.
const EXEMPLAR_BYTES: usize = 24;

/// See the module. At most as much as a head has of either.
#[derive(Clone, Debug, Default)]
pub(super) struct Extras {
    /// Ascending by labels.
    exemplars: Vec<SeriesExemplars>,
    metadata: Vec<(String, MetricMetadata)>,
}

impl Extras {
    /// About how many bytes a block takes for them at most.
    pub(super) fn bytes(&self) -> u64 {
        let of_series = |s: &SeriesExemplars| {
            let labels = s.exemplars.iter().map(|e| EXEMPLAR_BYTES + e.labels.as_bytes().len());
            s.labels.as_bytes().len() + labels.sum::<usize>()
        };
        let of_metric = |(metric, m): &(String, MetricMetadata)| {
            EXEMPLAR_BYTES + metric.len() + m.kind.len() + m.unit.len() + m.help.len()
        };
        let exemplars: usize = self.exemplars.iter().map(of_series).sum();
        (exemplars + self.metadata.iter().map(of_metric).sum::<usize>()) as u64
    }
}

impl Duties {
    /// Reads what there is of a durable part.
    pub(super) async fn extras(&self, part: &Waiting) -> Result<Extras, UploadError> {
        let reader = self.shard.machine.reader();
        let reader = reader.ok_or_else(|| ServiceError::Unavailable("the shard is starting".into()))?;
        let (tenant_number, number) = (part.tenant_number, part.number);
        let read = tokio::task::spawn_blocking(move || stored_exemplars(&reader, tenant_number, number));
        let stored = read.await.map_err(|e| ServiceError::Internal(e.to_string()))??;
        self.shard.machine.read(|state| {
            let head = state.head(&part.tenant).ok_or(UploadError::Dropped)?;
            let mut by_labels: BTreeMap<_, Vec<Exemplar>> = BTreeMap::new();
            let mut labels = Vec::new();
            for exemplar in stored {
                let Some(ordinal) = head.find_ref(exemplar.series) else {
                    continue;
                };
                labels.clear();
                head.write_labels(ordinal, &mut labels);
                let series = LabelsRef::from_canonical(&labels).to_owned();
                by_labels.entry(series).or_default().push(Exemplar {
                    timestamp_ms: exemplar.timestamp_ms,
                    value: exemplar.value,
                    labels: LabelsRef::from_canonical(&exemplar.labels).to_owned(),
                });
            }
            let series = |(labels, exemplars)| SeriesExemplars { labels, exemplars };
            Ok(Extras {
                exemplars: by_labels.into_iter().map(series).collect(),
                metadata: metadata(head, part),
            })
        })
    }

    /// Writes what is not deleted of it.
    pub(super) fn write_extras(&self, writer: &mut BlockWriter<UploadSink>, part: &Waiting) -> Result<(), UploadError> {
        for series in &part.extras.exemplars {
            let deleted = part.deletes.of(series.labels.as_ref());
            let left = series.exemplars.iter().filter(|e| !deleted.contains(e.timestamp_ms));
            writer.add_exemplars(series.labels.as_ref(), left.cloned().collect())?;
        }
        for (metric, metadata) in &part.extras.metadata {
            writer.add_metadata(metric, metadata.clone());
        }
        Ok(())
    }
}

/// What the head knows of the metrics of a part's series.
fn metadata(head: &Head, part: &Waiting) -> Vec<(String, MetricMetadata)> {
    let Some(sealed) = head.sealed.get(&part.number).filter(|_| !head.metadata.is_empty()) else {
        return Vec::new();
    };
    let is_of_part = |id: &&u32| {
        let series = head.index.postings(**id);
        series.is_some_and(|series| series.intersects(&sealed.members))
    };
    let names = head.index.pairs_of(METRIC_NAME).iter().filter(is_of_part);
    let families: BTreeSet<&str> = names
        .flat_map(|id| MetricMetadata::families_of(head.index.text(*id).1))
        .collect();
    let known = |family: &str| {
        let info = head.metadata.get(family)?;
        let metadata = MetricMetadata {
            at_ms: part.max_ms,
            kind: info.kind.to_string(),
            unit: info.unit.to_string(),
            help: info.help.to_string(),
        };
        Some((family.to_owned(), metadata))
    };
    families.into_iter().filter_map(known).collect()
}
