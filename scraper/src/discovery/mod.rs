//! Where targets come from: each source gives its groups now, and again whenever they change.

mod file;
mod groups;

pub use groups::{BadGroups, parse_groups};

use crate::config::{ScrapeConfig, TargetGroup};
use crate::metrics::ScraperMetrics;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// All groups of one source.
pub(crate) type Groups = Arc<Vec<TargetGroup>>;

/// The sources of one job. Dropping it ends them.
pub(crate) struct Discovery {
    fixed: Groups,
    files: Vec<watch::Receiver<Groups>>,
    cancel: CancellationToken,
}

impl Discovery {
    /// Starts the job's sources. File sources have read their files once when this returns. `changed` is told the job
    /// whenever a source has something new.
    pub(crate) async fn start(
        config: &ScrapeConfig,
        metrics: &Arc<ScraperMetrics>,
        changed: &mpsc::UnboundedSender<String>,
        parent: &CancellationToken,
    ) -> Self {
        let cancel = parent.child_token();
        let mut files = Vec::new();
        for file in &config.file_sd_configs {
            let source = file::FileSource::new(file.clone(), Arc::clone(metrics));
            files.push(
                source
                    .start(config.job_name.clone(), changed.clone(), cancel.clone())
                    .await,
            );
        }
        Self {
            fixed: Arc::new(config.static_configs.clone()),
            files,
            cancel,
        }
    }

    /// The groups as they are now.
    pub(crate) fn groups(&mut self) -> Vec<Groups> {
        let files = self.files.iter_mut().map(|f| Arc::clone(&f.borrow_and_update()));
        std::iter::once(Arc::clone(&self.fixed)).chain(files).collect()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
