//! `scrape_failure_log_file`: one JSON line for each failed scrape of a job, as Prometheus writes it.

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

/// RFC 3339 with milliseconds, in UTC. The date follows from days as in H. Hinnant, "chrono-compatible low-level date
/// algorithms": years begin in March, eras have 400 of them.
fn utc(at_ms: i64) -> String {
    let (days, ms) = (at_ms.div_euclid(86_400_000), at_ms.rem_euclid(86_400_000));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let ms = ms % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

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
