//! The part of `global` that scrape configurations inherit.

use super::read_http::join_dir;
use super::scrape::{NameEscaping, NameValidation, ScrapeLimits, ScrapeProtocol};
use gnomon_model::yaml::{At, Fields, YamlError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `Default` is what holds without a `global` section.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrapeDefaults {
    pub scrape_interval: Duration,
    pub scrape_timeout: Duration,
    /// Unset means [`ScrapeProtocol::DEFAULT`], with protobuf in front where native histograms are scraped.
    pub scrape_protocols: Option<Vec<ScrapeProtocol>>,
    pub limits: ScrapeLimits,
    pub scrape_failure_log_file: Option<PathBuf>,
    pub name_validation: NameValidation,
    /// Unset means the one that fits the validation.
    pub name_escaping: Option<NameEscaping>,
    pub scrape_native_histograms: bool,
    pub convert_classic_histograms_to_nhcb: bool,
    pub always_scrape_classic_histograms: bool,
    pub extra_scrape_metrics: bool,
}

impl Default for ScrapeDefaults {
    fn default() -> Self {
        Self {
            scrape_interval: Duration::from_secs(60),
            scrape_timeout: Duration::from_secs(10),
            scrape_protocols: None,
            limits: ScrapeLimits::default(),
            scrape_failure_log_file: None,
            name_validation: NameValidation::Utf8,
            name_escaping: None,
            scrape_native_histograms: false,
            convert_classic_histograms_to_nhcb: false,
            always_scrape_classic_histograms: false,
            extra_scrape_metrics: false,
        }
    }
}

impl ScrapeDefaults {
    /// Takes its fields from among those of the `global` section.
    ///
    /// # Errors
    /// When one is malformed, or the timeout is longer than the interval.
    pub fn read(fields: &mut Fields<'_>, dir: &Path) -> Result<Self, YamlError> {
        let default = Self::default();
        let scrape_interval = interval(fields, "scrape_interval")?.unwrap_or(default.scrape_interval);
        let timeout = interval(fields, "scrape_timeout")?;
        if timeout.is_some_and(|timeout| timeout > scrape_interval) {
            return Err(fields.error_at("scrape_timeout", "global scrape timeout greater than scrape interval"));
        }
        Ok(Self {
            scrape_interval,
            scrape_timeout: timeout.unwrap_or(default.scrape_timeout.min(scrape_interval)),
            scrape_protocols: fields.read("scrape_protocols", protocols)?,
            limits: read_limits(fields)?,
            scrape_failure_log_file: failure_log(fields, dir)?,
            name_validation: fields
                .read("metric_name_validation_scheme", validation)?
                .flatten()
                .unwrap_or_default(),
            name_escaping: fields.read("metric_name_escaping_scheme", escaping)?.flatten(),
            scrape_native_histograms: fields.flag("scrape_native_histograms", false)?,
            convert_classic_histograms_to_nhcb: fields.flag("convert_classic_histograms_to_nhcb", false)?,
            always_scrape_classic_histograms: fields.flag("always_scrape_classic_histograms", false)?,
            extra_scrape_metrics: fields.flag("extra_scrape_metrics", false)?,
        })
    }
}

/// A duration in which zero stands for unset, as in Prometheus.
pub(super) fn interval(fields: &mut Fields<'_>, name: &'static str) -> Result<Option<Duration>, YamlError> {
    Ok(fields.read(name, At::duration)?.filter(|duration| !duration.is_zero()))
}

pub(super) fn failure_log(fields: &mut Fields<'_>, dir: &Path) -> Result<Option<PathBuf>, YamlError> {
    let path = fields.text("scrape_failure_log_file")?;
    Ok((!path.is_empty()).then(|| join_dir(dir, &path)))
}

/// The limits that `global` and a job have in common; zero is no limit.
pub(super) fn read_limits(fields: &mut Fields<'_>) -> Result<ScrapeLimits, YamlError> {
    let body_size_bytes = fields
        .read("body_size_limit", At::size_bytes)?
        .filter(|limit| *limit > 0);
    let mut limit =
        |name| -> Result<Option<u64>, YamlError> { Ok(fields.read(name, At::count)?.filter(|limit| *limit > 0)) };
    Ok(ScrapeLimits {
        body_size_bytes,
        samples: limit("sample_limit")?,
        targets: limit("target_limit")?,
        labels: limit("label_limit")?,
        label_name_bytes: limit("label_name_length_limit")?,
        label_value_bytes: limit("label_value_length_limit")?,
        keep_dropped_targets: limit("keep_dropped_targets")?,
        native_histogram_buckets: None,
        native_histogram_min_bucket_factor: None,
    })
}

pub(super) fn protocol(at: &At<'_>) -> Result<ScrapeProtocol, YamlError> {
    let text = at.text()?;
    ScrapeProtocol::ALL
        .into_iter()
        .find(|protocol| protocol.name() == text)
        .ok_or_else(|| {
            let supported = ScrapeProtocol::ALL.map(ScrapeProtocol::name).join(" ");
            at.error(format!("unknown scrape protocol {text}, supported: [{supported}]"))
        })
}

pub(super) fn protocols(at: &At<'_>) -> Result<Vec<ScrapeProtocol>, YamlError> {
    let mut all: Vec<ScrapeProtocol> = Vec::new();
    for item in at.items()? {
        let protocol = protocol(&item)?;
        if all.contains(&protocol) {
            return Err(item.error(format!("duplicated protocol in scrape_protocols: {}", protocol.name())));
        }
        all.push(protocol);
    }
    if all.is_empty() {
        return Err(at.error("scrape_protocols cannot be empty"));
    }
    Ok(all)
}

/// The empty text is unset.
pub(super) fn validation(at: &At<'_>) -> Result<Option<NameValidation>, YamlError> {
    match at.text()? {
        "" => Ok(None),
        "utf8" => Ok(Some(NameValidation::Utf8)),
        "legacy" => Ok(Some(NameValidation::Legacy)),
        other => Err(at.error(format!("unrecognized ValidationScheme: {other:?} (utf8 or legacy)"))),
    }
}

/// The empty text is unset.
pub(super) fn escaping(at: &At<'_>) -> Result<Option<NameEscaping>, YamlError> {
    let all = [
        NameEscaping::AllowUtf8,
        NameEscaping::Underscores,
        NameEscaping::Dots,
        NameEscaping::Values,
    ];
    let text = at.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let found = all.into_iter().find(|escaping| escaping.name() == text);
    found.map(Some).ok_or_else(|| {
        at.error(format!(
            "unknown name escaping method specified, must be one of 'allow-utf-8', 'underscores', 'dots', or \
             'values', got {text:?}"
        ))
    })
}
