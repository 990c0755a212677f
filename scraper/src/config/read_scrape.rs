//! One entry of `scrape_configs`.

use super::defaults::{self, ScrapeDefaults};
use super::discovery::{self, UnsupportedDiscovery};
use super::http::HttpClientConfig;
use super::read_relabel::read_relabel_configs;
use super::scrape::{NameEscaping, NameValidation, Scheme, ScrapeConfig, ScrapeLimits, ScrapeProtocol};
use super::targets::{FileSdConfig, TargetGroup};
use gnomon_model::relabel::NameRules;
use gnomon_model::yaml::{At, Fields, YamlError};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

impl ScrapeConfig {
    /// Reads one entry of `scrape_configs`; relative paths are relative to `dir`. That no other job has its name is for
    /// the caller to see.
    ///
    /// # Errors
    /// The first thing that is wrong with it, and where.
    pub fn read(at: &At<'_>, global: &ScrapeDefaults, dir: &Path) -> Result<Self, YamlError> {
        if at.is_null() {
            return Err(at.error("empty or null scrape config section"));
        }
        let mut fields = at.fields()?;
        let discovered = Discovered::read(&mut fields, dir)?;
        let job_name = fields.text("job_name")?;
        // Said last: a field whose name is misspelt comes first, `job` for `job_name` among them.
        let nameless = job_name
            .is_empty()
            .then(|| fields.error_at("job_name", "job_name is empty"));
        let (scrape_interval, scrape_timeout) = timing(&mut fields, global, &job_name)?;
        let (name_validation, name_escaping) = naming(&mut fields, global)?;
        let names = NameRules::from(name_validation);
        let rules = |fields: &mut Fields<'_>, name, what| read_relabel_configs(&fields.items(name)?, names, what);
        let relabel_configs = rules(
            &mut fields,
            "relabel_configs",
            "target relabeling rule in scrape config",
        )?;
        if relabel_configs.is_empty() {
            discovered.refuse_urls(&mut fields)?;
        }
        let native = fields.flag("scrape_native_histograms", global.scrape_native_histograms)?;
        let failure_log = defaults::failure_log(&mut fields, dir)?;
        let config = Self {
            job_name,
            scrape_interval,
            scrape_timeout,
            metrics_path: fields.read("metrics_path", At::text)?.unwrap_or("/metrics").to_owned(),
            scheme: fields.read("scheme", scheme)?.unwrap_or_default(),
            params: fields.read("params", params)?.unwrap_or_default(),
            honor_labels: fields.flag("honor_labels", false)?,
            zero_at_created: false,
            honor_timestamps: fields.flag("honor_timestamps", true)?,
            track_timestamps_staleness: fields.flag("track_timestamps_staleness", false)?,
            scrape_protocols: protocols(&mut fields, global, native)?,
            fallback_scrape_protocol: fields.read("fallback_scrape_protocol", defaults::protocol)?,
            scrape_native_histograms: native,
            always_scrape_classic_histograms: fields.flag(
                "always_scrape_classic_histograms",
                global.always_scrape_classic_histograms,
            )?,
            convert_classic_histograms_to_nhcb: fields.flag(
                "convert_classic_histograms_to_nhcb",
                global.convert_classic_histograms_to_nhcb,
            )?,
            extra_scrape_metrics: fields.flag("extra_scrape_metrics", global.extra_scrape_metrics)?,
            enable_compression: fields.flag("enable_compression", true)?,
            scrape_failure_log_file: failure_log.or_else(|| global.scrape_failure_log_file.clone()),
            limits: limits(&mut fields, &global.limits)?,
            name_validation,
            name_escaping,
            http: HttpClientConfig::read(&mut fields, dir)?,
            relabel_configs: relabel_configs.into(),
            metric_relabel_configs: rules(
                &mut fields,
                "metric_relabel_configs",
                "metric relabeling rule in scrape config",
            )?
            .into(),
            static_configs: discovered.static_configs,
            file_sd_configs: discovered.file_sd_configs,
            unsupported_discovery: discovered.unsupported,
        };
        fields.finish()?;
        nameless.map_or(Ok(config), Err)
    }
}

impl From<NameValidation> for NameRules {
    fn from(validation: NameValidation) -> Self {
        match validation {
            NameValidation::Utf8 => Self::Utf8,
            NameValidation::Legacy => Self::Legacy,
        }
    }
}

fn timing(fields: &mut Fields<'_>, global: &ScrapeDefaults, job_name: &str) -> Result<(Duration, Duration), YamlError> {
    let interval = defaults::interval(fields, "scrape_interval")?.unwrap_or(global.scrape_interval);
    let timeout = defaults::interval(fields, "scrape_timeout")?;
    if timeout.is_some_and(|timeout| timeout > interval) {
        let message =
            format!("scrape timeout greater than scrape interval for scrape config with job name {job_name:?}");
        return Err(fields.error_at("scrape_timeout", message));
    }
    Ok((interval, timeout.unwrap_or(global.scrape_timeout.min(interval))))
}

fn naming(fields: &mut Fields<'_>, global: &ScrapeDefaults) -> Result<(NameValidation, NameEscaping), YamlError> {
    let fitting = |validation| match validation {
        NameValidation::Utf8 => NameEscaping::AllowUtf8,
        NameValidation::Legacy => NameEscaping::Underscores,
    };
    let own_validation = fields
        .read("metric_name_validation_scheme", defaults::validation)?
        .flatten();
    let validation = own_validation.unwrap_or(global.name_validation);
    // A job that sets its own validation does not inherit an escaping that might contradict it.
    let inherited = if own_validation.is_some() {
        None
    } else {
        global.name_escaping
    };
    let own_escaping = fields
        .read("metric_name_escaping_scheme", defaults::escaping)?
        .flatten();
    let escaping = own_escaping.or(inherited).unwrap_or(fitting(validation));
    if escaping == NameEscaping::AllowUtf8 && validation == NameValidation::Legacy {
        return Err(fields.error_at(
            "metric_name_escaping_scheme",
            "utf8 metric names requested (metric_name_escaping_scheme: allow-utf-8) but validation scheme is not set \
             to UTF8",
        ));
    }
    Ok((validation, escaping))
}

fn protocols(
    fields: &mut Fields<'_>,
    global: &ScrapeDefaults,
    native_histograms: bool,
) -> Result<Vec<ScrapeProtocol>, YamlError> {
    let own = fields.read("scrape_protocols", defaults::protocols)?;
    Ok(own.or_else(|| global.scrape_protocols.clone()).unwrap_or_else(|| {
        // Only protobuf carries native histograms.
        let first = native_histograms.then_some(ScrapeProtocol::PrometheusProto);
        first.into_iter().chain(ScrapeProtocol::DEFAULT).collect()
    }))
}

fn limits(fields: &mut Fields<'_>, global: &ScrapeLimits) -> Result<ScrapeLimits, YamlError> {
    let own = defaults::read_limits(fields)?;
    Ok(ScrapeLimits {
        body_size_bytes: own.body_size_bytes.or(global.body_size_bytes),
        samples: own.samples.or(global.samples),
        targets: own.targets.or(global.targets),
        labels: own.labels.or(global.labels),
        label_name_bytes: own.label_name_bytes.or(global.label_name_bytes),
        label_value_bytes: own.label_value_bytes.or(global.label_value_bytes),
        keep_dropped_targets: own.keep_dropped_targets.or(global.keep_dropped_targets),
        native_histogram_buckets: fields
            .read("native_histogram_bucket_limit", At::count)?
            .filter(|limit| *limit > 0),
        native_histogram_min_bucket_factor: fields
            .read("native_histogram_min_bucket_factor", At::float)?
            .filter(|factor| *factor != 0.0),
    })
}

fn scheme(at: &At<'_>) -> Result<Scheme, YamlError> {
    match at.text()? {
        "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        other => Err(at.error(format!("{other:?} is neither http nor https"))),
    }
}

fn params(at: &At<'_>) -> Result<BTreeMap<String, Vec<String>>, YamlError> {
    at.entries()?
        .iter()
        .map(|(name, at)| Ok(((*name).to_owned(), at.texts()?)))
        .collect()
}

/// Where the targets come from; an Alertmanager's section has the same fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovered {
    pub static_configs: Vec<TargetGroup>,
    pub file_sd_configs: Vec<FileSdConfig>,
    pub unsupported: Vec<UnsupportedDiscovery>,
}

impl Discovered {
    /// Takes all `*_sd_configs` and `static_configs` from among the fields of a section.
    ///
    /// # Errors
    /// When one is malformed.
    pub fn read(fields: &mut Fields<'_>, dir: &Path) -> Result<Self, YamlError> {
        let mut static_configs = Vec::new();
        for (index, at) in fields.items("static_configs")?.iter().enumerate() {
            static_configs.push(TargetGroup::read(at, index.to_string())?);
        }
        let file_sd_configs = fields.items("file_sd_configs")?;
        Ok(Self {
            static_configs,
            file_sd_configs: file_sd_configs
                .iter()
                .map(|at| FileSdConfig::read(at, dir))
                .collect::<Result<_, _>>()?,
            unsupported: discovery::read_others(fields, dir)?,
        })
    }

    /// Without a rule that could make an address of it, a target that is a URL is a mistake.
    ///
    /// # Errors
    /// Names the first such target.
    pub fn refuse_urls(&self, fields: &mut Fields<'_>) -> Result<(), YamlError> {
        for group in fields.items("static_configs")? {
            for target in group.fields()?.items("targets")? {
                let text = target.text()?;
                if text.contains('/') {
                    return Err(target.error(format!("{text:?} is not a valid hostname")));
                }
            }
        }
        Ok(())
    }
}
