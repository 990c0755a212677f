//! Where targets come from: each source gives its groups now, and again whenever they change.

mod file;
mod groups;

pub use groups::{BadGroups, parse_groups};

use crate::config::{FileSdConfig, ScrapeConfig, TargetGroup};
use crate::metrics::ScraperMetrics;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// All groups of one source.
pub(crate) type Groups = Arc<Vec<TargetGroup>>;

/// The sources of one job. Dropping it ends them.
pub(crate) struct Discovery {
    fixed: Groups,
    /// None of a source that has not found out yet.
    files: Vec<watch::Receiver<Option<Groups>>>,
    cancel: CancellationToken,
}

impl Discovery {
    /// Starts the job's sources; waits for none of them. `changed` is told the job whenever a source has something new.
    pub(crate) fn start(
        config: &ScrapeConfig,
        metrics: &Arc<ScraperMetrics>,
        changed: &mpsc::UnboundedSender<String>,
        parent: &CancellationToken,
    ) -> Self {
        let cancel = parent.child_token();
        let start = |file: &FileSdConfig| {
            let told = file::Told {
                job: config.job_name.clone(),
                changed: changed.clone(),
            };
            file::FileSource::new(file.clone(), Arc::clone(metrics)).start(told, cancel.clone())
        };
        Self {
            fixed: Arc::new(config.static_configs.clone()),
            files: config.file_sd_configs.iter().map(start).collect(),
            cancel,
        }
    }

    /// Waits until each source has found out what it has.
    pub(crate) async fn found(&mut self) {
        for file in &mut self.files {
            // One that has ended finds nothing any more.
            let _ = file.wait_for(Option::is_some).await;
        }
    }

    /// Whether a source has something that [`Self::groups`] has not given yet.
    pub(crate) fn has_changed(&self) -> bool {
        self.files.iter().any(|file| file.has_changed().unwrap_or(false))
    }

    /// The groups as they are now.
    pub(crate) fn groups(&mut self) -> Vec<Groups> {
        let files = self.files.iter_mut().filter_map(|f| f.borrow_and_update().clone());
        std::iter::once(Arc::clone(&self.fixed)).chain(files).collect()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
