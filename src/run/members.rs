//! The ring of scrapers, from the metadata state.

use gnomon_model::NodeId;
use gnomon_proto::v1::MetaState;
use gnomon_scraper::Members;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// As committed: who is alive is not for this node's clock to say.
fn members(state: &MetaState) -> Members {
    state.scrapers.as_ref().map_or_else(Members::default, |ring| Members {
        term: ring.term,
        nodes: ring.nodes.iter().copied().map(NodeId).collect(),
    })
}

/// Follows the state until told to stop.
pub(super) fn follow(
    mut states: watch::Receiver<Arc<MetaState>>,
    stop: CancellationToken,
) -> (watch::Receiver<Members>, impl Future<Output = ()> + Send) {
    let first = members(&states.borrow_and_update());
    let (sender, receiver) = watch::channel(first);
    let task = async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
            }
            let now = members(&states.borrow_and_update());
            sender.send_if_modified(|known| {
                let changed = now.term > known.term;
                if changed {
                    *known = now;
                }
                changed
            });
        }
    };
    (receiver, task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::ScraperRing;

    fn state(term: u64, nodes: &[u64]) -> Arc<MetaState> {
        Arc::new(MetaState {
            scrapers: Some(ScraperRing {
                term,
                nodes: nodes.to_vec(),
            }),
            ..MetaState::default()
        })
    }

    #[tokio::test]
    async fn the_ring_is_what_was_committed_and_terms_only_grow() {
        let (sender, states) = watch::channel(state(3, &[1, 2]));
        let stop = CancellationToken::new();
        let (mut ring, task) = follow(states, stop.clone());
        let task = tokio::spawn(task);
        assert_eq!((ring.borrow().term, ring.borrow().nodes.len()), (3, 2));
        sender.send_replace(state(2, &[1]));
        sender.send_replace(state(4, &[2]));
        ring.changed().await.unwrap();
        assert_eq!((ring.borrow().term, ring.borrow().nodes.clone()), (4, vec![NodeId(2)]));
        stop.cancel();
        task.await.unwrap();
    }
}
