//! Which scraper owns which target: a consistent-hash ring over the scrapers that are alive, so that one that comes or
//! goes moves only its own share.

use gnomon_model::{NodeId, TargetId};
use hashring::HashRing;
use std::hash::{BuildHasher, Hasher};
use xxhash_rust::xxh3::Xxh3;

/// Points on the ring per scraper: enough that shares differ by some ten per cent.
const POINTS: u32 = 128;

/// The scrapers that are alive, as the metadata group sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Of the metadata group's state. Grows with every change; goes with every push, so that shards refuse a scraper
    /// that missed one.
    pub term: u64,
    pub nodes: Vec<NodeId>,
    /// Of each node that is known when it came into the ring, or, of one that is not in it, when it left, or when it would
    /// have left that fell silent (`before_leave`): milliseconds of the metadata group's leader.
    pub since_ms: Vec<(NodeId, i64)>,
}

impl Members {
    /// See the field; none of a node that is not known.
    #[must_use]
    pub fn since_ms(&self, node: NodeId) -> Option<i64> {
        self.since_ms.iter().find(|(id, _)| *id == node).map(|(_, at)| *at)
    }
}

/// Terms that are remembered.
const MOST_TERMS: usize = 16;

/// Until when a scraper is known to have been in the ring, for each term: nobody else scraped its targets then. Times are
/// those of the metadata group's leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    until: Vec<(u64, i64)>,
    latest_ms: Option<i64>,
}

impl Terms {
    /// The scraper renewed its lease at `at_ms`, and the ring has this term since then or earlier.
    pub fn note(&mut self, term: u64, at_ms: i64) {
        self.latest_ms = Some(at_ms);
        self.note_end(term, at_ms);
    }

    /// The scraper's targets were its own up to `at_ms` under this term, and some are another's from then on under the next.
    pub fn note_end(&mut self, term: u64, at_ms: i64) {
        match self.until.iter_mut().find(|(known, _)| *known == term) {
            Some((_, until)) => *until = at_ms.max(*until),
            None => {
                if self.until.len() == MOST_TERMS {
                    self.until.remove(0);
                }
                self.until.push((term, at_ms));
            }
        }
    }

    /// What was noted last, milliseconds: less than what was noted before where the leader's clock was set back. None where
    /// nothing was.
    #[must_use]
    pub const fn latest_ms(&self) -> Option<i64> {
        self.latest_ms
    }

    /// Whether a scrape of that time, under that term, was made by nobody else.
    #[must_use]
    pub fn covers(&self, term: u64, at_ms: i64) -> bool {
        self.until
            .iter()
            .any(|(known, until)| *known == term && at_ms <= *until)
    }
}

/// The same hash on every node and in every release.
#[derive(Clone, Copy, Debug, Default)]
struct StableHash;

struct StableHasher(Xxh3);

impl Hasher for StableHasher {
    fn finish(&self) -> u64 {
        self.0.digest()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    // Integers are hashed in one byte order everywhere.
    fn write_u32(&mut self, value: u32) {
        self.0.update(&value.to_le_bytes());
    }

    fn write_u64(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }
}

impl BuildHasher for StableHash {
    type Hasher = StableHasher;

    fn build_hasher(&self) -> StableHasher {
        StableHasher(Xxh3::new())
    }
}

/// Says who owns a target.
pub struct Ring {
    ring: HashRing<(NodeId, u32), StableHash>,
}

impl Ring {
    #[must_use]
    pub fn new(nodes: &[NodeId]) -> Self {
        let mut ring = HashRing::with_hasher(StableHash);
        ring.batch_add(
            nodes
                .iter()
                .flat_map(|node| (0..POINTS).map(|point| (*node, point)))
                .collect(),
        );
        Self { ring }
    }

    /// None where there is no scraper at all.
    #[must_use]
    pub fn owner(&self, target: TargetId) -> Option<NodeId> {
        self.ring.get(&target).map(|(node, _)| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> impl Iterator<Item = TargetId> {
        (0..20_000u64).map(|i| TargetId(xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes())))
    }

    fn nodes(count: u64) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn one_member_owns_everything_and_none_nothing() {
        let ring = Ring::new(&nodes(1));
        assert!(targets().all(|t| ring.owner(t) == Some(NodeId(1))));
        assert_eq!(Ring::new(&[]).owner(TargetId(1)), None);
    }

    #[test]
    fn shares_are_even_and_the_order_of_members_does_not_matter() {
        let ring = Ring::new(&nodes(4));
        let mut reversed = nodes(4);
        reversed.reverse();
        let other = Ring::new(&reversed);
        let mut shares = [0u32; 5];
        for target in targets() {
            let owner = ring.owner(target).unwrap();
            assert_eq!(Some(owner), other.owner(target));
            shares[owner.0 as usize] += 1;
        }
        assert!(shares[1..].iter().all(|s| (3500..6500).contains(s)), "{shares:?}");
    }

    #[test]
    fn a_member_that_goes_moves_only_its_own_targets() {
        let (before, after) = (Ring::new(&nodes(5)), Ring::new(&nodes(4)));
        for target in targets() {
            let owner = before.owner(target).unwrap();
            if owner != NodeId(5) {
                assert_eq!(after.owner(target), Some(owner));
            }
        }
    }

    /// Scrapers of two releases share a ring: who owns a target must not change with the code.
    #[test]
    fn owners_do_not_change_between_releases() {
        let ring = Ring::new(&nodes(3));
        let owners: Vec<u64> = (0..12).map(|i| ring.owner(TargetId(i)).unwrap().0).collect();
        assert_eq!(owners, OWNERS);
    }

    const OWNERS: [u64; 12] = [3, 2, 3, 3, 3, 1, 1, 3, 1, 1, 2, 1];
}
