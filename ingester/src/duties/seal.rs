//! When a window's samples become a part.

use super::Duties;
use crate::head::window_of;
use crate::shard::entry::Command;
use gnomon_model::ids::BLOCK_EXTRAS_FEATURE_LEVEL;
use gnomon_model::{TimeRange, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::{MetaCommand, RaiseFeatureLevel, meta_command::Command as MetaChange};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the leader saw of windows that are due.
#[derive(Debug, Default)]
pub(super) struct WatchedWindows(BTreeMap<i64, Watched>);

#[derive(Clone, Copy, Debug)]
struct Watched {
    samples: u64,
    due_since: Duration,
    unchanged_since: Duration,
}

/// An open window, over all tenants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) range: TimeRange,
    pub(super) samples: u64,
}

impl WatchedWindows {
    /// Of the windows that are due, those to seal now: nothing comes any more, or for too long already.
    fn ripe(&mut self, due: &[Window], now: Duration, quiet: Duration, patience: Duration) -> Vec<TimeRange> {
        self.0.retain(|start, _| due.iter().any(|w| w.range.start.0 == *start));
        let mut ripe = Vec::new();
        for window in due {
            let watched = self.0.entry(window.range.start.0).or_insert(Watched {
                samples: window.samples,
                due_since: now,
                unchanged_since: now,
            });
            if watched.samples != window.samples {
                watched.samples = window.samples;
                watched.unchanged_since = now;
            }
            if now.saturating_sub(watched.unchanged_since) >= quiet || now.saturating_sub(watched.due_since) >= patience
            {
                ripe.push(window.range);
            }
        }
        ripe
    }
}

impl Duties {
    pub(super) async fn seal_due_windows(&mut self, now: Duration) {
        let options = &self.context.options;
        let (newest_ms, windows) = self.open_windows();
        // The shard's own time, or the clock's where the shard got no samples for long.
        let time_ms = newest_ms.max(self.context.clock.now().0);
        let seal_after_ms = i64::try_from(options.seal_after_ms).unwrap_or(i64::MAX);
        let is_due = |w: &Window| {
            w.range.end.0.saturating_add(seal_after_ms) <= time_ms || w.samples > options.max_window_samples
        };
        let due: Vec<_> = windows.into_iter().filter(is_due).collect();
        let ripe = self.watched.ripe(&due, now, options.quiet, options.patience);
        if ripe.is_empty() {
            return;
        }
        let shard = self.shard.id().0;
        let with_exemplars = self.keeps_extras().await.unwrap_or_else(|error| {
            tracing::warn!(shard, %error, "blocks are written without exemplars and metadata for now");
            false
        });
        for window in ripe {
            let seal = Command::Seal { window, with_exemplars };
            let sealed = self.shard.propose(seal).await;
            match sealed {
                Ok(_) => tracing::info!(shard, window_start_ms = window.start.0, "window sealed"),
                Err(error) => {
                    tracing::warn!(shard, window_start_ms = window.start.0, %error, "window not sealed");
                    return;
                }
            }
        }
    }

    /// Whether blocks are to have exemplars and metadata. The cluster's level is raised where there is something to keep and
    /// all nodes understand it; there is no way back to older builds then.
    async fn keeps_extras(&self) -> Result<bool, ServiceError> {
        let level = BLOCK_EXTRAS_FEATURE_LEVEL.0;
        let state = self.context.states.borrow().clone();
        if state.feature_level >= level {
            return Ok(true);
        }
        let has_extras = self.shard.machine.read(|state| {
            let mut heads = state.tenants.values().map(|there| &there.head);
            heads.any(|head| !head.metadata.is_empty() || head.exemplars.has_some())
        });
        if !has_extras || state.nodes.iter().any(|node| node.feature_level < level) {
            return Ok(false);
        }
        let raise = MetaCommand {
            command: Some(MetaChange::RaiseFeatureLevel(RaiseFeatureLevel { level })),
            ..MetaCommand::default()
        };
        let answer = self.context.meta.propose(raise).await?;
        if !answer.refused.is_empty() {
            return Err(ServiceError::Invalid(answer.refused));
        }
        tracing::info!(
            level,
            "blocks have exemplars and metadata: the cluster's feature level is raised"
        );
        Ok(true)
    }

    fn open_windows(&self) -> (i64, Vec<Window>) {
        self.shard.machine.read(|state| {
            let mut samples: BTreeMap<i64, u64> = BTreeMap::new();
            for tenant in state.tenants.values() {
                for (start_ms, window) in &tenant.head.windows {
                    *samples.entry(*start_ms).or_default() += window.samples;
                }
            }
            let windows = samples.into_iter().map(|(start_ms, samples)| Window {
                range: window_of(TimestampMs(start_ms).0),
                samples,
            });
            (state.counters.newest_ms, windows.collect())
        })
    }
}
