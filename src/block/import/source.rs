//! Series of a source in batches, each in the order of labels: which is not the index's once labels are added to all.

use gnomon_model::{Labels, LabelsRef, ShardId};
use gnomon_tsdb::prometheus::{SeriesAt, TsdbBlock, TsdbError};

/// Series of a batch, and bytes of their labels: what is held of them while their samples are read.
const BATCH_SERIES: usize = 200_000;
const BATCH_BYTES: usize = 128 << 20;

/// Series, ascending by labels; two may have the same ones.
pub(super) struct Batch {
    /// Counts a source's batches, from 0.
    pub(super) number: u64,
    pub(super) series: Vec<(Labels, SeriesAt)>,
}

impl Batch {
    /// The owner of each series.
    pub(super) fn owners(&self, owner: impl Fn(LabelsRef<'_>) -> Option<ShardId>) -> Vec<Option<ShardId>> {
        self.series.iter().map(|(labels, _)| owner(labels.as_ref())).collect()
    }
}

/// Where the next batch begins.
#[derive(Default)]
pub(super) struct Batches {
    from: Option<SeriesAt>,
    number: u64,
}

impl Batches {
    /// The next batch; none at the end. The same source always has the same ones.
    pub(super) fn next(&mut self, block: &mut TsdbBlock) -> Result<Option<Batch>, TsdbError> {
        let (mut series, mut bytes) = (Vec::new(), 0);
        while series.len() < BATCH_SERIES && bytes < BATCH_BYTES {
            let Some((at, labels, next)) = block.next_series(self.from)? else {
                break;
            };
            self.from = Some(next);
            bytes += labels.as_bytes().len();
            series.push((labels, at));
        }
        if series.is_empty() {
            return Ok(None);
        }
        series.sort();
        let number = self.number;
        self.number += 1;
        Ok(Some(Batch { number, series }))
    }
}
