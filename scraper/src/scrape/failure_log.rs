//! `scrape_failure_log_file`: one JSON line for each failed scrape of a job, as Prometheus writes it.

use crate::rfc3339::utc;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Appends to a file; opens it at the first failure, and again where it was moved away.
pub(super) struct FailureLog {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl FailureLog {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: Mutex::new(None),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the line of a failed scrape. Blocks on the disk.
    pub(super) fn write(&self, at_ms: i64, job: &str, target: &str, error: &str) -> io::Result<()> {
        let line = serde_json::json!({
            "time": utc(at_ms),
            "level": "ERROR",
            "msg": error,
            "job_name": job,
            "target": target,
        });
        let mut line = line.to_string();
        line.push('\n');
        let mut file = self.file.lock();
        if file.is_none() || !self.path.exists() {
            *file = Some(OpenOptions::new().create(true).append(true).open(&self.path)?);
        }
        match file.as_mut() {
            Some(file) => file.write_all(line.as_bytes()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_lines_and_a_moved_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("failures.log");
        let log = FailureLog::new(&path);
        log.write(0, "job", "http://a/metrics", "said \"no\"").unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        log.write(0, "job", "http://a/metrics", "again").unwrap();
        let line: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            (line["msg"].as_str(), line["job_name"].as_str()),
            (Some("again"), Some("job"))
        );
        assert_eq!(line["target"].as_str(), Some("http://a/metrics"));
    }
}
