//! Clocks that can be set while processes run: libfaketime gives each its own, and all of the cluster a common one, by
//! which a window begins soon after the test does.

use crate::harness::peers;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) const WINDOW_MS: i64 = 2 * 60 * 60 * 1000;
/// The cluster's clock differs from the machine's by a multiple of this, so that subqueries are asked at the same steps.
const GRID_MS: i64 = 10_000;

#[derive(Clone, Debug)]
pub(crate) struct Clocks {
    library: Option<PathBuf>,
    /// How far the cluster's clock is ahead of the machine's, milliseconds.
    pub(crate) ahead_ms: i64,
}

fn machine_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

impl Clocks {
    /// A window begins `lead` after now, or up to ten seconds later. Where there is no libfaketime clocks are the
    /// machine's, and cannot be set.
    pub(crate) fn find(lead: Duration) -> Self {
        let library = peers::faketime();
        let now_ms = machine_ms();
        let lead_ms = lead.as_millis() as i64;
        let ahead_ms = match library {
            Some(_) => (WINDOW_MS - (now_ms + lead_ms).rem_euclid(WINDOW_MS)).div_euclid(GRID_MS) * GRID_MS,
            None => 0,
        };
        Self { library, ahead_ms }
    }

    pub(crate) fn can_be_set(&self) -> bool {
        self.library.is_some()
    }

    /// By the cluster's clock.
    pub(crate) fn now_ms(&self) -> i64 {
        machine_ms() + self.ahead_ms
    }

    /// When the next window begins, by the cluster's clock.
    pub(crate) fn next_window_ms(&self) -> i64 {
        (self.now_ms().div_euclid(WINDOW_MS) + 1) * WINDOW_MS
    }

    /// From now on (within a second) the process that reads the file is so far from the cluster's clock.
    pub(crate) fn set(&self, file: &Path, off_s: i64) {
        let text = format!("{:+}\n", self.ahead_ms / 1000 + off_s);
        let written = file.with_extension("new");
        std::fs::write(&written, text).expect("clock");
        std::fs::rename(written, file).expect("clock");
    }

    /// What follows `command` runs by the clock of the file.
    pub(crate) fn run_by(&self, command: &mut Command, file: &Path) {
        let Some(library) = &self.library else { return };
        self.set(file, 0);
        command
            .arg("env")
            .arg(format!("LD_PRELOAD={}", library.display()))
            .arg(format!("FAKETIME_TIMESTAMP_FILE={}", file.display()))
            .args(["FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
    }

    /// What the library leaves in shared memory of a process that was killed.
    pub(crate) fn forget(&self, process: u32) {
        if self.can_be_set() {
            let _ = std::fs::remove_file(format!("/dev/shm/faketime_shm_{process}"));
            let _ = std::fs::remove_file(format!("/dev/shm/sem.faketime_sem_{process}"));
        }
    }
}
