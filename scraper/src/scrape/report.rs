//! The series that a scrape makes about itself.

use super::cache::SeriesCache;
use super::collect::{Counts, Scratch};
use super::labels::displace;
use crate::target::Target;
use gnomon_cluster::router::TickSample;
use gnomon_model::{Labels, LabelsBuilder, METRIC_NAME};

/// Their names; a series' index is its number in the cache.
const NAMES: [&str; 8] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
    // With extra scrape metrics only:
    "scrape_timeout_seconds",
    "scrape_sample_limit",
    "scrape_body_size_bytes",
];

const BASIC: usize = 5;

/// The labels of all report series of a target.
pub(super) fn report_series(target: &Target) -> Vec<Labels> {
    let labels = |name: &&str| {
        let mut labels = LabelsBuilder::default();
        labels.set(METRIC_NAME, name);
        displace(&target.labels, &mut labels);
        labels.build()
    };
    NAMES.iter().map(labels).collect()
}

/// What is reported of a scrape.
pub(super) struct Report {
    pub(super) up: bool,
    pub(super) duration_seconds: f64,
    pub(super) counts: Counts,
    pub(super) extra: Option<Extra>,
}

pub(super) struct Extra {
    pub(super) timeout_seconds: f64,
    /// 0 is no limit.
    pub(super) sample_limit: u64,
    /// -1 where the body was over its limit, 0 where there was none.
    pub(super) body_bytes: f64,
}

impl Report {
    pub(super) fn add_to(&self, cache: &SeriesCache, tick_ms: i64, scratch: &mut Scratch) {
        let extra = self.extra.as_ref();
        let values = [
            f64::from(u8::from(self.up)),
            self.duration_seconds,
            self.counts.scraped as f64,
            self.counts.kept as f64,
            self.counts.series_added as f64,
            extra.map_or(0.0, |e| e.timeout_seconds),
            extra.map_or(0.0, |e| e.sample_limit as f64),
            extra.map_or(0.0, |e| e.body_bytes),
        ];
        let count = if extra.is_some() { NAMES.len() } else { BASIC };
        for (series, value) in (0u32..).zip(values).take(count) {
            scratch.samples.push(TickSample {
                identity: cache.fixed_identity(series),
                series,
                timestamp_ms: tick_ms,
                start_ms: 0,
                value,
            });
        }
    }
}
