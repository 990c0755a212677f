//! The whole configuration file, `prometheus.yml` as it is: what is supported validated into types, the rest checked in
//! shape and reported.

mod expand;
mod load;
mod reading;
mod sections;
mod show;

use gnomon_ingester::otlp::OtlpSettings;
use gnomon_model::Labels;
use gnomon_model::yaml::YamlError;
use gnomon_scraper::config::{ScrapeConfig, ScrapeDefaults};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use load::{load, parse};
pub use reading::Reading;

/// A configuration that was read and found good.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    pub global: GlobalConfig,
    /// Those of the file first, then those of `scrape_config_files` in the order of their paths; names are unique.
    pub scrape_configs: Vec<Arc<ScrapeConfig>>,
    pub storage: StorageConfig,
    /// How OTLP's metrics become series.
    pub otlp: OtlpSettings,
    /// Patterns of rule files, relative to nothing but the file's folder any more.
    pub rule_files: Vec<PathBuf>,
    /// What is in the file but not acted on: one entry per kind of section.
    pub unsupported: Vec<UnsupportedSection>,
    /// Things worth a word in the log that are no errors.
    pub warnings: Vec<String>,
    redacted_yaml: String,
    /// The same without external labels, where it has any.
    without_labels: Option<String>,
    /// How many of `scrape_configs` are of the file itself.
    own_scrape_configs: usize,
    checksum: u128,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GlobalConfig {
    /// What scrape configurations inherit; it has been filled into them already.
    pub scrape: ScrapeDefaults,
    /// Greater than zero.
    pub evaluation_interval: Duration,
    pub rule_query_offset: Duration,
    pub query_log_file: Option<PathBuf>,
    /// For egress only; references to the environment are replaced.
    pub external_labels: Labels,
}

/// What `storage` asks for; it goes before the flags of the same meaning ([`crate::flags::Settings::retention`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StorageConfig {
    /// How far behind the newest sample of its shard one may be that is older than its series' newest, and is still taken.
    pub out_of_order_time_window: Option<Duration>,
    pub retention_time: Option<Duration>,
    pub retention_size_bytes: Option<u64>,
}

/// A kind of section that this version does not act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedSection {
    /// `alerting`, `kubernetes_sd_configs`, …
    pub section: String,
    /// The file it first stands in.
    pub path: PathBuf,
    /// The line it first stands in, counted from 1.
    pub line: u32,
    pub why: &'static str,
}

impl std::fmt::Display for UnsupportedSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}: {} has no effect: {}",
            self.path.display(),
            self.line,
            self.section,
            self.why
        )
    }
}

/// Why a configuration was not taken. The text begins with the file, and line and column where they are known.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{}: has not been read within {within:?}: is it, or a file that it names, a pipe, or on a disk that hangs?",
        path.display()
    )]
    Hangs { path: PathBuf, within: Duration },
    #[error("{}: is not UTF-8 text (from byte {valid_up_to} on)", path.display())]
    NotText { path: PathBuf, valid_up_to: usize },
    #[error("{}: is larger than {limit_bytes} bytes, the most a configuration may have", path.display())]
    TooLarge { path: PathBuf, limit_bytes: u64 },
    #[error("{}:{error}", path.display())]
    Invalid { path: PathBuf, error: YamlError },
    #[error("{}:{}: {section} is not supported yet, and --config.strict forbids what has no effect", path.display(), line)]
    Unsupported { path: PathBuf, line: u32, section: String },
}

impl Config {
    /// The file as `/api/v1/status/config` shows it: defaults filled in, secrets masked.
    #[must_use]
    pub fn redacted_yaml(&self) -> &str {
        &self.redacted_yaml
    }

    /// Of the texts that it was read from, secrets and remarks included: whether the files are others than before.
    #[must_use]
    pub const fn checksum(&self) -> u128 {
        self.checksum
    }

    /// All that makes one configuration differ from another, but for secrets: what is shown, and the scrape
    /// configurations from other files. For telling whether two nodes go by the same one. External labels are not of it:
    /// the operator's have the pod's name in them.
    #[must_use]
    pub fn identity(&self) -> String {
        let mut text = self.without_labels.as_ref().unwrap_or(&self.redacted_yaml).clone();
        for config in &self.scrape_configs[self.own_scrape_configs..] {
            text.push_str("---\n");
            text.push_str(&config.to_out().to_yaml());
        }
        text
    }

    /// What `--config.strict` adds.
    ///
    /// # Errors
    /// Names the first section that has no effect.
    pub fn require_supported(&self) -> Result<(), ConfigError> {
        match self.unsupported.first() {
            None => Ok(()),
            Some(first) => Err(ConfigError::Unsupported {
                path: first.path.clone(),
                line: first.line,
                section: first.section.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
