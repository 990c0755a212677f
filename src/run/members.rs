//! The scrapers that are alive, from the metadata state.

use gnomon_model::{Clock, NodeId};
use gnomon_proto::v1::MetaState;
use gnomon_scraper::Members;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often leases are looked at, when nothing else changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The term grows with every start of a scraper, so that a push of an earlier life is refused.
fn members(state: &MetaState, now_ms: i64) -> Members {
    let scrapers = || state.nodes.iter().filter(|n| n.roles.iter().any(|r| r == "scraper"));
    Members {
        term: scrapers().map(|n| n.incarnation).sum(),
        nodes: scrapers()
            .filter(|n| n.lease_until_ms > now_ms)
            .map(|n| NodeId(n.id))
            .collect(),
    }
}

/// Follows the state until told to stop.
pub(super) fn follow(
    mut states: watch::Receiver<Arc<MetaState>>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> (watch::Receiver<Members>, impl Future<Output = ()> + Send) {
    let first = members(&states.borrow(), clock.now().0);
    let (sender, receiver) = watch::channel(first);
    let task = async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = members(&states.borrow_and_update(), clock.now().0);
            sender.send_if_modified(|known| {
                // Without a word from the metadata group for a lease, this scraper goes on with what it had.
                let changed = *known != now && !now.nodes.is_empty();
                if changed {
                    *known = now;
                }
                changed
            });
        }
    };
    (receiver, task)
}
