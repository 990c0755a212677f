//! Changing the number of shards while targets are scraped, others write, shards restart and queries are asked: every
//! answer is that of one shard which had all of it, byte for byte, at every second across the epoch's beginning.

mod harness;

#[path = "conformance/memory_log.rs"]
mod memory_log;
#[path = "resharding/world.rs"]
mod world;

use gnomon_cluster::meta::{Reshard, reshard, reshard_progress};
use gnomon_cluster::router::{MetricInfo, Tick, TickExemplar, TickSample};
use gnomon_model::{Clock, Labels, TargetId, TenantId};
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{AddTombstone, CondemnBlocks, ForgetBlocks, LabelMatcher, MatcherSet, TombstoneRecord};
use harness::client::encode;
use std::time::Duration;
use world::World;

const WINDOW_MS: i64 = 2 * 60 * 60 * 1000;
/// Where the second epoch begins.
const T: i64 = 1_700_000_000_000 / WINDOW_MS * WINDOW_MS;
const INTERVAL_MS: i64 = 15_000;
const DEADLINE: Duration = Duration::from_secs(5);

/// A target that is scraped.
struct Target {
    job: &'static str,
    instance: &'static str,
    offset_ms: i64,
    /// When it is scraped at all.
    lives: fn(i64) -> bool,
    /// When it answers.
    answers: fn(i64) -> bool,
    /// Which of its numbered series it has.
    has: fn(i64, usize) -> bool,
}

const SERIES: usize = 6;

/// What can go on around the hand-over. `has`, `answers` and `lives` say it by the tick's time.
const TARGETS: [Target; 8] = [
    target("node", "steady", 1_000, |_| true, |_| true, |_, _| true),
    // Series that end or begin with the epoch's first tick, or one before or after it.
    target(
        "node",
        "changing",
        7_000,
        |_| true,
        |_| true,
        |at, n| match n {
            0 => at < T,
            1 => at >= T,
            2 => at < T - INTERVAL_MS,
            3 => at < T + INTERVAL_MS,
            _ => true,
        },
    ),
    target("node", "exact", 0, |_| true, |_| true, |at, n| n != 0 || at < T),
    target(
        "node",
        "fails",
        3_000,
        |_| true,
        |at| !(T - 5_000..T + 40_000).contains(&at),
        |_, _| true,
    ),
    target(
        "node",
        "fails-before",
        4_000,
        |_| true,
        |at| !(T - 40_000..T).contains(&at),
        |_, _| true,
    ),
    // Gone for good, well after the beginning: its last ticks are the new shards'.
    target("node", "gone", 9_000, |at| at < T + 70_000, |_| true, |_, _| true),
    target(
        "big",
        "spread",
        5_000,
        |_| true,
        |_| true,
        |at, n| n % 2 == 0 || at < T + 5_000,
    ),
    target("big", "comes", 11_000, |at| at > T - 20_000, |_| true, |_, _| true),
];

const fn target(
    job: &'static str,
    instance: &'static str,
    offset_ms: i64,
    lives: fn(i64) -> bool,
    answers: fn(i64) -> bool,
    has: fn(i64, usize) -> bool,
) -> Target {
    Target {
        job,
        instance,
        offset_ms,
        lives,
        answers,
        has,
    }
}

fn identity(labels: &Labels) -> u128 {
    let hash = |seed: u64| u128::from(labels.stable_hash() ^ seed);
    hash(1) << 64 | hash(0)
}

/// Pushes one scrape, as the scraper does. Whether it was taken.
async fn scrape(world: &World, target: &Target, tick_ms: i64) -> u64 {
    let label = |name: String| {
        Labels::from_pairs([
            ("__name__", name.as_str()),
            ("job", target.job),
            ("instance", target.instance),
        ])
    };
    let numbered = |metric: &str, n: usize| {
        let n = n.to_string();
        let pairs = [
            ("__name__", metric),
            ("job", target.job),
            ("instance", target.instance),
            ("n", n.as_str()),
        ];
        Labels::from_pairs(pairs)
    };
    let answers = (target.answers)(tick_ms);
    let mut all = vec![(label("up".into()), if answers { 1.0 } else { 0.0 })];
    let since = (tick_ms - T) / 1000 + 10_000;
    for n in 0..SERIES {
        if answers && (target.has)(tick_ms, n) {
            // With a reset now and then, and sums that no order of adding may show in.
            let counter = ((since * (n as i64 + 1)) % 1777) as f64 * 0.1;
            all.push((numbered("c_total", n), counter));
            all.push((numbered("g", n), (counter * 1.7).sin() * 1e9));
        }
    }
    let samples: Vec<TickSample> = (0u32..)
        .zip(&all)
        .map(|(series, (labels, value))| TickSample {
            start_ms: 0,
            identity: identity(labels),
            series,
            timestamp_ms: tick_ms,
            value: *value,
        })
        .collect();
    let exemplars: Vec<TickExemplar> = samples
        .iter()
        .take(2)
        .map(|s| TickExemplar {
            identity: s.identity,
            series: s.series,
            timestamp_ms: tick_ms,
            value: s.value,
            labels: Labels::from_pairs([("trace", tick_ms.to_string().as_str())]),
        })
        .collect();
    let labels: Vec<Labels> = all.into_iter().map(|(labels, _)| labels).collect();
    let tenant = TenantId::anonymous();
    let own = Labels::from_pairs([("job", target.job), ("instance", target.instance)]);
    let info = |metric| MetricInfo {
        metric,
        kind: "counter",
        unit: "",
        help: "what it counts",
    };
    let tick = Tick {
        tenant: &tenant,
        target: TargetId(own.stable_hash()),
        term: 1,
        tick_ms,
        interval_ms: INTERVAL_MS as u64,
        complete: true,
        track_timestamps_staleness: false,
        target_labels: own.as_ref(),
        samples: &samples,
        histograms: &[],
        exemplars: &exemplars,
        metadata: &[info("c_total"), info("g")],
        labels: &labels,
    };
    let outcome = world.router.push_tick(&tick, DEADLINE).await.expect("taken");
    assert!(
        outcome.taken && outcome.refused.is_empty(),
        "{}: {outcome:?}",
        target.instance
    );
    assert_eq!(outcome.samples_taken, samples.len() as u64);
    outcome.series_added
}

/// Rows as remote write brings them: a few series, at these times.
async fn write(world: &World, times: &[i64]) {
    let labels: Vec<Labels> = (0..5)
        .map(|n| {
            let instance = format!("sender-{n}");
            Labels::from_pairs([("__name__", "written"), ("job", "rw"), ("instance", instance.as_str())])
        })
        .collect();
    let tenant = TenantId::anonymous();
    let mut batch = world.router.batch(&tenant, &labels);
    for (n, set) in labels.iter().enumerate() {
        batch.series(identity(set), n as u32);
        for at in times {
            batch.sample(*at, (*at - T) as f64 * 0.001 * (n + 1) as f64);
        }
    }
    let outcome = batch.send(DEADLINE).await;
    let done = (outcome.taken, outcome.refused, outcome.retryable, outcome.failed);
    assert_eq!(done, ((5 * times.len()) as u64, Vec::new(), None, None));
}

/// One cluster that changes the number of its shards, and one that never has more than one.
struct Pair {
    many: World,
    one: World,
    now_ms: i64,
}

impl Pair {
    fn new(shards: u32, now_ms: i64) -> Self {
        Self {
            many: World::new(shards, now_ms),
            one: World::new(1, now_ms),
            now_ms,
        }
    }

    /// Both live on until `end_ms`, second by second.
    async fn run(&mut self, end_ms: i64, tell: bool) {
        while self.now_ms < end_ms {
            self.now_ms += 1000;
            for world in [&mut self.many, &mut self.one] {
                world.clock.advance(Duration::from_secs(1));
                assert_eq!(world.clock.now().0, self.now_ms);
                if self.now_ms % 5000 == 0 {
                    world.round(tell).await;
                }
            }
            for target in &TARGETS {
                let is_due = (self.now_ms - target.offset_ms).rem_euclid(INTERVAL_MS) == 0;
                if is_due && (target.lives)(self.now_ms) {
                    let added = scrape(&self.many, target, self.now_ms).await;
                    assert_eq!(
                        added,
                        scrape(&self.one, target, self.now_ms).await,
                        "{}",
                        target.instance
                    );
                }
            }
            if self.now_ms.rem_euclid(10_000) == 0 {
                for world in [&self.many, &self.one] {
                    write(world, &[self.now_ms - 20_000 - 4000, self.now_ms - 20_000]).await;
                }
            }
        }
    }

    /// Time goes on without samples.
    async fn idle(&mut self, time: Duration) {
        for world in [&mut self.many, &mut self.one] {
            world.clock.advance(time);
            for _ in 0..4 {
                world.clock.advance(Duration::from_secs(5));
                world.round(true).await;
            }
        }
        self.now_ms = self.many.clock.now().0;
    }

    async fn same(&self, path: &str) {
        let (many, one) = (self.many.get(path).await, self.one.get(path).await);
        assert!(!one.contains("warnings"), "{path}: {one}");
        if many != one {
            let at = many.bytes().zip(one.bytes()).take_while(|(a, b)| a == b).count();
            let around = |text: &str| {
                let bytes = &text.as_bytes()[at.saturating_sub(300)..(at + 200).min(text.len())];
                String::from_utf8_lossy(bytes).into_owned()
            };
            panic!("{path}\nsharded: ...{}\none:     ...{}", around(&many), around(&one));
        }
    }

    /// Every query of the list gives the same, at each of the times.
    async fn same_answers(&self, around_ms: i64, each_way_s: i64) {
        let (from, to) = (around_ms / 1000 - each_way_s, around_ms / 1000 + each_way_s);
        for query in QUERIES {
            let query = encode(query);
            self.same(&format!(
                "/api/v1/query_range?query={query}&start={from}&end={to}&step=1"
            ))
            .await;
            self.same(&format!(
                "/api/v1/query_range?query={query}&start={from}&end={to}&step=37"
            ))
            .await;
            for at in [from, around_ms / 1000 - 1, around_ms / 1000, around_ms / 1000 + 1, to] {
                self.same(&format!("/api/v1/query?query={query}&time={at}")).await;
            }
        }
        for path in [
            "labels?",
            "label/n/values?",
            "label/instance/values?",
            "series?match[]=up&",
        ] {
            self.same(&format!("/api/v1/{path}start={from}&end={to}")).await;
        }
        // Exemplars go with the series of the head that has them: those of before earlier than where one head has all.
        if self.many.state().blocks.is_empty() {
            self.same(&format!("/api/v1/query_exemplars?query=up&start={from}&end={to}"))
                .await;
        }
        self.same("/api/v1/labels").await;
        self.same("/api/v1/label/instance/values").await;
        self.same("/api/v1/metadata").await;
    }
}

const QUERIES: [&str; 19] = [
    r#"{__name__=~".+"}"#,
    r#"{instance="changing",job="node"}"#,
    "count by (__name__) ({__name__=~\".+\"})",
    "count(up)",
    "sum by (instance) (rate(c_total[2m]))",
    "increase(c_total[5m])",
    "sum(rate(c_total[1m] offset 90s))",
    "avg(g)",
    "stddev(g)",
    "max_over_time(g[3m])",
    "avg_over_time(sum(rate(c_total[1m]))[4m:20s])",
    "changes(up[10m])",
    "count_over_time(written[3m])",
    "topk(3, g)",
    "absent(c_total{instance=\"comes\"})",
    "quantile(0.3, g)",
    "present_over_time(c_total{n=\"0\"}[2m])",
    "sum(c_total @ 1699999200)",
    "c_total and on (instance) up == 1",
];

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_one_shard_at_every_second() {
    let mut pair = Pair::new(3, T - 50 * 60_000);
    pair.run(T - 46 * 60_000, true).await;
    let clock = pair.many.clock.clone();
    let wanted = Reshard::to(5);
    let announced = reshard(pair.many.meta.as_ref(), &wanted, clock.as_ref()).await;
    assert_eq!(announced.expect("announced").epoch.map(|e| e.epoch), Some(2));
    // Nothing stops meanwhile, and queriers do not hear of anything.
    pair.run(T - 45 * 60_000, false).await;
    let state = pair.many.state();
    assert_eq!(reshard_progress(&state), None, "in force long before it begins");
    assert_eq!(
        state.epochs.iter().map(|e| e.from_ms).collect::<Vec<_>>(),
        [i64::MIN, T]
    );
    // A querier with the old map is told as soon as it asks for what is beyond.
    pair.run(T - 60_000, false).await;
    pair.many.restart_shards();
    pair.run(T + 60_000, false).await;
    pair.same_answers(T, 60).await;
    pair.many.restart_shards();
    pair.run(T + 8 * 60_000, true).await;
    pair.same_answers(T, 6 * 60).await;
    // Late samples go where their time belongs.
    for world in [&pair.many, &pair.one] {
        write(world, &[T - 90_500, T - 1, T + 1, T + 500]).await;
    }
    pair.same_answers(T, 100).await;
    let delete = TombstoneRecord {
        path: "tombstones/anonymous/1".into(),
        tenant: "anonymous".into(),
        series: vec![MatcherSet {
            matchers: vec![LabelMatcher {
                op: 0,
                name: "n".into(),
                value: "4".into(),
            }],
        }],
        start_ms: T - 100_000,
        end_ms: T + 100_000,
        ..TombstoneRecord::default()
    };
    for world in [&mut pair.many, &mut pair.one] {
        world.commit(Command::AddTombstone(AddTombstone {
            tombstone: Some(delete.clone()),
        }));
        world.round(true).await;
        assert!(
            world.state().tombstones.iter().all(|t| t.pending_shards.is_empty()),
            "in all logs"
        );
    }
    pair.same_answers(T, 200).await;
    // From blocks: first those of the windows before, then of all.
    pair.idle(Duration::from_secs(40 * 60)).await;
    assert!(!pair.many.state().blocks.is_empty());
    pair.same_answers(T, 200).await;
    pair.idle(Duration::from_secs(3 * 60 * 60)).await;
    let state = pair.many.state();
    for block in &state.blocks {
        let is_new = block.shard >= 3;
        assert_eq!(is_new, block.min_sample_ms >= T, "{block:?}");
        assert_eq!(is_new, block.max_sample_ms >= T, "{block:?}");
    }
    assert!(state.blocks.iter().any(|b| b.shard >= 3) && state.blocks.iter().any(|b| b.shard < 3));
    pair.same_answers(T, 200).await;
    old_epoch_goes(pair).await;
}

/// Once retention has let go of what the first epoch had it is forgotten; what there is of the second stays.
async fn old_epoch_goes(mut pair: Pair) {
    let path = format!(
        "/api/v1/query_range?query=g&start={}&end={}&step=5",
        T / 1000 + 300,
        T / 1000 + 400
    );
    let before = pair.many.get(&path).await;
    let old: Vec<String> = {
        let state = pair.many.state();
        state
            .blocks
            .iter()
            .filter(|b| b.shard < 3)
            .map(|b| b.id.clone())
            .collect()
    };
    pair.many.commit(Command::CondemnBlocks(CondemnBlocks {
        ids: old.clone(),
        only_staged: false,
    }));
    pair.many.commit(Command::ForgetBlocks(ForgetBlocks { ids: old }));
    pair.idle(Duration::from_secs(60)).await;
    assert_eq!(pair.many.state().epochs.len(), 2, "late samples may come yet");
    pair.idle(Duration::from_secs(13 * 60 * 60)).await;
    let state = pair.many.state();
    assert_eq!(
        state.epochs.iter().map(|e| (e.epoch, e.from_ms)).collect::<Vec<_>>(),
        [(2, i64::MIN)]
    );
    assert_eq!(
        state.shards.iter().map(|r| r.shard).collect::<Vec<_>>(),
        [3, 4, 5, 6, 7]
    );
    assert_eq!(pair.many.get(&path).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_a_shard_keeps_waiting_begins_later() {
    let mut pair = Pair::new(2, T - 20 * 60_000 - 25_000);
    let clock = pair.many.clock.clone();
    reshard(pair.many.meta.as_ref(), &Reshard::to(3), clock.as_ref())
        .await
        .expect("announced");
    let begins = |world: &World| reshard_progress(&world.state()).map(|progress| progress.from_ms);
    assert_eq!(begins(&pair.many), Some(T));
    // One of the shards does not get to it before the guard.
    pair.many.hold(1);
    pair.run(T - 12 * 60_000, true).await;
    assert_eq!(begins(&pair.many), Some(T), "there is time yet");
    pair.run(T - 10 * 60_000, true).await;
    assert_eq!(
        begins(&pair.many),
        Some(T + WINDOW_MS),
        "moved on before a sample of its time could come"
    );
    pair.run(T + 2 * 60_000, true).await;
    pair.same_answers(T, 60).await;
    assert_eq!(
        pair.many.state().epoch_change.as_ref().map(|c| c.closing.clone()),
        Some(vec![1])
    );
    pair.many.release(1);
    pair.run(T + 3 * 60_000, true).await;
    assert_eq!(begins(&pair.many), None);
    let from: Vec<i64> = pair.many.state().epochs.iter().map(|e| e.from_ms).collect();
    assert_eq!(from, [i64::MIN, T + WINDOW_MS]);
    pair.same_answers(T, 60).await;
}
