//! Where the items of a request go.

use gnomon_cluster::router::{MetricInfo, RouterBatch};
use gnomon_model::LabelsRef;

/// Takes what belongs to the series named last.
pub(crate) trait Rows {
    /// Says since when the counters of the samples and histograms count that follow, in milliseconds; 0, as at the begin of
    /// each series, where that is not known.
    fn since(&mut self, start_ms: i64);
    fn sample(&mut self, timestamp_ms: i64, value: f64);
    fn histogram(&mut self, timestamp_ms: i64, encoded: &[u8]);
    fn exemplar(&mut self, timestamp_ms: i64, value: f64, labels: LabelsRef<'_>);
    fn metadata(&mut self, info: &MetricInfo<'_>);
}

impl Rows for RouterBatch<'_> {
    #[inline]
    fn since(&mut self, start_ms: i64) {
        self.since(start_ms);
    }

    #[inline]
    fn sample(&mut self, timestamp_ms: i64, value: f64) {
        self.sample(timestamp_ms, value);
    }

    fn histogram(&mut self, timestamp_ms: i64, encoded: &[u8]) {
        self.histogram(timestamp_ms, encoded);
    }

    fn exemplar(&mut self, timestamp_ms: i64, value: f64, labels: LabelsRef<'_>) {
        self.exemplar(timestamp_ms, value, labels);
    }

    fn metadata(&mut self, info: &MetricInfo<'_>) {
        self.metadata(info);
    }
}
