//! Free space of the data folder: a watermark below which writes are refused, and ballast files that are given up when
//! space runs out, so that there is room to recover: one while the store is open, the other only to open it.

use super::StoreError;
use gnomon_model::Clock;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, StatVfsMountFlags, fallocate, statvfs};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Space is looked at after this time, or after a sixteenth of the watermark was written.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Kept free for the engine's own work when a batch is written (a fiftieth of small file systems).
const FLOOR_BYTES: u64 = 8 << 20;

/// Free space is below the watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowDisk {
    /// The data folder.
    pub folder: String,
    pub free_bytes: u64,
    /// Writes are taken again from here on.
    pub needed_bytes: u64,
}

pub(super) struct Disk {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    watermark_bytes: u64,
    ballast_bytes: u64,
    floor_bytes: u64,
    seen: Mutex<Seen>,
    written_bytes: AtomicU64,
}

struct Seen {
    looked: Option<Duration>,
    free_bytes: u64,
    low: bool,
    ballast: bool,
}

/// Given up where a write fails,
const BALLAST: &str = "ballast";
/// and what is left of it all for the next start, if somebody else fills the disk then.
const START_BALLAST: &str = "ballast.start";

/// Removes a ballast of a store that is not open.
///
/// # Errors
/// When there is none any more.
pub(crate) fn give_up_ballast(folder: &Path) -> std::io::Result<()> {
    std::fs::remove_file(folder.join(BALLAST)).or_else(|_| std::fs::remove_file(folder.join(START_BALLAST)))
}

impl Disk {
    /// The limits shrink on small file systems: a fifth of it for the watermark, a twentieth for the ballast.
    pub(super) fn new(
        folder: &Path,
        clock: Arc<dyn Clock>,
        watermark_bytes: u64,
        ballast_bytes: u64,
    ) -> Result<Self, StoreError> {
        let total = space(folder)?.total_bytes;
        let disk = Self {
            folder: folder.to_owned(),
            clock,
            watermark_bytes: watermark_bytes.min(total / 5),
            ballast_bytes: ballast_bytes.min(total / 20),
            floor_bytes: FLOOR_BYTES.min(total / 50),
            seen: Mutex::new(Seen {
                looked: None,
                free_bytes: 0,
                low: false,
                ballast: false,
            }),
            written_bytes: AtomicU64::new(0),
        };
        disk.seen.lock().ballast = disk.missing_ballast().next().is_none();
        Ok(disk)
    }

    /// Ballast that is not there whole.
    fn missing_ballast(&self) -> impl Iterator<Item = PathBuf> {
        let paths = [BALLAST, START_BALLAST].map(|name| self.folder.join(name)).into_iter();
        let is_whole = |path: &PathBuf| {
            let length = std::fs::metadata(path).map_or(0, |file| file.len());
            length > 0 && length >= self.ballast_bytes
        };
        paths.filter(move |path| !is_whole(path))
    }

    /// Free bytes, and whether that is too little.
    pub(super) fn look(&self) -> (u64, Option<LowDisk>) {
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock();
        let much = self.written_bytes.load(Ordering::Relaxed) > self.watermark_bytes / 16;
        if much || seen.looked.is_none_or(|at| now.saturating_sub(at) >= LOOK_EVERY) {
            seen.looked = Some(now);
            self.written_bytes.store(0, Ordering::Relaxed);
            match space(&self.folder) {
                Ok(space) => self.judge(&mut seen, &space),
                Err(error) => tracing::warn!(%error, "free space cannot be read"),
            }
        }
        let low = seen.low.then(|| LowDisk {
            folder: self.folder.display().to_string(),
            free_bytes: seen.free_bytes,
            needed_bytes: self.resume_bytes(),
        });
        (seen.free_bytes, low)
    }

    /// Whether a batch can be written now: asked before the engine sees it, since an engine whose write failed has to
    /// be reopened.
    pub(super) fn admit(&self, bytes: usize) -> Result<(), StoreError> {
        let space = space(&self.folder)?;
        if space.read_only {
            return Err(StoreError::ReadOnly);
        }
        let needed_bytes = self.floor_bytes + bytes as u64;
        if space.free_bytes < needed_bytes {
            return Err(StoreError::Full {
                free_bytes: space.free_bytes,
                needed_bytes,
            });
        }
        Ok(())
    }

    /// Tries to write and sync a little, where there is room for `bytes`.
    pub(super) fn probe(&self, bytes: usize) -> Result<(), StoreError> {
        self.admit(bytes)?;
        let path = self.folder.join("probe");
        let tried = File::create(&path).and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_all()
        });
        let removed = std::fs::remove_file(&path);
        tried.and(removed).map_err(|error| StoreError::Folder {
            path: path.display().to_string(),
            message: error.to_string(),
        })
    }

    /// The error with the folder it concerns.
    pub(super) fn name(&self, error: &StoreError) -> String {
        match error {
            StoreError::Folder { .. } => error.to_string(),
            other => format!("data folder {}: {other}", self.folder.display()),
        }
    }

    /// Told of what was written, so that it looks in time.
    pub(super) fn wrote(&self, bytes: usize) {
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A little above the watermark, so that it does not flap.
    fn resume_bytes(&self) -> u64 {
        self.watermark_bytes + self.watermark_bytes / 8
    }

    fn judge(&self, seen: &mut Seen, space: &Space) {
        let free = space.free_bytes;
        let was_low = seen.low;
        seen.free_bytes = free;
        seen.low = free
            < if seen.low {
                self.resume_bytes()
            } else {
                self.watermark_bytes
            };
        if seen.low && !was_low {
            tracing::warn!(
                free_bytes = free,
                needed_bytes = self.resume_bytes(),
                "low disk: writes are refused"
            );
        } else if was_low && !seen.low {
            tracing::info!(free_bytes = free, "enough disk again: writes are taken");
        }
        if !seen.ballast && !seen.low && !space.read_only && free > self.resume_bytes() + 3 * self.ballast_bytes {
            match self.make_ballast() {
                Ok(()) => seen.ballast = true,
                Err(error) => tracing::warn!(%error, "the ballast file cannot be made"),
            }
        }
    }

    /// Gives the space of the ballast for this to whoever needs it to recover.
    pub(super) fn drop_ballast(&self) {
        self.dropped(std::fs::remove_file(self.folder.join(BALLAST)));
    }

    /// Gives the space of a ballast to a store that is to be opened; false where there is none any more.
    pub(super) fn drop_to_open(&self) -> bool {
        let given = give_up_ballast(&self.folder);
        let is_given = given.is_ok();
        self.dropped(given);
        is_given
    }

    fn dropped(&self, removed: std::io::Result<()>) {
        let mut seen = self.seen.lock();
        seen.ballast = false;
        seen.looked = None;
        match removed {
            Ok(()) => tracing::warn!(bytes = self.ballast_bytes, "giving up a ballast file to make room"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a ballast file cannot be removed"),
        }
    }

    fn make_ballast(&self) -> std::io::Result<()> {
        if self.ballast_bytes == 0 {
            return Ok(());
        }
        self.missing_ballast().try_for_each(|path| self.fill(&path))
    }

    fn fill(&self, path: &Path) -> std::io::Result<()> {
        let mut file = File::create(path)?;
        if fallocate(&file, FallocateFlags::empty(), 0, self.ballast_bytes).is_ok() {
            return Ok(());
        }
        // A file system that cannot reserve space is written to.
        let zeros = vec![0u8; 1 << 16];
        let mut left = self.ballast_bytes;
        while left > 0 {
            let now = left.min(zeros.len() as u64);
            file.write_all(&zeros[..now as usize])?;
            left -= now;
        }
        Ok(())
    }
}

/// A file system as it is now.
struct Space {
    /// To this process.
    free_bytes: u64,
    total_bytes: u64,
    read_only: bool,
}

fn space(folder: &Path) -> Result<Space, StoreError> {
    let stat = statvfs(folder).map_err(|error| StoreError::Folder {
        path: folder.display().to_string(),
        message: error.to_string(),
    })?;
    Ok(Space {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}
