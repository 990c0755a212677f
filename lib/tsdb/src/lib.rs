//! Pages, index, block writer and reader over an object store. The byte diagrams are in `format.md`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod block;
pub mod bucket;
pub mod deletes;
pub mod disk_cache;
pub mod merge;
pub mod page;
pub mod parquet;
pub mod prometheus;

pub use block::{
    BlockCache, BlockError, BlockExemplars, BlockMeta, BlockReader, BlockSink, BlockStats, BlockWriter, Exemplar,
    ExemplarFilter, ExemplarMerge, FinishedBlock, MemorySink, MetricMetadata, Selection, SeriesExemplars, UploadSink,
};
pub use bucket::{Bucket, BucketError, Created};
pub use deletes::{Deletes, Intervals, Tombstone};
pub use disk_cache::{CachedStore, DiskCacheError};
pub use merge::{MergedSeries, SeriesMerge, SeriesStream, merge_pages};
pub use page::{
    AppendError, Coding, Effort, FloatPageBuilder, HistogramPageBuilder, HistogramSample, MAX_PAGE_SAMPLES, Page,
    PageError, PageHeader, PageSamples, Starts, decode_histograms_into, decode_into, decode_started_within,
    decode_within,
};

use gnomon_model::Labels;

/// One series with its pages, ascending by time and not overlapping: what blocks and shard heads give, and what
/// travels between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesPages {
    pub labels: Labels,
    pub pages: Vec<Page>,
}
