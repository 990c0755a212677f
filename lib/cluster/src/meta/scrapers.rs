//! The ring of scrapers: who is in it, and under which term.
//!
//! ```text
//! starts, a new life      out, term + 1 where the life before was in
//! can scrape              in the ring, term + 1 (pushes of the life before are refused)
//! is about to stop        out, term + 1
//! lease ended             out, term + 1, by a commit of the leader: no watcher decides it by its own clock
//! renews when out         in again, term + 1
//! ```
//! Invariant: two states with one term have the same members, each in the same life.

use super::machine::Effect;
use gnomon_model::ids::RING_TIMES_FEATURE_LEVEL;
use gnomon_proto::v1::{MetaState, Node, ScraperRing};

/// Whether a node may own targets: it has the role and has begun a life (what asks for an id only has not).
pub(super) fn may_scrape(node: &Node) -> bool {
    node.incarnation > 0 && node.roles.iter().any(|role| role == "scraper")
}

/// Notes that a node came or went. One whose lease had ended before went with that.
fn note_change(state: &mut MetaState, id: u64, now_ms: i64) {
    let has_times = state.feature_level >= RING_TIMES_FEATURE_LEVEL.0;
    let node = state.nodes.iter_mut().find(|node| node.id == id);
    if let Some(node) = node.filter(|_| has_times) {
        node.ring_changed_ms = now_ms.min(node.lease_until_ms);
    }
}

/// Takes a node into the ring, or notes that it began a new life. Whether that changed something.
pub(super) fn join(state: &mut MetaState, node: u64, new_life: bool, now_ms: i64) -> bool {
    let ring = state.scrapers.get_or_insert_with(ScraperRing::default);
    match ring.nodes.binary_search(&node) {
        Ok(_) if !new_life => return false,
        Ok(_) => {}
        Err(at) => ring.nodes.insert(at, node),
    }
    ring.term += 1;
    note_change(state, node, now_ms);
    true
}

/// Takes nodes out of the ring. Whether one was in it.
pub(super) fn leave(state: &mut MetaState, nodes: &[u64], now_ms: i64) -> bool {
    let Some(ring) = &mut state.scrapers else {
        return false;
    };
    let gone: Vec<u64> = ring.nodes.extract_if(.., |node| nodes.contains(node)).collect();
    ring.term += u64::from(!gone.is_empty());
    for node in &gone {
        note_change(state, *node, now_ms);
    }
    !gone.is_empty()
}

/// Scrapers of the ring whose lease has ended at `now_ms`.
pub(crate) fn overdue(state: &MetaState, now_ms: i64) -> Vec<u64> {
    let ring = state.scrapers.iter().flat_map(|ring| &ring.nodes);
    let lease = |id: u64| state.nodes.iter().find(|n| n.id == id).map(|n| n.lease_until_ms);
    ring.copied()
        .filter(|id| lease(*id).is_none_or(|until| until <= now_ms))
        .collect()
}

pub(super) fn expire(state: &mut MetaState, now_ms: i64) -> Effect {
    let gone = overdue(state, now_ms);
    Effect {
        changed: leave(state, &gone, now_ms),
        ..Effect::NONE
    }
}
