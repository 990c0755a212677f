//! Files that requests depend on, read where a disk may hang: what hangs in the kernel cannot be cancelled, and the threads that
//! wait for it are taken from those that the store needs.

use super::ClientError;
use gnomon_cluster::blocking::blocking;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Reads of all jobs at once.
static READS: Semaphore = Semaphore::const_new(64);

/// Reads of one job at once: where its disk hangs, the others have the rest.
const READS_OF_A_JOB: usize = 4;

/// The files of one job.
#[derive(Clone)]
pub(super) struct Files(Arc<Semaphore>);

impl Default for Files {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READS_OF_A_JOB)))
    }
}

impl Files {
    /// Does what reads files on a thread of its own, when it is its turn. Once begun it is done to its end, also where nobody
    /// waits for it any more.
    ///
    /// # Errors
    /// When it failed otherwise than by what it returns.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ClientError> {
        let failed = |error: String| ClientError(format!("files cannot be read: {error}"));
        let of_the_job = Arc::clone(&self.0).acquire_owned().await;
        let of_the_job = of_the_job.map_err(|error| failed(error.to_string()))?;
        let of_all = READS.acquire().await.map_err(|error| failed(error.to_string()))?;
        let read = blocking(move || {
            let result = work();
            drop((of_the_job, of_all));
            result
        });
        read.await.map_err(|error| failed(error.to_string()))
    }

    /// A text without the white space around it.
    ///
    /// # Errors
    /// Name the file, and what it is.
    pub(super) async fn text(&self, path: &Path, what: &str) -> Result<String, ClientError> {
        let own = path.to_owned();
        let read = self.read(move || std::fs::read_to_string(own)).await?;
        read.map(|text| text.trim().to_owned())
            .map_err(|e| ClientError(format!("unable to read {what} file {}: {e}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_disk_that_hangs_takes_a_few_threads_and_none_of_other_jobs() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, good) = (folder.path().join("pipe"), folder.path().join("good"));
        // Who opens one waits for somebody to write to it.
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        std::fs::write(&good, "secret\n").unwrap();
        let hanging = Files::default();
        for _ in 0..2 * READS_OF_A_JOB {
            let read = hanging.text(&pipe, "password");
            assert!(timeout(Duration::from_millis(20), read).await.is_err());
        }
        assert_eq!(hanging.0.available_permits(), 0);
        assert_eq!(Files::default().text(&good, "password").await.unwrap(), "secret");

        let written = tokio::task::spawn_blocking(move || std::fs::write(pipe, "late"));
        written.await.unwrap().unwrap();
        assert_eq!(hanging.text(&good, "password").await.unwrap(), "secret");
        let gone = hanging.text(&folder.path().join("gone"), "password").await.unwrap_err();
        assert!(gone.0.starts_with("unable to read password file "), "{gone}");
    }
}
