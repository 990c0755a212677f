//! A target: what discovery found, relabelled, checked, and made into a URL.

use crate::config::ScrapeConfig;
use crate::config::TargetGroup;
use gnomon_model::duration::{format_duration_ms, parse_duration_ms};
use gnomon_model::labels::Quoted;
use gnomon_model::relabel;
use gnomon_model::{Labels, LabelsBuilder, TargetId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use url::Url;
use url::form_urlencoded;

const ADDRESS: &str = "__address__";
const SCHEME: &str = "__scheme__";
const METRICS_PATH: &str = "__metrics_path__";
const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
const PARAM_PREFIX: &str = "__param_";
const META_PREFIX: &str = "__meta_";
const RESERVED_PREFIX: &str = "__";

/// One thing to scrape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub id: TargetId,
    /// The job of the configuration that found it.
    pub pool: String,
    /// Before relabelling.
    pub discovered: Labels,
    /// Those that its series get.
    pub labels: Labels,
    /// Of nobody where the address is none: see `error`.
    pub url: Url,
    /// Why it cannot be asked: each scrape fails with it.
    pub error: Option<Arc<str>>,
    /// The URL as it is shown: with the address as it was given (a [`Url`] leaves out a port that is the scheme's own).
    pub shown_url: String,
    pub interval: Duration,
    /// Greater than zero, at most `interval`.
    pub timeout: Duration,
}

/// What became of something discovered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    Active(Box<Target>),
    /// Relabelling dropped it; its discovered labels.
    Dropped(Labels),
}

/// Why something discovered is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instance {index} in group {group}: {reason}")]
pub(crate) struct BadTarget {
    pub index: usize,
    pub group: String,
    pub reason: String,
}

/// Makes the targets of one group.
pub(crate) fn targets_of(config: &ScrapeConfig, group: &TargetGroup) -> Vec<Result<Found, BadTarget>> {
    let make = |(index, address): (usize, &String)| {
        let discovered = discovered_labels(config, group, address);
        resolve(config, discovered).map_err(|reason| BadTarget {
            index,
            group: group.source.clone(),
            reason,
        })
    };
    group.targets.iter().enumerate().map(make).collect()
}

/// The labels that relabelling begins with.
fn discovered_labels(config: &ScrapeConfig, group: &TargetGroup, address: &str) -> Labels {
    let mut labels = LabelsBuilder::from_labels(group.labels.as_ref());
    labels.set(ADDRESS, address);
    let ms = |d: Duration| format_duration_ms(i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    for (name, value) in [
        ("job", config.job_name.as_str()),
        (INTERVAL, &ms(config.scrape_interval)),
        (TIMEOUT, &ms(config.scrape_timeout)),
        (METRICS_PATH, &config.metrics_path),
        (SCHEME, config.scheme.as_str()),
    ] {
        if labels.get(name).is_empty() {
            labels.set(name, value);
        }
    }
    for (name, values) in &config.params {
        let label = format!("{PARAM_PREFIX}{name}");
        if let Some(first) = values.first()
            && labels.get(&label).is_empty()
        {
            labels.set(&label, first);
        }
    }
    labels.build()
}

fn resolve(config: &ScrapeConfig, discovered: Labels) -> Result<Found, String> {
    let mut labels = LabelsBuilder::from_labels(discovered.as_ref());
    if !relabel::process(&mut labels, &config.relabel_configs) {
        return Ok(Found::Dropped(discovered));
    }
    let address = labels.get(ADDRESS).to_owned();
    if address.is_empty() {
        return Err("no address".to_owned());
    }
    if address.contains('/') {
        return Err(format!("{} is not a valid hostname", Quoted(&address)));
    }
    let interval = positive_duration(labels.get(INTERVAL), "interval")?;
    let timeout = positive_duration(labels.get(TIMEOUT), "timeout")?;
    if timeout > interval {
        return Err(format!(
            "scrape timeout cannot be greater than scrape interval ({} > {})",
            Quoted(labels.get(TIMEOUT)),
            Quoted(labels.get(INTERVAL))
        ));
    }
    labels.retain(|name, _| !name.starts_with(META_PREFIX));
    if labels.get("instance").is_empty() {
        labels.set("instance", &address);
    }
    let (told_by, url, shown_url, error) = match url_of(config, &labels) {
        Ok(url) => {
            let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
            let shown_url = format!("{}://{address}{}{query}", url.scheme(), url.path());
            (url.to_string(), url, shown_url, None)
        }
        // A typo is a target that is down, and pages whoever is paged then.
        Err(why) => {
            let shown_url = format!("{}://{address}{}", labels.get(SCHEME), labels.get(METRICS_PATH));
            let error = format!("Get {}: {why}", Quoted(&shown_url));
            let params = labels.iter().filter(|(name, _)| name.starts_with(PARAM_PREFIX));
            let told_by = params.fold(shown_url.clone(), |told, (name, value)| {
                format!("{told}\n{name}={value}")
            });
            let nobody = Url::parse("http://invalid./").map_err(|e| e.to_string())?;
            (told_by, nobody, shown_url, Some(error.into()))
        }
    };
    labels.retain(|name, _| !name.starts_with(RESERVED_PREFIX));
    let labels = labels.build();
    Ok(Found::Active(Box::new(Target {
        id: identify(&config.job_name, &labels, &told_by),
        pool: config.job_name.clone(),
        discovered,
        labels,
        url,
        error,
        shown_url,
        interval,
        timeout,
    })))
}

fn positive_duration(text: &str, what: &str) -> Result<Duration, String> {
    let ms = parse_duration_ms(text).map_err(|e| format!("error parsing scrape {what}: {e}"))?;
    match u64::try_from(ms) {
        Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("scrape {what} cannot be 0")),
    }
}

fn url_of(config: &ScrapeConfig, labels: &LabelsBuilder) -> Result<Url, String> {
    let mut params: BTreeMap<&str, Vec<&str>> = config
        .params
        .iter()
        .map(|(name, values)| (name.as_str(), values.iter().map(String::as_str).collect()))
        .collect();
    for (name, value) in labels.iter() {
        let Some(name) = name.strip_prefix(PARAM_PREFIX) else {
            continue;
        };
        match params.entry(name).or_default() {
            values if values.is_empty() => values.push(value),
            values => values[0] = value,
        }
    }
    let (scheme, address) = (labels.get(SCHEME), labels.get(ADDRESS));
    if !matches!(scheme, "http" | "https") {
        return Err(format!("unsupported protocol scheme {}", Quoted(scheme)));
    }
    // They would end the address, and what follows would be asked, or sent as a password.
    if address.contains(['#', '?', '@', '\\']) || address.contains(char::is_whitespace) {
        return Err(format!("{} is not a valid address: host:port is", Quoted(address)));
    }
    let path = labels.get(METRICS_PATH);
    let slash = if path.starts_with('/') { "" } else { "/" };
    // Everything that is not the path's own is escaped: a `?` in a path is a part of it.
    let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    let mut url = Url::parse(&format!("{scheme}://{address}{slash}{path}"))
        .map_err(|e| format!("{} is not a valid address: {e}", Quoted(address)))?;
    if !params.is_empty() {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, values) in &params {
            for value in values {
                query.append_pair(name, value);
            }
        }
        url.set_query(Some(&query.finish()));
    }
    Ok(url)
}

/// Two paths of one host are two targets; so is one URL under two label sets.
fn identify(job: &str, labels: &Labels, url: &str) -> TargetId {
    let mut bytes = Vec::with_capacity(labels.as_bytes().len() + job.len() + url.len() + 16);
    for part in [job.as_bytes(), labels.as_bytes(), url.as_bytes()] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    TargetId(xxhash_rust::xxh3::xxh3_64(&bytes))
}

impl Target {
    /// When this target is scraped within each interval, counted from multiples of the interval since the epoch: it is
    /// a function of the target alone, so that whoever scrapes it keeps its rhythm, and targets spread.
    #[must_use]
    pub(crate) fn offset(&self) -> Duration {
        let interval = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(self.id.0 % interval)
    }
}

#[cfg(test)]
mod tests;
