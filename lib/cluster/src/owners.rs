//! Which of several nodes a key belongs to: the one with the highest weight for it (Thaler, Ravishankar: Using name-based
//! mappings to increase hit rates, 1998). A node that comes or goes moves only its own share.

use gnomon_model::NodeId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The owner of a key, the same on every node and in every release; none where there is no node.
#[must_use]
pub fn owner(key: &[u8], nodes: &[NodeId]) -> Option<NodeId> {
    let weight = |node: &NodeId| (xxh3_64_with_seed(key, node.0), *node);
    nodes.iter().map(weight).max().map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn who_comes_or_goes_moves_its_own_share_only() {
        let nodes: Vec<_> = (1..=5).map(NodeId).collect();
        let fewer: Vec<_> = nodes.iter().copied().filter(|node| node.0 != 3).collect();
        let mut shares = BTreeMap::new();
        for key in 0..10_000u64 {
            let key = key.to_string();
            let of = owner(key.as_bytes(), &nodes).unwrap();
            *shares.entry(of).or_insert(0) += 1;
            let then = owner(key.as_bytes(), &fewer).unwrap();
            assert!(of == then || of == NodeId(3), "{key} moved from {of} to {then}");
        }
        assert!(shares.values().all(|share| (1800..2200).contains(share)), "{shares:?}");
        assert_eq!(owner(b"key", &[]), None);
    }

    #[test]
    fn every_release_has_the_same_owners() {
        let nodes: Vec<_> = (1..=4).map(NodeId).collect();
        let owners: Vec<_> = ["a", "b", "c", "d", "e", "f"]
            .iter()
            .map(|key| owner(key.as_bytes(), &nodes).unwrap().0)
            .collect();
        assert_eq!(owners, [4, 4, 4, 2, 3, 4]);
    }
}
