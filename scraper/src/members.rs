//! The ring of scrapers, from the metadata state.

use crate::Scraper;
use crate::hand_over::{after_join, after_leave, before_leave};
use crate::ring::{Members, Terms};
use gnomon_cluster::node::{NodeHandle, asked_ms, left_ring_ms, ring_changed_ms};
use gnomon_model::NodeId;
use gnomon_proto::v1::{MetaState, Node, ScraperRing};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn millis(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
}

/// As committed: who is alive is not for this node's clock to say.
fn members(state: &MetaState, lease: Duration) -> Members {
    let of_ring = |ring: &ScraperRing| {
        let since_ms = |node: &Node| match ring.nodes.contains(&node.id) {
            true => ring_changed_ms(node, lease),
            // Of one that only fell silent nothing is expected once its lease is over.
            false => left_ring_ms(node, lease).unwrap_or_else(|| before_leave(node.lease_until_ms)),
        };
        Members {
            term: ring.term,
            nodes: ring.nodes.iter().copied().map(NodeId).collect(),
            since_ms: state.nodes.iter().map(|n| (NodeId(n.id), since_ms(n))).collect(),
        }
    };
    state.scrapers.as_ref().map(of_ring).unwrap_or_default()
}

/// How far the clocks of a scraper and of the metadata group's leader may differ, for what is concluded from a lease.
const CLOCKS_DIFFER_MS: i64 = 1_000;

/// Between the renewal of a scraper's lease and another's coming there is a third of a lease at most; until that one begins
/// it is so much longer, and the noted renewal is earlier by the clocks' difference.
const HEARD_MS: i64 = 2_000 + CLOCKS_DIFFER_MS - 200;

/// Notes that this node renewed its lease, where it is in the ring as of this state.
fn note_lease(terms: &mut Terms, state: &MetaState, node: NodeId, lease: Duration) {
    let ring = state.scrapers.iter().find(|ring| ring.nodes.contains(&node.0));
    let own = state.nodes.iter().find(|own| own.id == node.0);
    if let (Some(ring), Some(own)) = (ring, own) {
        let renewed_ms = own.lease_until_ms.saturating_sub(asked_ms(lease));
        terms.note(ring.term, renewed_ms.saturating_sub(CLOCKS_DIFFER_MS));
    }
}

/// Up to when a scraper's targets were all its own under a ring.
#[derive(Debug, PartialEq)]
struct OwnUntil {
    ms: i64,
    /// By times that the metadata group has noted, rather than by leases, which are renewed.
    is_noted: bool,
}

/// Until when they were under the ring before: those that go from one to another do so at a time that both know. None where
/// that is not known to both.
fn own_until(before: &Members, after: &Members, state: &MetaState, me: NodeId, lease: Duration) -> Option<OwnUntil> {
    if after.term != before.term + 1 || !before.nodes.contains(&me) {
        return None;
    }
    let record = |id: &NodeId| state.nodes.iter().find(|node| node.id == id.0);
    let not_in = |ring: &Members, node: &&NodeId| !ring.nodes.contains(node);
    let came = after.nodes.iter().filter(|node| not_in(before, node)).map(|came| {
        let node = record(came)?;
        Some((node, after_join(ring_changed_ms(node, lease))))
    });
    let gone = before.nodes.iter().filter(|node| not_in(after, node)).map(|gone| {
        let node = record(gone)?;
        Some((node, after_leave(left_ring_ms(node, lease)?)))
    });
    let changes: Vec<(&Node, i64)> = came.chain(gone).collect::<Option<_>>()?;
    Some(OwnUntil {
        ms: changes.iter().map(|(_, at)| *at).min()? - 1,
        is_noted: changes.iter().all(|(node, _)| node.ring_changed_ms != 0),
    })
}

/// What a scraper is told of the ring.
pub struct Followed {
    pub members: watch::Receiver<Members>,
    /// When this node was in it for sure.
    pub terms: watch::Receiver<Terms>,
}

/// Gives the targets of a scraper to others, where there are some: they are scraped here until then.
pub async fn leave(scraper: &Scraper, node: &NodeHandle) {
    let has_heir = {
        let state = node.meta_watch.borrow();
        let ring = state.scrapers.as_ref().map(|ring| ring.nodes.as_slice());
        ring.is_some_and(|nodes| nodes.len() > 1 && nodes.contains(&node.node_id.0))
    };
    if has_heir {
        scraper.hand_over(node.end_scraping().await).await;
    }
}

/// Follows the state until told to stop. `lease` is that which all nodes reckon with.
pub fn follow(
    mut states: watch::Receiver<Arc<MetaState>>,
    node: NodeId,
    lease: Duration,
    stop: CancellationToken,
) -> (Followed, impl Future<Output = ()> + Send) {
    let first = members(&states.borrow_and_update(), lease);
    let (sender, receiver) = watch::channel(first);
    let (terms, told) = watch::channel(Terms::default());
    let task = async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
            }
            let state = Arc::clone(&states.borrow_and_update());
            terms.send_modify(|terms| note_lease(terms, &state, node, lease));
            let term = state.scrapers.as_ref().map_or(0, |ring| ring.term);
            sender.send_if_modified(|known| {
                let changed = term > known.term;
                if changed {
                    let next = members(&state, lease);
                    // Leases show when a node came until they are renewed: it was heard in time where this node's own was
                    // renewed not much earlier. Noted or not, without a lease others may have had its targets by then.
                    let own = state.nodes.iter().find(|own| own.id == node.0);
                    let lease_until_ms = own.map_or(i64::MIN, |own| own.lease_until_ms);
                    let is_sure = |until: &OwnUntil| {
                        let heard_ms = until.ms - millis(lease / 3) - HEARD_MS;
                        let is_noted = until.is_noted && until.ms < lease_until_ms;
                        is_noted || terms.borrow().covers(known.term, heard_ms)
                    };
                    let until = own_until(known, &next, &state, node, lease);
                    if let Some(until) = until.filter(is_sure) {
                        terms.send_modify(|terms| terms.note_end(known.term, until.ms));
                    }
                    *known = next;
                }
                changed
            });
        }
    };
    let followed = Followed {
        members: receiver,
        terms: told,
    };
    (followed, task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_cluster::node::SCRAPER_LEAVING;

    const LEASE: Duration = Duration::from_secs(15);

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
        let (followed, task) = follow(states, NodeId(2), LEASE, stop.clone());
        let mut ring = followed.members;
        let task = tokio::spawn(task);
        assert_eq!((ring.borrow().term, ring.borrow().nodes.len()), (3, 2));
        sender.send_replace(state(2, &[1]));
        sender.send_replace(state(4, &[2]));
        ring.changed().await.unwrap();
        assert_eq!((ring.borrow().term, ring.borrow().nodes.clone()), (4, vec![NodeId(2)]));
        stop.cancel();
        task.await.unwrap();
    }

    /// What was noted does not depend on when this node renewed its lease; what it says ends with that.
    #[tokio::test]
    async fn a_noted_time_is_heard_in_time_while_the_lease_holds() {
        let until_ms = after_join(100_000) - 1;
        for (own_lease_ms, is_known) in [(until_ms + 1, true), (until_ms, false)] {
            let node = |id: u64, lease_until_ms: i64| Node {
                id,
                lease_until_ms,
                ring_changed_ms: 1_000 * (id - 1) as i64 * 50,
                ..Node::default()
            };
            let (sender, states) = watch::channel(state(3, &[1, 2]));
            let stop = CancellationToken::new();
            let (followed, task) = follow(states, NodeId(1), LEASE, stop.clone());
            let (mut ring, terms) = (followed.members, followed.terms);
            let task = tokio::spawn(task);
            sender.send_replace(Arc::new(MetaState {
                nodes: vec![node(1, own_lease_ms), node(2, 150_000), node(3, 150_000)],
                ..(*state(4, &[1, 2, 3])).clone()
            }));
            ring.changed().await.unwrap();
            assert_eq!(terms.borrow().covers(3, until_ms), is_known, "{own_lease_ms}");
            assert!(!terms.borrow().covers(3, until_ms + 1));
            stop.cancel();
            task.await.unwrap();
        }
    }

    #[test]
    fn who_came_and_who_left_is_told_with_the_time() {
        let node = |id: u64, lease_until_ms: i64| Node {
            id,
            lease_until_ms,
            ..Node::default()
        };
        let told = MetaState {
            nodes: vec![
                node(1, 115_000),
                node(2, 90_000),
                Node {
                    roles: vec!["ingester".into(), SCRAPER_LEAVING.into()],
                    ..node(3, 114_000)
                },
            ],
            ..(*state(3, &[1])).clone()
        };
        // Of the second, whose lease ended, others make all ticks since then.
        let expected = [(NodeId(1), 100_000), (NodeId(2), 89_000), (NodeId(3), 99_000)];
        assert_eq!(after_leave(expected[1].1), 90_000);
        let since_ms = members(&told, LEASE).since_ms;
        assert_eq!(since_ms, expected);
        let (_sender, states) = watch::channel(Arc::new(told));
        let (followed, _task) = follow(states, NodeId(1), LEASE, CancellationToken::new());
        let since_ms = followed.members.borrow().since_ms.clone();
        assert_eq!(since_ms, expected);
    }

    #[test]
    fn ticks_before_the_time_of_a_hand_over_are_the_last_owners() {
        let node = |id: u64, role: &str, lease_until_ms: i64| Node {
            id,
            roles: vec![role.into()],
            lease_until_ms,
            ..Node::default()
        };
        let ring = |term, nodes: &[u64], records: &[Node]| MetaState {
            nodes: records.to_vec(),
            ..(*state(term, nodes)).clone()
        };
        let until = |before: &MetaState, after: &MetaState, me| {
            let (before, next) = (members(before, LEASE), members(after, LEASE));
            own_until(&before, &next, after, NodeId(me), LEASE)
        };
        let by_leases = |ms| Some(OwnUntil { ms, is_noted: false });
        let two = ring(3, &[1, 2], &[node(1, "scraper", 110_000), node(2, "scraper", 111_000)]);
        let mut records = two.nodes.clone();
        records.push(node(3, "scraper", 115_000));
        let three = ring(4, &[1, 2, 3], &records);
        assert_eq!(until(&two, &three, 1), by_leases(after_join(100_000) - 1));
        assert_eq!(until(&two, &three, 3), None, "it had none");
        records[1] = node(2, SCRAPER_LEAVING, 116_000);
        let left = ring(5, &[1, 3], &records);
        for me in 1..=3 {
            assert_eq!(until(&three, &left, me), by_leases(after_leave(101_000) - 1));
        }
        assert_eq!(until(&two, &left, 1), None, "what was between is not known");
        records[1] = node(2, "scraper", 99_000);
        assert_eq!(
            until(&three, &ring(5, &[1, 3], &records), 2),
            None,
            "others did not wait"
        );
        assert_eq!(until(&left, &ring(6, &[1, 3], &records), 1), None, "nothing moved");
        // Noted, the time stays what it is when leases are renewed.
        records[2].ring_changed_ms = 100_500;
        for lease_until_ms in [115_500, 120_500] {
            records[2].lease_until_ms = lease_until_ms;
            let noted = OwnUntil {
                ms: after_join(100_500) - 1,
                is_noted: true,
            };
            assert_eq!(until(&two, &ring(4, &[1, 2, 3], &records), 1), Some(noted));
        }
    }

    #[test]
    fn a_lease_that_was_renewed_says_until_when_nobody_else_scraped() {
        let renewed = |term: u64, nodes: &[u64], lease_until_ms: i64| MetaState {
            nodes: vec![Node {
                id: 2,
                lease_until_ms,
                ..Default::default()
            }],
            ..(*state(term, nodes)).clone()
        };
        let mut terms = Terms::default();
        note_lease(&mut terms, &renewed(3, &[1, 2], 114_500), NodeId(2), LEASE);
        let sure_ms = 100_000 - CLOCKS_DIFFER_MS;
        assert!(terms.covers(3, sure_ms) && !terms.covers(3, sure_ms + 1));
        assert!(!terms.covers(2, sure_ms), "another term is another ring");
        // It was taken out, and the other scraper has its targets: what it scraped meanwhile is not its own alone.
        note_lease(&mut terms, &renewed(4, &[1], 115_000), NodeId(2), LEASE);
        assert!(!terms.covers(4, 0) && terms.covers(3, sure_ms));
        note_lease(&mut terms, &renewed(5, &[1, 2], 160_000), NodeId(2), LEASE);
        assert!(terms.covers(5, 140_000) && !terms.covers(3, 140_000));
    }
}
