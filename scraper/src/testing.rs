//! What tests of this crate build upon.

use crate::config::{
    HttpClientConfig, NameEscaping, NameValidation, Scheme, ScrapeConfig, ScrapeLimits, ScrapeProtocol,
};
use std::time::Duration;

/// A job as the configuration file makes it with nothing but a name.
pub(crate) fn config(job: &str) -> ScrapeConfig {
    ScrapeConfig {
        job_name: job.to_owned(),
        scrape_interval: Duration::from_secs(15),
        scrape_timeout: Duration::from_secs(10),
        metrics_path: "/metrics".to_owned(),
        scheme: Scheme::Http,
        params: Default::default(),
        honor_labels: false,
        zero_at_created: false,
        honor_timestamps: true,
        track_timestamps_staleness: false,
        scrape_protocols: ScrapeProtocol::DEFAULT.to_vec(),
        fallback_scrape_protocol: None,
        scrape_native_histograms: false,
        always_scrape_classic_histograms: false,
        convert_classic_histograms_to_nhcb: false,
        extra_scrape_metrics: false,
        enable_compression: true,
        scrape_failure_log_file: None,
        limits: ScrapeLimits::default(),
        name_validation: NameValidation::Utf8,
        name_escaping: NameEscaping::AllowUtf8,
        http: HttpClientConfig::default(),
        relabel_configs: [].into(),
        metric_relabel_configs: [].into(),
        static_configs: Vec::new(),
        file_sd_configs: Vec::new(),
        unsupported_discovery: Default::default(),
    }
}

mod server;
mod sink;

pub(crate) use server::{Server, ok};
pub(crate) use sink::{OwnedTick, RecordingSink};
