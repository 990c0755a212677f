//! What the scraper tells about itself. Where the meaning is that of a metric of Prometheus, it has that name.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

pub(crate) struct ScraperMetrics {
    /// By outcome: up, down.
    pub scrapes: IntCounterVec,
    pub scrape_seconds: Histogram,
    /// Actual time between scrapes, by configured interval.
    pub interval_length_seconds: HistogramVec,
    pub samples: IntCounter,
    pub pushes_failed: IntCounter,
    pub ticks_refused: IntCounter,
    pub ticks_skipped: IntCounter,
    pub samples_refused: IntCounterVec,
    pub cached_series: IntGauge,
    pub exceeded_sample_limit: IntCounter,
    pub exceeded_body_size_limit: IntCounter,
    pub exceeded_label_limits: IntCounter,
    pub exceeded_bucket_limit: IntCounter,
    pub exceeded_target_limit: IntCounter,
    pub duplicate_timestamp: IntCounter,
    pub out_of_order: IntCounter,
    pub out_of_bounds: IntCounter,
    pub pool_targets: IntGaugeVec,
    pub pool_target_limit: IntGaugeVec,
    pub pools: IntCounter,
    pub pools_failed: IntCounter,
    pub pool_reloads: IntCounter,
    pub pool_reloads_failed: IntCounter,
    pub pool_syncs: IntCounterVec,
    pub sync_failed: IntCounterVec,
    pub discovered_targets: IntGaugeVec,
    pub file_read_errors: IntCounter,
    pub file_read_seconds: Histogram,
    pub file_mtime_seconds: prometheus::GaugeVec,
}

struct Maker<'r>(&'r Registry);

impl Maker<'_> {
    fn add<M: prometheus::core::Collector + Clone + 'static>(&self, made: M) -> Result<M, prometheus::Error> {
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        )?)
    }
}

impl ScraperMetrics {
    /// # Errors
    /// When `registry` has a scraper's metrics already.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let m = Maker(registry);
        Ok(Self {
            scrapes: m.counters("gnomon_scraper_scrapes_total", "Scrapes by outcome.", "outcome")?,
            scrape_seconds: m.histogram(
                "gnomon_scraper_scrape_duration_seconds",
                "How long scrapes took, the push not included.",
                &[0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            interval_length_seconds: m.add(HistogramVec::new(
                HistogramOpts::new(
                    "prometheus_target_interval_length_seconds",
                    "Actual intervals between scrapes.",
                )
                .buckets(vec![
                    0.9, 0.99, 1.0, 1.01, 5.0, 10.0, 14.9, 15.1, 30.0, 60.0, 120.0, 300.0,
                ]),
                &["interval"],
            )?)?,
            samples: m.counter("gnomon_scraper_samples_total", "Samples pushed and taken.")?,
            pushes_failed: m.counter(
                "gnomon_scraper_pushes_failed_total",
                "Scrapes that the shards did not take in time.",
            )?,
            ticks_refused: m.counter(
                "gnomon_scraper_ticks_refused_total",
                "Scrapes refused because another scraper owns the target by now, or has made them.",
            )?,
            ticks_skipped: m.counter(
                "gnomon_scraper_ticks_skipped_total",
                "Scrapes left out because the one before took too long, or the process stood still when they were due.",
            )?,
            samples_refused: m.counters(
                "gnomon_scraper_samples_refused_total",
                "Samples that shards refused, by reason.",
                "reason",
            )?,
            cached_series: m.add(IntGauge::new(
                "gnomon_scraper_cached_series",
                "Exposed series whose final labels are known.",
            )?)?,
            exceeded_sample_limit: m.counter(
                "prometheus_target_scrapes_exceeded_sample_limit_total",
                "Scrapes that hit the sample limit and were refused.",
            )?,
            exceeded_body_size_limit: m.counter(
                "prometheus_target_scrapes_exceeded_body_size_limit_total",
                "Scrapes that hit the body size limit and were refused.",
            )?,
            exceeded_label_limits: m.counter(
                "prometheus_target_scrape_pool_exceeded_label_limits_total",
                "Scrapes that hit one of the label limits and were refused.",
            )?,
            exceeded_bucket_limit: m.counter(
                "prometheus_target_scrapes_exceeded_native_histogram_bucket_limit_total",
                "Scrapes that hit the native histogram bucket limit and were refused.",
            )?,
            exceeded_target_limit: m.counter(
                "prometheus_target_scrape_pool_exceeded_target_limit_total",
                "Times that a job had more targets than its limit.",
            )?,
            duplicate_timestamp: m.counter(
                "prometheus_target_scrapes_sample_duplicate_timestamp_total",
                "Samples dropped because the scrape, or the store, had one of their series and time.",
            )?,
            out_of_order: m.counter(
                "prometheus_target_scrapes_sample_out_of_order_total",
                "Samples refused because they were out of order.",
            )?,
            out_of_bounds: m.counter(
                "prometheus_target_scrapes_sample_out_of_bounds_total",
                "Samples refused because they were too old or too far in the future.",
            )?,
            pool_targets: m.gauges(
                "prometheus_target_scrape_pool_targets",
                "Targets of a job that this process scrapes.",
                "scrape_job",
            )?,
            pool_target_limit: m.gauges(
                "prometheus_target_scrape_pool_target_limit",
                "Most targets that a job may have; 0 is no limit.",
                "scrape_job",
            )?,
            pools: m.counter("prometheus_target_scrape_pools_total", "Scrape pools that were made.")?,
            pools_failed: m.counter(
                "prometheus_target_scrape_pools_failed_total",
                "Scrape pools that could not be made.",
            )?,
            pool_reloads: m.counter(
                "prometheus_target_scrape_pool_reloads_total",
                "Scrape pools that were changed.",
            )?,
            pool_reloads_failed: m.counter(
                "prometheus_target_scrape_pool_reloads_failed_total",
                "Scrape pools that could not be changed.",
            )?,
            pool_syncs: m.counters(
                "prometheus_target_scrape_pool_sync_total",
                "Times that a job's targets were brought up to date.",
                "scrape_job",
            )?,
            sync_failed: m.counters(
                "prometheus_target_sync_failed_total",
                "Discovered targets that could not be used.",
                "scrape_job",
            )?,
            discovered_targets: m.add(IntGaugeVec::new(
                Opts::new(
                    "prometheus_sd_discovered_targets",
                    "Targets discovered, before relabelling.",
                ),
                &["name", "config"],
            )?)?,
            file_read_errors: m.counter(
                "prometheus_sd_file_read_errors_total",
                "Target files that could not be read or parsed.",
            )?,
            file_read_seconds: m.histogram(
                "prometheus_sd_file_scan_duration_seconds",
                "How long reading all target files of an entry took.",
                &[0.0001, 0.001, 0.01, 0.1, 1.0],
            )?,
            file_mtime_seconds: m.add(prometheus::GaugeVec::new(
                Opts::new(
                    "prometheus_sd_file_mtime_seconds",
                    "Time of a target file's last change.",
                ),
                &["filename"],
            )?)?,
        })
    }
}
