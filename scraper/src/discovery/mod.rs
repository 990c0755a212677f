//! Where targets come from: each source gives its groups now, and again whenever they change.

mod file;
mod groups;

pub(crate) use file::check_targets;
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
    files: Vec<FileGroups>,
    cancel: CancellationToken,
}

/// What one source of files has.
struct FileGroups {
    config: FileSdConfig,
    /// None until it has found out.
    found: watch::Receiver<Option<Groups>>,
    /// What was found in these files before, for as long as that takes.
    before: Option<Groups>,
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
            FileGroups {
                config: file.clone(),
                found: file::FileSource::new(file.clone(), Arc::clone(metrics)).start(told, cancel.clone()),
                before: None,
            }
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
            let _ = file.found.wait_for(Option::is_some).await;
        }
    }

    /// Keeps the targets that the job had of files which are read again and may hang meanwhile.
    pub(crate) fn take_over(&mut self, old: &Self) {
        for file in &mut self.files {
            let same = old.files.iter().find(|before| before.config.files == file.config.files);
            file.before = same.and_then(FileGroups::groups);
        }
    }

    /// Whether a source has something that [`Self::groups`] has not given yet.
    pub(crate) fn has_changed(&self) -> bool {
        self.files.iter().any(|file| file.found.has_changed().unwrap_or(false))
    }

    /// The groups as they are now.
    pub(crate) fn groups(&mut self) -> Vec<Groups> {
        let files = self.files.iter_mut().filter_map(|file| {
            file.found.mark_unchanged();
            file.groups()
        });
        std::iter::once(Arc::clone(&self.fixed)).chain(files).collect()
    }
}

impl FileGroups {
    fn groups(&self) -> Option<Groups> {
        self.found.borrow().clone().or_else(|| self.before.clone())
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn files_that_are_read_again_have_their_targets_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, r#"[{"targets": ["a:1"]}]"#).unwrap();
        let metrics = Arc::new(ScraperMetrics::register(&prometheus::Registry::new()).unwrap());
        let (changed, _changes) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let files = |refresh_s| FileSdConfig {
            files: vec![path.clone()],
            refresh_interval: Duration::from_secs(refresh_s),
        };
        let start = |config: FileSdConfig| Discovery {
            fixed: Arc::default(),
            files: vec![FileGroups {
                found: file::FileSource::new(config.clone(), Arc::clone(&metrics)).start(
                    file::Told {
                        job: "job".to_owned(),
                        changed: changed.clone(),
                    },
                    stop.clone(),
                ),
                config,
                before: None,
            }],
            cancel: stop.child_token(),
        };
        let targets = |discovery: &mut Discovery| {
            let groups = discovery.groups();
            groups
                .iter()
                .flat_map(|groups| groups.iter())
                .flat_map(|g| g.targets.clone())
                .collect::<Vec<_>>()
        };
        let mut old = start(files(300));
        old.found().await;
        assert_eq!(targets(&mut old), ["a:1"]);
        std::fs::write(&path, r#"[{"targets": ["b:1"]}]"#).unwrap();
        let mut new = start(files(60));
        assert!(targets(&mut new).is_empty(), "nobody has looked yet");
        new.take_over(&old);
        assert_eq!(targets(&mut new), ["a:1"]);
        new.found().await;
        assert_eq!(targets(&mut new), ["b:1"]);
    }
}
