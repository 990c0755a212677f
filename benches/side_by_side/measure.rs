//! What a process uses, as /proc has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// User and system CPU seconds of a process so far.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// A field of /proc/PID/status that is in kB, in KiB.
pub(crate) fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The most anonymous memory that a process had while this lived, looked at ten times a second.
pub(crate) struct Peak {
    most_kib: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Peak {
    pub(crate) fn of(pid: u32) -> Self {
        let most_kib = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&most_kib);
        let task = tokio::spawn(async move {
            loop {
                seen.fetch_max(status_kib(pid, "RssAnon"), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { most_kib, task }
    }

    pub(crate) fn end(self) -> u64 {
        self.task.abort();
        self.most_kib.load(Ordering::Relaxed)
    }
}
