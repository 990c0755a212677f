//! `file_sd_configs`: files that others write, looked at every second and read anew when they change.

use super::{BadGroups, Groups, parse_groups};
use crate::config::{FileSdConfig, TargetGroup};
use crate::metrics::ScraperMetrics;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often files are looked at for changes.
const POLL: Duration = Duration::from_secs(1);

/// A look at the files that takes longer is said to hang.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Looks of all sources at once: those that hang leave threads to others.
static LOOKS: Semaphore = Semaphore::const_new(128);

/// A larger file is refused; it would hold some million targets.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What tells that a file was written or replaced: inode, size, time of the last change in nanoseconds.
type Stamp = (u64, u64, i128);

type Read = fn(&Path) -> Result<Vec<TargetGroup>, BadGroups>;

pub(super) struct FileSource {
    config: FileSdConfig,
    metrics: Arc<ScraperMetrics>,
    /// Not held while a file is read.
    files: Mutex<BTreeMap<PathBuf, Known>>,
    /// The groups are others than those told last.
    differs: AtomicBool,
    /// The file that is being looked at.
    at: Mutex<Option<PathBuf>>,
    read: Read,
}

/// The last good state of a file.
#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    groups: Vec<TargetGroup>,
}

/// Whom a source tells what it has.
pub(super) struct Told {
    pub(super) job: String,
    pub(super) changed: mpsc::UnboundedSender<String>,
}

impl FileSource {
    pub(super) fn new(config: FileSdConfig, metrics: Arc<ScraperMetrics>) -> Self {
        Self {
            config,
            metrics,
            files: Mutex::default(),
            differs: AtomicBool::new(false),
            at: Mutex::default(),
            read,
        }
    }

    /// Reads the files, and keeps looking. None until they were read once, or hang.
    pub(super) fn start(self, told: Told, cancel: CancellationToken) -> watch::Receiver<Option<Groups>> {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = Arc::new(self).run(&told, &sender) => {}
            }
        });
        receiver
    }

    async fn run(self: Arc<Self>, told: &Told, sender: &watch::Sender<Option<Groups>>) {
        let mut last_full = Instant::now();
        let mut full = true;
        loop {
            let Ok(permit) = LOOKS.acquire().await else { return };
            let source = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                source.look(full);
            });
            self.wait(look, told, sender).await;
            sleep(POLL.min(self.config.refresh_interval)).await;
            full = last_full.elapsed() >= self.config.refresh_interval;
            if full {
                last_full = Instant::now();
            }
        }
    }

    /// Waits for a look however long it takes, so that there is one at a time. Of one that hangs is taken what it has found
    /// until then.
    async fn wait(&self, look: JoinHandle<()>, told: &Told, sender: &watch::Sender<Option<Groups>>) {
        let mut look = look;
        let mut hangs = false;
        loop {
            let done = timeout(LOOK_LIMIT, &mut look).await;
            self.tell(told, sender);
            match done {
                Ok(result) => {
                    if let Err(e) = result {
                        warn!(error = %e, "reading target files failed");
                    } else if hangs {
                        info!(scrape_pool = %told.job, "target files can be read again");
                    }
                    return;
                }
                Err(_) if hangs => {}
                Err(_) => {
                    hangs = true;
                    self.metrics.file_read_errors.inc();
                    let file = self.at.lock().clone().or_else(|| self.config.files.first().cloned());
                    warn!(
                        scrape_pool = %told.job,
                        file = %file.unwrap_or_default().display(),
                        "target file cannot be read within {LOOK_LIMIT:?}, the last good targets stay until it can"
                    );
                }
            }
        }
    }

    fn tell(&self, told: &Told, sender: &watch::Sender<Option<Groups>>) {
        if self.differs.swap(false, Ordering::Relaxed) || sender.borrow().is_none() {
            sender.send_replace(Some(self.groups()));
            // Nobody hears it where the scraper ends.
            let _ = told.changed.send(told.job.clone());
        }
    }

    fn groups(&self) -> Groups {
        let files = self.files.lock();
        Arc::new(files.values().flat_map(|f| f.groups.iter().cloned()).collect())
    }

    /// Looks at all files. Blocks, on file systems that are away without end.
    fn look(&self, full: bool) {
        let timer = full.then(|| self.metrics.file_read_seconds.start_timer());
        let mut found: Vec<PathBuf> = self.config.files.iter().flat_map(|p| expand(p)).collect();
        found.sort();
        found.dedup();
        self.forget_all_but(&found);
        for path in found {
            *self.at.lock() = Some(path.clone());
            self.look_at(path, full);
        }
        *self.at.lock() = None;
        drop(timer);
    }

    fn forget_all_but(&self, found: &[PathBuf]) {
        self.files.lock().retain(|path, _| {
            let there = found.binary_search(path).is_ok();
            if !there {
                let label = [path.to_string_lossy()];
                let _ = self.metrics.file_mtime_seconds.remove_label_values(&label);
                self.differs.store(true, Ordering::Relaxed);
            }
            there
        });
    }

    fn look_at(&self, path: PathBuf, full: bool) {
        let stamp = stamp(&path);
        let before = {
            let mut files = self.files.lock();
            let known = files.entry(path.clone()).or_default();
            std::mem::replace(&mut known.stamp, stamp)
        };
        let again = before == stamp;
        if stamp.is_some() && again && !full {
            return;
        }
        match (self.read)(&path) {
            Ok(groups) => {
                if let Some((_, _, nanos)) = stamp {
                    let seconds = nanos as f64 / 1e9;
                    self.metrics
                        .file_mtime_seconds
                        .with_label_values(&[path.to_string_lossy().as_ref()])
                        .set(seconds);
                }
                let mut files = self.files.lock();
                let known = files.entry(path).or_default();
                if known.groups != groups {
                    known.groups = groups;
                    self.differs.store(true, Ordering::Relaxed);
                }
            }
            Err(e) => {
                // The last good groups stay. Said once per version of the file.
                self.metrics.file_read_errors.inc();
                if !again {
                    warn!(error = %e, "target file not read, its last good targets stay");
                }
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
    let found = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?;
    // To open a pipe would be to wait for whoever writes to it.
    if !found.is_file() {
        return Err(bad("is not a regular file".to_owned()));
    }
    let length = found.len();
    if length > MAX_FILE_BYTES {
        return Err(bad(format!(
            "{length} bytes are more than the {MAX_FILE_BYTES} allowed"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    parse_groups(path, &text)
}

/// What is wrong with target files, and the paths for which there are none; blocks.
pub(crate) fn check_targets(configs: &[FileSdConfig]) -> (Vec<BadGroups>, Vec<PathBuf>) {
    let (mut bad, mut missing) = (Vec::new(), Vec::new());
    for pattern in configs.iter().flat_map(|config| &config.files) {
        let mut paths = expand(pattern);
        paths.retain(|path| path != pattern || path.try_exists().unwrap_or(true));
        if paths.is_empty() {
            missing.push(pattern.clone());
        }
        bad.extend(paths.iter().filter_map(|path| read(path).err()));
    }
    (bad, missing)
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
mod tests;
