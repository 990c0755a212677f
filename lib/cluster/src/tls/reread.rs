//! What is made of files, and made again when they change.

use super::TlsError;
use arc_swap::ArcSwap;
use gnomon_model::Clock;
use parking_lot::Mutex;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files that have changed must stand still for so long before they are taken: one that is written in place is empty, or
/// half there, for a moment.
const STILL_FOR: Duration = Duration::from_millis(100);
/// Certificates, keys and configurations are smaller by far.
const MOST_BYTES: u64 = 4 << 20;

/// Tells whether a file is the one that was read. Replacing it changes the inode, writing to it the times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// None where there is no such file, or it cannot be looked at.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some(Stamp {
        inode: found.ino(),
        bytes: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// The files that were read for something, and as what.
#[derive(Clone, Debug, Default)]
pub struct Files(Vec<(PathBuf, Option<Stamp>)>);

impl Files {
    /// # Errors
    /// When the file is not there, cannot be read or is too large; the message names it.
    pub fn read(&mut self, path: &Path) -> Result<Vec<u8>, TlsError> {
        // Looked at before it is read: a change in between is seen the next time.
        self.0.push((path.to_owned(), stamp(path)));
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Ok(read) if read as u64 > MOST_BYTES => {
                let what = format!("{}: larger than {} MiB", path.display(), MOST_BYTES >> 20);
                Err(TlsError(what))
            }
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(TlsError(format!("{}: there is no such file", path.display())))
            }
            Err(error) => Err(TlsError(format!("{}: cannot be read: {error}", path.display()))),
        }
    }

    fn are_as_read(&self) -> bool {
        self.0.iter().all(|(path, read)| stamp(path) == *read)
    }
}

/// What came of reading, and of which files.
pub struct Made<T> {
    pub value: Result<T, TlsError>,
    pub files: Files,
}

/// Is given what is in force; none at the start.
type Make<T> = Box<dyn Fn(Option<&T>) -> Made<T> + Send + Sync>;

/// Something made of files.
pub struct Reread<T> {
    /// Of what, for the log.
    what: &'static str,
    make: Make<T>,
    current: ArcSwap<T>,
    state: Mutex<Looked>,
    clock: Arc<dyn Clock>,
}

struct Looked {
    files: Files,
    /// On the monotonic clock.
    at: Duration,
    /// Another is looking just now.
    is_looking: bool,
}

impl<T: Send + Sync + 'static> Reread<T> {
    /// `make` is given what is in force, or none now: it may refuse to put something in its place.
    ///
    /// # Errors
    /// When it cannot be made now.
    pub fn first(
        what: &'static str,
        clock: Arc<dyn Clock>,
        make: impl Fn(Option<&T>) -> Made<T> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, TlsError> {
        let made = make(None);
        let state = Looked {
            files: made.files,
            at: clock.monotonic(),
            is_looking: false,
        };
        Ok(Arc::new(Self {
            what,
            make: Box::new(make),
            current: ArcSwap::from_pointee(made.value?),
            state: Mutex::new(state),
            clock,
        }))
    }

    /// As it was last made.
    #[must_use]
    pub fn last(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// As the files are, or were a second ago. One caller looks at them; those that come meanwhile do not wait for it.
    pub async fn newest(self: &Arc<Self>) -> Arc<T> {
        if self.is_due() {
            let this = Arc::clone(self);
            let looked = tokio::task::spawn_blocking(move || this.look()).await;
            if looked.is_err() {
                // It panicked, or the process ends: let another try.
                self.state.lock().is_looking = false;
            }
        }
        self.last()
    }

    fn is_due(&self) -> bool {
        let mut state = self.state.lock();
        let is_due = !state.is_looking && self.clock.monotonic().saturating_sub(state.at) >= LOOK_EVERY;
        state.is_looking |= is_due;
        is_due
    }

    fn look(&self) {
        // They stay there, for the next look, where this one comes to no end.
        let files = self.state.lock().files.clone();
        let files = if files.are_as_read() {
            files
        } else {
            self.make_again(files)
        };
        let mut state = self.state.lock();
        state.files = files;
        state.at = self.clock.monotonic();
        state.is_looking = false;
    }

    /// Blocks for a moment. Gives the files that were read, or `before` where they do not stand still: they are looked at
    /// again then.
    fn make_again(&self, before: Files) -> Files {
        let made = (self.make)(Some(&*self.last()));
        std::thread::sleep(STILL_FOR);
        if !made.files.are_as_read() {
            return before;
        }
        match made.value {
            Ok(value) => {
                tracing::info!("{}: files have changed and are in use", self.what);
                self.current.store(Arc::new(value));
            }
            Err(error) => {
                tracing::error!(%error, "{}: files have changed and cannot be used: the last good ones are", self.what);
            }
        }
        made.files
    }
}

impl<T> std::fmt::Debug for Reread<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reread({})", self.what)
    }
}
