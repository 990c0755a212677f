//! A disk that forgets: a FUSE file system in memory which keeps, beside what was written, what was synced. A power cut
//! throws away the rest, file contents and directory entries alike. It can also be full or read-only.
//!
//! Stricter than most file systems: a new, renamed or removed name is lost until its *directory* is synced.

mod files;
mod fuse;
pub mod tmpfs;

use files::Files;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A mounted disk; unmounted when it goes out of scope (whoever used it must have ended by then).
pub struct Disk {
    files: Arc<parking_lot::Mutex<Files>>,
    mount: Option<fuser::BackgroundSession>,
    folder: PathBuf,
}

impl Disk {
    /// Mounts an empty disk of `capacity_bytes` at `folder`. None (with a word) where FUSE cannot be used, a failure
    /// where CI runs.
    pub fn mount(folder: &Path, capacity_bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(folder).expect("mount point");
        let files = Arc::new(parking_lot::Mutex::new(Files::new(capacity_bytes)));
        let mut disk = Self {
            files,
            mount: None,
            folder: folder.to_owned(),
        };
        match disk.attach() {
            Ok(()) => Some(disk),
            Err(error) => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "cannot mount FUSE ({error}): run as root with /dev/fuse"
                );
                eprintln!("skipped: cannot mount FUSE: {error} (root and /dev/fuse are needed)");
                None
            }
        }
    }

    fn attach(&mut self) -> std::io::Result<()> {
        let mut config = fuser::Config::default();
        config.mount_options = vec![fuser::MountOption::FSName("forgetful".into())];
        self.mount = Some(fuser::spawn_mount(
            fuse::Driver(Arc::clone(&self.files)),
            &self.folder,
            &config,
        )?);
        Ok(())
    }

    /// Whether it is not there any more. A mount namespace that another process has made meanwhile may hold on to it: it is
    /// not waited for.
    fn unmount(&mut self) -> bool {
        let Some(mount) = self.mount.take() else { return true };
        let ending = std::thread::spawn(move || mount.umount_and_join());
        while self.is_mounted() {
            if ending.is_finished() && self.is_mounted() {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        true
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.folder.display().to_string();
        mounts
            .lines()
            .any(|line| line.split(' ').nth(4) == Some(folder.as_str()))
    }

    /// What was not synced is gone. Nobody may be using the disk.
    pub fn cut_power(&mut self) {
        // Unmounting empties the kernel's caches of it.
        assert!(self.unmount(), "{} is in use", self.folder.display());
        self.files.lock().forget_unsynced();
        self.attach().expect("mount again");
    }

    /// Bytes that can still be written.
    pub fn set_capacity(&self, bytes: u64) {
        self.files.lock().capacity = bytes;
    }

    pub fn used_bytes(&self) -> u64 {
        self.files.lock().used()
    }

    /// From now on each sync takes so long, and whatever else is asked meanwhile waits for it.
    pub fn set_sync_takes(&self, time: std::time::Duration) {
        self.files.lock().sync_takes = time;
    }

    /// From now on every change fails, as on a file system that was remounted read-only after an error.
    pub fn set_read_only(&self, read_only: bool) {
        self.files.lock().read_only = read_only;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}
