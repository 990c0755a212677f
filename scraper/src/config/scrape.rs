//! One validated entry of `scrape_configs`, with everything inherited from `global` filled in.

use super::discovery::UnsupportedDiscovery;
use super::http::HttpClientConfig;
use super::targets::{FileSdConfig, TargetGroup};
use gnomon_model::relabel::RelabelConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What to scrape and how. Equal values need no change on a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrapeConfig {
    /// Not empty; unique within the whole configuration.
    pub job_name: String,
    /// Greater than zero.
    pub scrape_interval: Duration,
    /// Greater than zero, at most `scrape_interval`.
    pub scrape_timeout: Duration,
    pub metrics_path: String,
    pub scheme: Scheme,
    pub params: BTreeMap<String, Vec<String>>,
    pub honor_labels: bool,
    /// Puts a sample of 0 where a series says that it began: Prometheus' feature `created-timestamp-zero-ingestion`.
    pub zero_at_created: bool,
    pub honor_timestamps: bool,
    pub track_timestamps_staleness: bool,
    /// Most wanted first; not empty, no duplicates.
    pub scrape_protocols: Vec<ScrapeProtocol>,
    /// What to parse a body as whose content type is absent or unknown; without it such a scrape fails.
    pub fallback_scrape_protocol: Option<ScrapeProtocol>,
    pub scrape_native_histograms: bool,
    pub always_scrape_classic_histograms: bool,
    pub convert_classic_histograms_to_nhcb: bool,
    pub extra_scrape_metrics: bool,
    /// Whether to ask for a compressed body.
    pub enable_compression: bool,
    pub scrape_failure_log_file: Option<PathBuf>,
    pub limits: ScrapeLimits,
    pub name_validation: NameValidation,
    pub name_escaping: NameEscaping,
    pub http: HttpClientConfig,
    pub relabel_configs: Arc<[RelabelConfig]>,
    pub metric_relabel_configs: Arc<[RelabelConfig]>,
    pub static_configs: Vec<TargetGroup>,
    pub file_sd_configs: Vec<FileSdConfig>,
    /// Sections of discovery that this version can read but not follow.
    pub unsupported_discovery: Vec<UnsupportedDiscovery>,
}

/// Limits of one job; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrapeLimits {
    /// Bytes of the body after decompression; more fails the scrape.
    pub body_size_bytes: Option<u64>,
    /// Samples after metric relabelling; more fails the scrape.
    pub samples: Option<u64>,
    /// Targets after relabelling; more fails every scrape of the job.
    pub targets: Option<u64>,
    /// Labels of one series after relabelling.
    pub labels: Option<u64>,
    /// Bytes of a label name after relabelling.
    pub label_name_bytes: Option<u64>,
    /// Bytes of a label value after relabelling.
    pub label_value_bytes: Option<u64>,
    /// Dropped targets that are kept for showing.
    pub keep_dropped_targets: Option<u64>,
    /// Buckets of one native histogram; above it, buckets are merged.
    pub native_histogram_buckets: Option<u64>,
    /// Smallest growth factor from one bucket to the next; below it, buckets are merged.
    pub native_histogram_min_bucket_factor: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A format of the exposition, as named in `scrape_protocols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScrapeProtocol {
    PrometheusProto,
    PrometheusText0_0_4,
    PrometheusText1_0_0,
    OpenMetricsText0_0_1,
    OpenMetricsText1_0_0,
}

impl ScrapeConfig {
    /// The same with [`Self::zero_at_created`]. Protobuf is asked for first, unless the file names protocols: it says when
    /// series began.
    #[must_use]
    pub fn with_zero_at_created(&self) -> Self {
        let mut config = self.clone();
        config.zero_at_created = true;
        if config.scrape_protocols == ScrapeProtocol::DEFAULT {
            config.scrape_protocols.insert(0, ScrapeProtocol::PrometheusProto);
        }
        config
    }
}

impl ScrapeProtocol {
    /// In the order in which Prometheus lists them.
    pub const ALL: [Self; 5] = [
        Self::OpenMetricsText0_0_1,
        Self::OpenMetricsText1_0_0,
        Self::PrometheusProto,
        Self::PrometheusText0_0_4,
        Self::PrometheusText1_0_0,
    ];

    /// What is asked for where the file names nothing.
    pub const DEFAULT: [Self; 4] = [
        Self::OpenMetricsText1_0_0,
        Self::OpenMetricsText0_0_1,
        Self::PrometheusText1_0_0,
        Self::PrometheusText0_0_4,
    ];

    /// The name in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PrometheusProto => "PrometheusProto",
            Self::PrometheusText0_0_4 => "PrometheusText0.0.4",
            Self::PrometheusText1_0_0 => "PrometheusText1.0.0",
            Self::OpenMetricsText0_0_1 => "OpenMetricsText0.0.1",
            Self::OpenMetricsText1_0_0 => "OpenMetricsText1.0.0",
        }
    }

    /// The media type with its parameters, as it stands in an `Accept` header.
    #[must_use]
    pub const fn accept(self) -> &'static str {
        match self {
            Self::PrometheusProto => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            }
            Self::PrometheusText0_0_4 => "text/plain;version=0.0.4",
            Self::PrometheusText1_0_0 => "text/plain;version=1.0.0",
            Self::OpenMetricsText0_0_1 => "application/openmetrics-text;version=0.0.1",
            Self::OpenMetricsText1_0_0 => "application/openmetrics-text;version=1.0.0",
        }
    }
}

/// Which metric and label names are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameValidation {
    #[default]
    Utf8,
    Legacy,
}

/// How a target is asked to write names that the legacy rules do not allow (`escaping=` in the `Accept` header).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameEscaping {
    #[default]
    AllowUtf8,
    Underscores,
    Dots,
    Values,
}

impl NameEscaping {
    /// The name in the configuration file and in the `Accept` header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllowUtf8 => "allow-utf-8",
            Self::Underscores => "underscores",
            Self::Dots => "dots",
            Self::Values => "values",
        }
    }
}
