//! `file_sd_configs`: files that others write, looked at every second and read anew when they change.

use super::{BadGroups, Groups, parse_groups};
use crate::config::{FileSdConfig, TargetGroup};
use crate::metrics::ScraperMetrics;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often files are looked at for changes.
const POLL: Duration = Duration::from_secs(1);

/// A larger file is refused; it would hold some million targets.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What tells that a file was written or replaced: inode, size, time of the last change in nanoseconds.
type Stamp = (u64, u64, i128);

pub(super) struct FileSource {
    config: FileSdConfig,
    metrics: Arc<ScraperMetrics>,
    files: BTreeMap<PathBuf, Known>,
}

/// The last good state of a file.
#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    groups: Vec<TargetGroup>,
}

impl FileSource {
    pub(super) fn new(config: FileSdConfig, metrics: Arc<ScraperMetrics>) -> Self {
        Self {
            config,
            metrics,
            files: BTreeMap::new(),
        }
    }

    /// Reads the files, then keeps looking.
    pub(super) async fn start(
        mut self,
        job: String,
        changed: mpsc::UnboundedSender<String>,
        cancel: CancellationToken,
    ) -> watch::Receiver<Groups> {
        self = self.scan(true).await.0;
        let (sender, receiver) = watch::channel(self.groups());
        tokio::spawn(async move {
            let mut last_full = tokio::time::Instant::now();
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(POLL.min(self.config.refresh_interval)) => {}
                }
                let full = last_full.elapsed() >= self.config.refresh_interval;
                if full {
                    last_full = tokio::time::Instant::now();
                }
                let differs;
                (self, differs) = self.scan(full).await;
                if differs {
                    sender.send_replace(self.groups());
                    if changed.send(job.clone()).is_err() {
                        return;
                    }
                }
            }
        });
        receiver
    }

    fn groups(&self) -> Groups {
        Arc::new(self.files.values().flat_map(|f| f.groups.iter().cloned()).collect())
    }

    /// Looks at all files on a thread of its own; whether the groups have changed.
    async fn scan(self, full: bool) -> (Self, bool) {
        let (config, metrics) = (self.config.clone(), Arc::clone(&self.metrics));
        tokio::task::spawn_blocking(move || {
            let mut source = self;
            let differs = source.scan_now(full);
            (source, differs)
        })
        .await
        .unwrap_or_else(|e| {
            warn!(error = %e, "reading target files failed");
            (Self::new(config, metrics), false)
        })
    }

    fn scan_now(&mut self, full: bool) -> bool {
        let timer = full.then(|| self.metrics.file_read_seconds.start_timer());
        let mut found: Vec<PathBuf> = self.config.files.iter().flat_map(|p| expand(p)).collect();
        found.sort();
        found.dedup();
        let before = self.files.len();
        let metrics = &self.metrics;
        self.files.retain(|path, _| {
            let there = found.binary_search(path).is_ok();
            if !there {
                let _ = metrics
                    .file_mtime_seconds
                    .remove_label_values(&[path.to_string_lossy().as_ref()]);
            }
            there
        });
        let mut differs = self.files.len() != before;
        for path in found {
            differs |= self.look_at(path, full);
        }
        drop(timer);
        differs
    }

    fn look_at(&mut self, path: PathBuf, full: bool) -> bool {
        let known = self.files.entry(path.clone()).or_default();
        let stamp = stamp(&path);
        if stamp.is_some() && stamp == known.stamp && !full {
            return false;
        }
        let again = known.stamp == stamp;
        known.stamp = stamp;
        match read(&path) {
            Ok(groups) => {
                if let Some((_, _, nanos)) = stamp {
                    let seconds = nanos as f64 / 1e9;
                    self.metrics
                        .file_mtime_seconds
                        .with_label_values(&[path.to_string_lossy().as_ref()])
                        .set(seconds);
                }
                let differs = known.groups != groups;
                known.groups = groups;
                differs
            }
            Err(e) => {
                // The last good groups stay. Said once per version of the file.
                self.metrics.file_read_errors.inc();
                if !again {
                    warn!(error = %e, "target file not read, its last good targets stay");
                }
                false
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    let nanos = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Some((meta.ino(), meta.len(), nanos))
}

fn read(path: &Path) -> Result<Vec<TargetGroup>, BadGroups> {
    let bad = |reason: String| BadGroups {
        path: path.display().to_string(),
        reason,
    };
    let length = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(bad(format!(
            "{length} bytes are more than the {MAX_FILE_BYTES} allowed"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    parse_groups(path, &text)
}

/// The files that a path stands for: `*` in its last part is any run of characters.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let Some(name) = pattern.file_name().map(|n| n.to_string_lossy()) else {
        return Vec::new();
    };
    if !name.contains('*') {
        return vec![pattern.to_path_buf()];
    }
    let folder = match pattern.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|e| e.file_name());
    names
        .filter(|n| matches(&name, &n.to_string_lossy()))
        .map(|n| pattern.with_file_name(n))
        .collect()
}

/// Whether `name` is of the form `pattern`. As in a shell, a leading dot is matched by a dot only.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_names() {
        for (pattern, name, wanted) in [
            ("*.yml", "a.yml", true),
            ("a*.yml", "b.yml", false),
            ("a*b*.json", "axxbyy.json", true),
            ("a*b.json", "axc.json", false),
            ("*", "anything", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn files_that_change_break_or_go_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(ScraperMetrics::register(&registry).unwrap());
        let config = FileSdConfig {
            files: vec![folder.path().join("*.json")],
            refresh_interval: Duration::from_secs(300),
        };
        let mut source = FileSource::new(config, Arc::clone(&metrics));
        let targets =
            |source: &FileSource| -> Vec<String> { source.groups().iter().flat_map(|g| g.targets.clone()).collect() };
        assert!(!source.scan_now(true));
        let path = folder.path().join("a.json");
        std::fs::write(&path, r#"[{"targets":["one"]}]"#).unwrap();
        assert!(source.scan_now(false));
        assert_eq!(targets(&source), ["one"]);
        assert!(!source.scan_now(false));
        std::fs::write(&path, "broken").unwrap();
        assert!(!source.scan_now(false));
        assert_eq!(targets(&source), ["one"]);
        assert_eq!(metrics.file_read_errors.get(), 1);
        std::fs::write(&path, r#"[{"targets":["two"]}]"#).unwrap();
        assert!(source.scan_now(false));
        assert_eq!(targets(&source), ["two"]);
        std::fs::remove_file(&path).unwrap();
        assert!(source.scan_now(false));
        assert!(targets(&source).is_empty());
    }
}
