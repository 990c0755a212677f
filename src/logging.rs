//! Log lines in Prometheus' two formats, logfmt and JSON, on standard error.

use anyhow::{Context as _, bail};
use gnomon_cluster::layers::TraceContext;
use parking_lot::Mutex;
use std::fmt::{self, Write as _};
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// How a line is written (`--log.format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Logfmt,
    Json,
}

/// What `--log.level` takes.
pub const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

/// The level in force and what changes it, once logging has started: a process has one log.
static RUNNING: OnceLock<(reload::Handle<EnvFilter, Registry>, Mutex<String>)> = OnceLock::new();

/// Starts logging. `level` is one of [`LEVELS`]; libraries below gnomon never speak below warn.
///
/// # Errors
/// When logging was started before.
pub fn start(level: &str, format: Format) -> anyhow::Result<()> {
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(Lines(format));
    let (filter, handle) = reload::Layer::new(filter(level));
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    // Only who was the first to start comes here.
    let _ = RUNNING.set((handle, Mutex::new(level.to_owned())));
    Ok(())
}

/// The level in force; none before logging has started.
#[must_use]
pub fn level() -> Option<String> {
    RUNNING.get().map(|(_, level)| level.lock().clone())
}

/// Changes the level, for as long as the process runs.
///
/// # Errors
/// When it is none of [`LEVELS`], or logging has not started.
pub fn set_level(level: &str) -> anyhow::Result<()> {
    if !LEVELS.contains(&level) {
        bail!("log level {level:?} is none of {}", LEVELS.join(", "));
    }
    let (handle, in_force) = RUNNING.get().context("logging has not started")?;
    let mut in_force = in_force.lock();
    let from = std::mem::replace(&mut *in_force, level.to_owned());
    // Said under the wider of both: after it grew quiet nobody would know why.
    let say = || tracing::warn!(from, to = level, "log level changed");
    if from == "error" {
        handle.reload(filter(level))?;
        say();
    } else {
        say();
        handle.reload(filter(level))?;
    }
    Ok(())
}

/// The filter of a level: gnomon's crates at it, everything else at warn (or error). What openraft warns of is each
/// message that a peer which is away does not take, many times a second; who leads is told by gnomon itself.
fn filter(level: &str) -> EnvFilter {
    let others = if level == "error" { "error" } else { "warn" };
    let mut text = others.to_owned();
    if level != "debug" {
        text.push_str(",openraft=error");
    }
    for part in [
        "",
        "_model",
        "_proto",
        "_promql",
        "_tsdb",
        "_cluster",
        "_scraper",
        "_ingester",
        "_querier",
        "_compactor",
    ] {
        let _ = write!(text, ",gnomon{part}={level}");
    }
    EnvFilter::new(text)
}

/// What openraft warns of at every ordinary election: answers to an earlier vote that come after it.
fn is_noise(target: &str, message: &str) -> bool {
    target == "openraft::core::raft_core" && message.starts_with("A message will be ignored because")
}

/// The error and its causes, without those that the text before them tells already.
#[must_use]
pub fn error_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            let _ = write!(text, ": {told}");
        }
        cause = error.source();
    }
    text
}

struct Lines(Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if is_noise(event.metadata().target(), &fields.message) {
            return Ok(());
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let source = event
            .metadata()
            .module_path()
            .unwrap_or("gnomon")
            .trim_start_matches("gnomon_");
        match self.0 {
            Format::Logfmt => {
                write!(
                    out,
                    "time={time} level={level} source={source} msg={}",
                    Value(&fields.message)
                )?;
                for (name, value) in &fields.rest {
                    write!(out, " {name}={}", Value(value))?;
                }
                if let Some(trace) = TraceContext::current() {
                    write!(out, " trace={trace}")?;
                }
                writeln!(out)
            }
            Format::Json => {
                let mut line = serde_json::Map::new();
                for (name, value) in [
                    ("time", time.as_str()),
                    ("level", level),
                    ("source", source),
                    ("msg", &fields.message),
                ] {
                    line.insert(name.to_owned(), value.into());
                }
                for (name, value) in fields.rest {
                    line.insert(name.to_owned(), value.into());
                }
                if let Some(trace) = TraceContext::current() {
                    line.insert("trace".to_owned(), trace.to_string().into());
                }
                writeln!(out, "{}", serde_json::Value::Object(line))
            }
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.rest.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, error_text(value));
    }
}

/// A logfmt value: quoted where it has to be.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::{Value, error_text};

    #[test]
    fn an_error_tells_each_cause_once() {
        let io = || std::io::Error::other("no room");
        let error = anyhow::Error::new(io()).context("file x: no room").context("start");
        assert_eq!(error_text(error.as_ref()), "start: file x: no room");
        let error = anyhow::Error::new(io()).context("no room for file x");
        assert_eq!(error_text(error.as_ref()), "no room for file x");
        let error = anyhow::Error::new(io()).context("file x");
        assert_eq!(error_text(error.as_ref()), "file x: no room");
    }

    #[test]
    fn values_are_quoted_only_where_they_must_be() {
        assert_eq!(Value("127.0.0.1:9090").to_string(), "127.0.0.1:9090");
        assert_eq!(Value("").to_string(), "\"\"");
        assert_eq!(Value("a b=\"c\"\n").to_string(), r#""a b=\"c\"\n""#);
    }
}
