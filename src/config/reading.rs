//! Reading the configuration's files where a disk may hang: on a thread that nobody waits for longer than some time, since
//! what hangs in the kernel cannot be cancelled.

use super::{Config, ConfigError, load};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Files of 64 MiB are read and checked within this on a slow machine.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Reads one file, again and again.
pub struct Reading {
    path: PathBuf,
    within: Duration,
    /// A read that was given up has not ended.
    hangs: Arc<AtomicBool>,
}

impl Reading {
    #[must_use]
    pub fn of(path: PathBuf) -> Self {
        Self {
            path,
            within: READ_WITHIN,
            hangs: Arc::default(),
        }
    }

    /// What [`load`] gives, with the environment of the process.
    ///
    /// # Errors
    /// As [`load`], and when it takes too long.
    pub async fn load(&self) -> Result<Config, ConfigError> {
        let hanging = || ConfigError::Hangs {
            path: self.path.clone(),
            within: self.within,
        };
        if self.hangs.swap(true, Ordering::AcqRel) {
            return Err(hanging());
        }
        let unread = |source| ConfigError::Read {
            path: self.path.clone(),
            source,
        };
        let (path, hangs) = (self.path.clone(), Hangs(Arc::clone(&self.hangs)));
        let (give, read) = oneshot::channel();
        let reading = move || {
            let config = load(&path, &|name| std::env::var(name).ok());
            drop(hangs);
            // Whoever asked may have given up.
            let _ = give.send(config);
        };
        let thread = std::thread::Builder::new().name("config".to_owned());
        thread.spawn(reading).map_err(unread)?;
        match tokio::time::timeout(self.within, read).await {
            Ok(Ok(config)) => config,
            Ok(Err(_)) => Err(unread(std::io::Error::other("reading it failed: see the log before"))),
            Err(_) => Err(hanging()),
        }
    }
}

/// Until a read has ended, in whatever way.
struct Hangs(Arc<AtomicBool>);

impl Drop for Hangs {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_hangs_is_given_up_and_read_again_once_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gnomon.yml");
        let (here, fifo, mode) = (rustix::fs::CWD, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(here, &path, fifo, mode, 0).unwrap();
        let reading = Reading {
            within: Duration::from_millis(50),
            ..Reading::of(path.clone())
        };
        for _ in 0..2 {
            let error = reading.load().await.err().unwrap().to_string();
            assert!(error.contains("has not been read within"), "{error}");
        }
        // Whoever writes to it ends the read that hung.
        tokio::task::spawn_blocking({
            let path = path.clone();
            move || std::fs::write(path, "scrape_configs: []").unwrap()
        })
        .await
        .unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "global: {scrape_interval: 7s}").unwrap();
        while reading.hangs.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        assert!(reading.load().await.is_ok());
    }
}
