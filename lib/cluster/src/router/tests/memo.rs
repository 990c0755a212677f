//! Ticks of a scraper that numbers its series.

use super::*;
use crate::router::rows::cache_key;
use gnomon_model::{PlacementEpoch, SeriesRef};

struct Numbered {
    labels: Vec<Labels>,
    memo: TickMemo,
}

impl LabelSource for Numbered {
    fn write_labels(&self, series: u32, out: &mut Vec<u8>) {
        self.labels.write_labels(series, out);
    }
    fn memo(&self) -> Option<&TickMemo> {
        Some(&self.memo)
    }
}

impl Fixture {
    async fn push_numbered(&self, source: &Numbered, at: i64) -> TickOutcome {
        let numbered = source.labels.iter().enumerate();
        let samples: Vec<_> = numbered.map(|(i, l)| sample(l, i, at)).collect();
        self.push_from(source, &samples, at, true).await.unwrap()
    }

    /// What is known of these is known to their memo alone.
    fn empty_cache(&self, source: &Numbered) {
        let home = self.owner(&source.labels[0]);
        let references: Vec<u64> = {
            let shard = self.shard(home);
            source.labels.iter().map(|l| shard.refs[l.as_bytes()]).collect()
        };
        let seed = TenantSeed::of(&TenantId::anonymous());
        for (labels, reference) in source.labels.iter().zip(references) {
            let key = cache_key(identity(labels), seed, PlacementEpoch(1));
            self.router.cache.forget(key, SeriesRef(reference));
        }
    }
}

/// A target with so many series, of which nothing is known yet.
fn numbered(series: usize) -> Numbered {
    Numbered {
        labels: of_target(series),
        memo: TickMemo::default(),
    }
}

#[tokio::test]
async fn known_series_of_a_tick_are_not_looked_up() {
    let f = fixture(3);
    let source = numbered(50);
    for at in [1000, 2000] {
        assert_eq!(f.push_numbered(&source, at).await.samples_taken, 50);
    }
    f.empty_cache(&source);
    assert_eq!(f.router.cache.len(), 0);
    let misses = f.router.metrics.cache_misses.get();
    assert_eq!(f.push_numbered(&source, 3000).await.samples_taken, 50);
    assert_eq!(f.router.metrics.cache_misses.get(), misses);
}

#[tokio::test]
async fn what_a_shard_forgot_is_not_sent_by_reference_again() {
    let f = fixture(1);
    let source = numbered(5);
    for at in [1000, 2000] {
        f.push_numbered(&source, at).await;
    }
    f.shard(0).forget();
    let tick = f.push_numbered(&source, 3000).await;
    assert_eq!((tick.taken, tick.samples_taken), (true, 5));
    let requests = f.shard(0).requests;
    for at in [4000, 5000] {
        assert_eq!(f.push_numbered(&source, at).await.samples_taken, 5);
    }
    assert_eq!(f.shard(0).requests, requests + 2, "the new references are known");
}

#[tokio::test]
async fn series_that_a_shard_still_knows_are_not_looked_up_for_one_that_it_forgot() {
    let f = fixture(1);
    let source = numbered(50);
    for at in [1000, 2000] {
        f.push_numbered(&source, at).await;
    }
    f.empty_cache(&source);
    f.shard(0).forget_one(&source.labels[7]);
    let misses = f.router.metrics.cache_misses.get();
    for at in [3000, 4000] {
        assert_eq!(f.push_numbered(&source, at).await.samples_taken, 50);
    }
    assert_eq!(f.router.metrics.cache_misses.get(), misses);
}
