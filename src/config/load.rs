//! From files to a configuration.

use super::expand::expand;
use super::sections::{self, OTLP, REMOTE_READ, REMOTE_WRITE, RUNTIME, STORAGE, TRACING};
use super::show::Shown;
use super::{Config, ConfigError, GlobalConfig, StorageConfig, UnsupportedSection};
use gnomon_ingester::otlp::OtlpSettings;
use gnomon_model::LabelsBuilder;
use gnomon_model::relabel::NameRules;
use gnomon_model::yaml::{self, At, Fields, Node, Out, YamlError};
use gnomon_scraper::config::shape::Around;
use gnomon_scraper::config::{NameValidation, ScrapeConfig, ScrapeDefaults, join_dir};
use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// Reads and checks a configuration file and the scrape configuration files it names.
///
/// `environment` gives the value of a variable, for external labels.
///
/// # Errors
/// The first thing that is wrong, with file, line, column and field.
pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    parse(&read_text(path)?, path, environment)
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unread = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unread)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            limit_bytes: MAX_FILE_BYTES,
        });
    }
    String::from_utf8(bytes).map_err(|e| ConfigError::NotText {
        path: path.to_owned(),
        valid_up_to: e.utf8_error().valid_up_to(),
    })
}

/// The same for a text that stands (or would stand) at `path`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let invalid = |error| ConfigError::Invalid {
        path: path.to_owned(),
        error,
    };
    let root = yaml::parse(text).map_err(invalid)?;
    let mut loader = Loader::new(path, environment);
    loader.checksum.update(text.as_bytes());
    let files = loader.read_root(&root).map_err(invalid)?;
    loader.read_scrape_files(&files)?;
    Ok(loader.finish())
}

/// The largest file there is any use for; more is a device or a mistake.
const MAX_FILE_BYTES: u64 = 64 << 20;

struct Loader<'a> {
    path: &'a Path,
    dir: PathBuf,
    environment: &'a dyn Fn(&str) -> Option<String>,
    global: GlobalConfig,
    names: NameRules,
    scrape_configs: Vec<Arc<ScrapeConfig>>,
    own_scrape_configs: usize,
    /// Of the texts of all files.
    checksum: Xxh3,
    /// Where each job was found first.
    jobs: HashMap<String, PathBuf>,
    storage: StorageConfig,
    otlp: OtlpSettings,
    rule_files: Vec<PathBuf>,
    unsupported: Vec<UnsupportedSection>,
    warnings: Vec<String>,
    shown: Shown,
}

const LATER: &str = "this version does not support it yet";

impl<'a> Loader<'a> {
    fn new(path: &'a Path, environment: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let global = GlobalConfig {
            scrape: ScrapeDefaults::default(),
            evaluation_interval: Duration::from_secs(60),
            rule_query_offset: Duration::ZERO,
            query_log_file: None,
            external_labels: gnomon_model::Labels::empty(),
        };
        Self {
            path,
            dir: path.parent().map(Path::to_owned).unwrap_or_default(),
            environment,
            global,
            names: NameRules::Utf8,
            scrape_configs: Vec::new(),
            own_scrape_configs: 0,
            checksum: Xxh3::new(),
            jobs: HashMap::new(),
            storage: StorageConfig::default(),
            otlp: OtlpSettings::default(),
            rule_files: Vec::new(),
            unsupported: Vec::new(),
            warnings: Vec::new(),
            shown: Shown::default(),
        }
    }

    /// Reads all of the main file; gives the paths of its `scrape_config_files`.
    fn read_root(&mut self, root: &Node) -> Result<Vec<PathBuf>, YamlError> {
        let mut fields = At::root(root).fields()?;
        if let Some(at) = fields.get("global") {
            self.read_global(&at)?;
        }
        self.names = NameRules::from(self.global.scrape.name_validation);
        self.shown.global = self.global.to_out();
        let dir = self.dir.clone();
        let around = Around {
            dir: &dir,
            names: self.names,
        };
        if let Some(at) = fields.get("runtime") {
            self.shown.runtime = Out::Map(RUNTIME.read(&at, around)?.fields);
        }
        if let Some(at) = fields.get("alerting") {
            self.shown.alerting = sections::read_alerting(&at, around)?;
            if !self.shown.alerting.is_empty() {
                self.note("alerting", &at, LATER);
            }
        }
        self.rule_files = self.patterns(&mut fields, "rule_files", "invalid rule file path")?;
        if let Some(at) = fields.get("rule_files").filter(|_| !self.rule_files.is_empty()) {
            self.note("rule_files", &at, LATER);
        }
        let files = self.patterns(&mut fields, "scrape_config_files", "invalid scrape config file path")?;
        self.read_scrape_configs(&mut fields, self.path)?;
        self.own_scrape_configs = self.scrape_configs.len();
        self.shown.scrape_configs = Out::List(self.scrape_configs.iter().map(|config| config.to_out()).collect());
        self.shown.rule_files = Out::texts(self.rule_files.iter().map(|path| path.to_string_lossy()));
        self.shown.scrape_config_files = Out::texts(files.iter().map(|path| path.to_string_lossy()));
        self.read_storage(&mut fields, around)?;
        self.read_later(&mut fields, around)?;
        fields.finish()?;
        Ok(files)
    }

    fn read_global(&mut self, at: &At<'_>) -> Result<(), YamlError> {
        let mut fields = at.fields()?;
        let scrape = ScrapeDefaults::read(&mut fields, &self.dir)?;
        let evaluation_interval = fields
            .read("evaluation_interval", At::duration)?
            .filter(|d| !d.is_zero());
        let query_log_file = fields.text("query_log_file")?;
        self.global = GlobalConfig {
            scrape,
            evaluation_interval: evaluation_interval.unwrap_or(self.global.evaluation_interval),
            rule_query_offset: fields.read("rule_query_offset", At::duration)?.unwrap_or_default(),
            query_log_file: (!query_log_file.is_empty()).then(|| join_dir(&self.dir, &query_log_file)),
            external_labels: gnomon_model::Labels::empty(),
        };
        if let Some(at) = fields.get("query_log_file").filter(|_| !query_log_file.is_empty()) {
            self.note("query_log_file", &at, LATER);
        }
        if let Some(at) = fields.get("external_labels") {
            self.global.external_labels = self.read_external_labels(&at)?;
        }
        fields.finish()
    }

    fn read_external_labels(&mut self, at: &At<'_>) -> Result<gnomon_model::Labels, YamlError> {
        let names = NameRules::from(self.global.scrape.name_validation);
        let mut labels = LabelsBuilder::default();
        for (name, at) in at.entries()? {
            if !names.allow(name) {
                return Err(at.error(format!("{name:?} is not a valid label name")));
            }
            let value = if at.is_null() { "" } else { at.text()? };
            let expanded = expand(value, |variable| {
                let value = (self.environment)(variable).unwrap_or_default();
                if value.is_empty() {
                    let line = at.mark();
                    let place = format!("{}:{line}: {}", self.path.display(), at.path());
                    self.warnings
                        .push(format!("{place}: the environment variable {variable} is empty"));
                }
                value
            });
            labels.set(name, &expanded);
        }
        Ok(labels.build())
    }

    /// Paths of which only the last part may hold `*`.
    fn patterns(
        &self,
        fields: &mut Fields<'_>,
        name: &'static str,
        complaint: &str,
    ) -> Result<Vec<PathBuf>, YamlError> {
        let pattern = |at: &At<'_>| {
            let text = at.text()?;
            let (_, after) = text.split_once('*').unwrap_or((text, ""));
            if after.contains('/') {
                return Err(at.error(format!("{complaint} {text:?}: only its last part may hold *")));
            }
            Ok(join_dir(&self.dir, text))
        };
        fields.items(name)?.iter().map(pattern).collect()
    }

    fn read_scrape_configs(&mut self, fields: &mut Fields<'_>, path: &Path) -> Result<(), YamlError> {
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        for at in fields.items("scrape_configs")? {
            let config = ScrapeConfig::read(&at, &self.global.scrape, &dir)?;
            if let Some(first) = self.jobs.insert(config.job_name.clone(), path.to_owned()) {
                let message = format!(
                    "found multiple scrape configs with job name {:?}, first found in {}",
                    config.job_name,
                    first.display()
                );
                return Err(at.fields()?.error_at("job_name", message));
            }
            for other in &config.unsupported_discovery {
                self.note_once(other.section, path, other.mark.line, LATER);
            }
            if config.convert_classic_histograms_to_nhcb {
                let why = "classic histograms are stored as the series that they are, and native ones as native";
                self.note_once("convert_classic_histograms_to_nhcb", path, at.mark().line, why);
            }
            self.scrape_configs.push(Arc::new(config));
        }
        Ok(())
    }

    fn read_storage(&mut self, fields: &mut Fields<'_>, around: Around<'_>) -> Result<(), YamlError> {
        let Some(at) = fields.get("storage") else {
            return Ok(());
        };
        self.shown.storage = Out::Map(STORAGE.read(&at, around)?.fields);
        // The shape holds what is shown; what takes effect is read once more as what it is.
        let mut storage = at.fields()?;
        if let Some(at) = storage.get("exemplars") {
            self.note("storage.exemplars", &at, "the room for exemplars is not adjustable");
        }
        let Some(tsdb) = storage.get("tsdb") else {
            return Ok(());
        };
        let mut tsdb = tsdb.fields()?;
        self.storage.out_of_order_time_window = tsdb.read("out_of_order_time_window", At::duration)?;
        for name in ["stale_series_compaction_threshold", "chunk_encoding"] {
            if let Some(at) = tsdb.get(name) {
                self.note(
                    &format!("storage.tsdb.{name}"),
                    &at,
                    "it is about a store of another make",
                );
            }
        }
        if let Some(at) = tsdb.get("retention") {
            let mut retention = at.fields()?;
            let time = retention.read("time", At::duration)?;
            self.storage.retention_time = time.filter(|time| !time.is_zero());
            self.storage.retention_size_bytes = retention.read("size", At::size_bytes)?.filter(|bytes| *bytes > 0);
            if let Some(at) = retention.get("percentage") {
                self.note(
                    "storage.tsdb.retention.percentage",
                    &at,
                    "give the size in bytes instead",
                );
            }
        }
        Ok(())
    }

    fn read_later(&mut self, fields: &mut Fields<'_>, around: Around<'_>) -> Result<(), YamlError> {
        if let Some(at) = fields.get("tracing") {
            self.shown.tracing = Out::Map(TRACING.read(&at, around)?.fields);
            self.note("tracing", &at, LATER);
        }
        for (name, shape) in [("remote_write", REMOTE_WRITE), ("remote_read", REMOTE_READ)] {
            let Some(at) = fields.get(name) else { continue };
            let ends = sections::read_remotes(&at, &shape, around)?;
            if !ends.is_empty() {
                self.note(name, &at, LATER);
            }
            self.shown.remote.push((name.to_owned(), ends));
        }
        if let Some(at) = fields.get("otlp") {
            let otlp = OTLP.read(&at, around)?;
            let strategy = otlp.text("translation_strategy");
            let needs_utf8 = matches!(strategy, "NoTranslation" | "NoUTF8EscapingWithSuffixes");
            if needs_utf8 && self.global.scrape.name_validation == NameValidation::Legacy {
                let message = format!("OTLP translation strategy {strategy:?} is not allowed when UTF8 is disabled");
                return Err(at.fields()?.error_at("translation_strategy", message));
            }
            self.otlp = sections::otlp_settings(&otlp);
            self.shown.otlp = Out::Map(otlp.fields);
        }
        Ok(())
    }

    fn note(&mut self, section: &str, at: &At<'_>, why: &'static str) {
        self.note_once(section, self.path, at.mark().line, why);
    }

    fn note_once(&mut self, section: &str, path: &Path, line: u32, why: &'static str) {
        if self.unsupported.iter().all(|known| known.section != section) {
            self.unsupported.push(UnsupportedSection {
                section: section.to_owned(),
                path: path.to_owned(),
                line,
                why,
            });
        }
    }

    fn read_scrape_files(&mut self, patterns: &[PathBuf]) -> Result<(), ConfigError> {
        for pattern in patterns {
            for path in matching(pattern)? {
                let text = read_text(&path)?;
                let invalid = |error| ConfigError::Invalid {
                    path: path.clone(),
                    error,
                };
                self.checksum.update(text.as_bytes());
                let root = yaml::parse(&text).map_err(invalid)?;
                let mut fields = At::root(&root).fields().map_err(invalid)?;
                self.read_scrape_configs(&mut fields, &path).map_err(invalid)?;
                fields.finish().map_err(invalid)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Config {
        let redacted_yaml = self.shown.to_yaml();
        let without_labels = (!self.global.external_labels.is_empty()).then(|| {
            let mut global = self.global.clone();
            global.external_labels = gnomon_model::Labels::empty();
            self.shown.global = global.to_out();
            self.shown.to_yaml()
        });
        Config {
            path: self.path.to_owned(),
            global: self.global,
            scrape_configs: self.scrape_configs,
            storage: self.storage,
            otlp: self.otlp,
            rule_files: self.rule_files,
            unsupported: self.unsupported,
            warnings: self.warnings,
            redacted_yaml,
            without_labels,
            own_scrape_configs: self.own_scrape_configs,
            checksum: self.checksum.digest128(),
        }
    }
}

/// The files that a pattern names, sorted. As in Prometheus, one that names none is no mistake.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let (Some(dir), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    if !name.contains(['*', '?', '[']) {
        return Ok(if pattern.exists() {
            vec![pattern.to_owned()]
        } else {
            Vec::new()
        });
    }
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let listing = match std::fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(ConfigError::Read {
                path: dir.to_owned(),
                source,
            });
        }
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|source| ConfigError::Read {
            path: dir.to_owned(),
            source,
        })?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|file| glob_match(name.as_bytes(), file.as_bytes()))
        {
            found.push(pattern.with_file_name(entry.file_name()));
        }
    }
    found.sort();
    Ok(found)
}

/// `*` is any run of bytes, `?` any one; time is at most the product of the lengths.
fn glob_match(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on from when what follows the last star does not fit: one byte further.
    let mut last_star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p + 1, n));
                p += 1;
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(byte) if *byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((after_star, at)) = last_star else {
                    return false;
                };
                last_star = Some((after_star, at + 1));
                (p, n) = (after_star, at + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
