//! A small file system of the kernel's own, which someone else fills.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A mounted tmpfs; unmounted when it goes out of scope.
pub struct Tmpfs {
    folder: PathBuf,
}

/// Fills the file system to the last byte, and again whenever something becomes free; gives all back when dropped.
pub struct Filling {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tmpfs {
    /// None (with a word) where mounting is not allowed, a failure where CI runs.
    pub fn mount(folder: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(folder).expect("mount point");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(folder)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self {
                folder: folder.to_owned(),
            });
        }
        assert!(
            std::env::var_os("CI").is_none(),
            "cannot mount a tmpfs: run as root (mount -t tmpfs must work)"
        );
        eprintln!("skipped: a tmpfs cannot be mounted here (root is needed)");
        None
    }

    pub fn keep_filling(&self) -> Filling {
        let path = self.folder.join("filler");
        let mut file = File::create(&path).expect("filler");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let block = vec![1u8; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                if file.write_all(&block).is_err() && file.write_all(&block[..1]).is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Filling {
            path,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder).output();
    }
}
