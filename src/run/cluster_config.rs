//! Whether the cluster goes by the configuration that this node goes by.

use super::config::Metrics;
use crate::status::Status;
use gnomon_proto::v1::MetaState;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What this node goes by, as the cluster knew it at one of its revisions.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) content_hash: String,
    /// Its own then; 0 where it has none: the cluster did not take it, or could not be asked.
    pub(super) revision: u64,
    pub(super) is_clusters: bool,
    /// The cluster is being asked: what it says may be seen in its state before the answer comes.
    pub(super) asking: bool,
}

impl Known {
    /// Whether the cluster goes by something else, by its state, which may be older than what is known.
    fn differs_from(&self, state: &MetaState) -> bool {
        match state.configs.last() {
            Some(newest) if newest.revision >= self.revision => newest.content_hash != self.content_hash,
            _ => !self.is_clusters,
        }
    }
}

/// Says so while the cluster goes by another configuration than this node: in the log, in a metric and to the UI.
pub(super) async fn compare(
    metrics: Metrics,
    status: Arc<Status>,
    mut known: watch::Receiver<Known>,
    mut states: watch::Receiver<Arc<MetaState>>,
    stop: CancellationToken,
) {
    let mut said = false;
    loop {
        let state = states.borrow_and_update().clone();
        let own = known.borrow_and_update().clone();
        if !own.asking {
            let differs = own.differs_from(&state);
            let newest = state.configs.last().map_or(0, |newest| newest.revision);
            if !differs && newest > own.revision {
                metrics.revised(newest);
            }
            metrics.differs.set(i64::from(differs));
            if differs != said {
                said = differs;
                status.config_differs(differs);
                match differs {
                    true => tracing::warn!(
                        revision = newest,
                        "the cluster goes by another configuration than this node: update its file and reload it"
                    ),
                    false => tracing::info!(revision = newest, "this node goes by the cluster's configuration again"),
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = known.changed() => if changed.is_err() { return },
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::ConfigRecord;

    #[test]
    fn the_clusters_state_may_be_older_than_what_is_known() {
        let state = |newest: Option<(u64, &str)>| MetaState {
            configs: newest
                .map(|(revision, hash)| ConfigRecord {
                    revision,
                    content_hash: hash.into(),
                    ..ConfigRecord::default()
                })
                .into_iter()
                .collect(),
            ..MetaState::default()
        };
        let own = |revision, is_clusters| Known {
            content_hash: "own".into(),
            revision,
            is_clusters,
            asking: false,
        };
        for (known, newest, differs) in [
            (own(2, true), Some((1, "before")), false),
            (own(2, true), Some((2, "own")), false),
            (own(2, true), Some((3, "next")), true),
            (own(2, true), Some((4, "own")), false),
            // The cluster did not take it, or could not be asked.
            (own(0, false), Some((3, "next")), true),
            (own(0, false), None, true),
            (own(0, true), Some((3, "next")), true),
            (own(0, true), None, false),
        ] {
            assert_eq!(known.differs_from(&state(newest)), differs, "{known:?} {newest:?}");
        }
    }
}
