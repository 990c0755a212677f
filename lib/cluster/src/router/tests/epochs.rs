//! Writes across the beginning of a placement epoch.

use super::*;
use gnomon_model::PlacementEpoch;

const T: i64 = 100_000;
const OLD: usize = 2;
const NEW: usize = 3;

/// Shards 0 and 1 up to T, 2 to 4 from then on; the router's map has the second epoch or not.
fn across(knows: bool) -> Fixture {
    let mut f = fixture((OLD + NEW) as u32);
    for shard in 0..OLD + NEW {
        f.shard(shard).owned = Some(if shard < OLD { (i64::MIN, T) } else { (T, i64::MAX) });
    }
    f.placement = map(2);
    f.map.send_replace(map(if knows { 2 } else { 1 }));
    f
}

fn map(epochs: usize) -> Arc<Placement> {
    let record = |epoch, from_ms, shards: std::ops::Range<usize>| v1::PlacementEpoch {
        epoch,
        from_ms,
        shards: shards.map(|s| s as u32).collect(),
        by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
        spreads: vec![],
    };
    let all = [record(1, i64::MIN, 0..OLD), record(2, T, OLD..OLD + NEW)];
    Arc::new(Placement::from_records(&all[..epochs]).unwrap())
}

impl Fixture {
    fn times(&self, shards: std::ops::Range<usize>) -> Vec<i64> {
        let mut times: Vec<i64> = shards
            .flat_map(|shard| self.shard(shard).samples.keys().map(|(_, at)| *at).collect::<Vec<_>>())
            .collect();
        times.sort_unstable();
        times.dedup();
        times
    }

    /// The map comes once a shard has refused something by it.
    async fn while_the_map_comes<T>(&self, work: impl Future<Output = T>) -> T {
        let refused = |f: &Self| (0..OLD).any(|shard| f.shard(shard).requests > 0);
        let comes = async {
            while !refused(self) {
                tokio::task::yield_now().await;
            }
            self.map.send_replace(map(2));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            done = work => done,
            () = comes => unreachable!("it does not end"),
        }
    }
}

#[tokio::test]
async fn rows_go_where_their_time_belongs() {
    let f = across(true);
    let labels = many(20, 3);
    let outcome = f.write(&labels, T - 1).await;
    assert_eq!(
        (outcome.taken, outcome.refused.len(), outcome.retryable),
        (120, 0, None)
    );
    assert_eq!(f.times(0..OLD), [T - 1]);
    assert_eq!(f.times(OLD..OLD + NEW), [T]);
}

#[tokio::test(start_paused = true)]
async fn rows_by_an_old_map_reach_their_owners_all_the_same() {
    let f = across(false);
    let labels = many(20, 3);
    let before = f.write(&labels, T - 10).await;
    assert_eq!((before.taken, before.refused.len()), (120, 0));
    // The second sample of each series is of the next epoch.
    let outcome = f.while_the_map_comes(f.write(&labels, T - 1)).await;
    assert_eq!((outcome.taken, outcome.retryable, outcome.failed), (120, None, None));
    assert!(
        outcome.refused.is_empty(),
        "whoever sent it hears nothing of it: {:?}",
        outcome.refused
    );
    assert_eq!(f.times(OLD..OLD + NEW), [T]);
    for set in &labels {
        let owner = f
            .placement
            .owner(TenantSeed::of(&TenantId::anonymous()), set.as_ref(), TimestampMs(T));
        let owner = owner.unwrap().shard.0 as usize;
        assert!(f.shard(owner).samples.contains_key(&(set.to_string(), T)));
    }
    // References were learnt for the epoch they are of.
    let again = f.write(&labels, T + 5).await;
    assert_eq!((again.taken, f.router.metrics.resends.get()), (120, 0));
}

#[tokio::test(start_paused = true)]
async fn rows_without_a_place_are_to_be_sent_again() {
    let f = across(false);
    let labels = many(3, 1);
    let outcome = f.write(&labels, T - 1).await;
    assert_eq!((outcome.taken, outcome.failed, outcome.refused.len()), (3, None, 0));
    let why = outcome.retryable.unwrap();
    assert!(why.is_retryable() && why.to_string().contains("not in force"), "{why}");
    // The beginning moves on: the shard takes it after all, by the same map.
    let shards = || {
        for shard in 0..OLD {
            f.shard(shard).owned = None;
        }
        std::future::pending::<()>()
    };
    let outcome = tokio::select! {
        outcome = f.write(&labels, T + 7) => outcome,
        () = async { tokio::time::sleep(Duration::from_secs(1)).await; shards().await } => unreachable!(),
    };
    assert_eq!((outcome.taken, outcome.retryable), (6, None));
}

#[tokio::test(start_paused = true)]
async fn a_tick_by_an_old_map_is_sent_by_the_new_one() {
    let f = across(false);
    let labels = of_target(5);
    let outcome = f.while_the_map_comes(f.push(&labels, T + 1, true)).await.unwrap();
    assert_eq!((outcome.taken, outcome.samples_taken), (true, 5));
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused);
    assert_eq!((f.times(0..OLD), f.times(OLD..OLD + NEW)), (vec![], vec![T + 1]));
}

#[tokio::test(start_paused = true)]
async fn a_tick_without_a_place_is_an_error_that_passes() {
    let f = across(false);
    let error = f.push(&of_target(1), T, true).await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("not in force"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn samples_of_a_tick_that_bring_a_later_time_go_on() {
    let f = across(false);
    let labels = of_target(2);
    let samples = [sample(&labels[0], 0, T - 5), sample(&labels[1], 1, T + 5)];
    let push = f.push_samples(&labels, &samples, T - 5, true);
    let outcome = f.while_the_map_comes(push).await.unwrap();
    assert_eq!((outcome.taken, outcome.samples_taken), (true, 2));
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused);
    assert_eq!((f.times(0..OLD), f.times(OLD..OLD + NEW)), (vec![T - 5], vec![T + 5]));
}

#[tokio::test]
async fn the_last_ticks_before_an_epoch_are_named_to_its_shards() {
    let f = across(true);
    let labels = of_target(4);
    // The interval is 15 s: four ticks before are told.
    for (at, told) in [(T - 60_001, false), (T - 60_000, true), (T - 15_000, true)] {
        f.push(&labels, at, true).await.unwrap();
        let home = (OLD..OLD + NEW).filter(|s| !f.shard(*s).ticks.is_empty());
        let home: Vec<usize> = home.collect();
        assert_eq!(home.is_empty(), !told, "at {at}");
        for shard in home {
            let newest = f.shard(shard).ticks.last().cloned().unwrap();
            assert!(newest.0.names_only && newest.0.home && newest.0.complete);
            assert_eq!((newest.0.tick_ms, newest.1), (at, 5), "four series and metadata");
        }
    }
    assert!(f.times(OLD..OLD + NEW).is_empty(), "no samples");
    // The router has learnt the references meanwhile.
    let hits = f.router.metrics.cache_hits.get();
    f.push(&labels, T, true).await.unwrap();
    assert_eq!(f.router.metrics.cache_hits.get() - hits, 4);
    assert_eq!(f.times(OLD..OLD + NEW), [T]);
    let targets = [PlacementEpoch(1), PlacementEpoch(2)].map(|epoch| f.router.targets.has(TargetId(7), epoch));
    assert_eq!(targets, [false, false], "one shard has all of the target");
}

#[tokio::test(start_paused = true)]
async fn a_tick_is_taken_whether_or_not_its_names_are() {
    let f = across(true);
    for shard in OLD..OLD + NEW {
        let gone = || Fault::Before(ServiceError::Unavailable("no leader".into()));
        f.shard(shard).faults.extend(std::iter::repeat_with(gone).take(1000));
    }
    let outcome = f.push(&of_target(4), T - 1, true).await.unwrap();
    assert_eq!((outcome.taken, outcome.samples_taken), (true, 4));
}
