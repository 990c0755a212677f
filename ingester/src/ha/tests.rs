use super::*;
use crate::intake::Intake;
use crate::remote_write::{RemoteWrite, RemoteWriteOptions};
use crate::service::WriteOptions;
use crate::testing::{NOW, Node};
use async_trait::async_trait;
use axum::body::Body;
use axum::http::Request;
use futures::stream::BoxStream;
use gnomon_cluster::meta::MetaMachine;
use gnomon_model::ids::HA_FILLS_FEATURE_LEVEL;
use gnomon_model::{Clock, TenantId};
use gnomon_proto::ServiceError;
use gnomon_proto::prometheus as wire;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::*;
use parking_lot::Mutex;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// The metadata group without Raft.
struct Meta {
    machine: MetaMachine,
    clock: Arc<dyn Clock>,
    commands: Mutex<u64>,
}

#[async_trait]
impl MetaService for Meta {
    async fn propose(&self, mut command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        *self.commands.lock() += 1;
        command.proposed_at_ms = self.clock.now().0;
        Ok(self.machine.apply_command(&command))
    }
    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Ok(self.machine.state())
    }
    async fn watch(&self, _: u64) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        Err(ServiceError::Unavailable("not here".into()))
    }
}

struct Rig {
    node: Node,
    meta: Arc<Meta>,
    intake: Arc<Intake>,
    receiver: Arc<RemoteWrite>,
    tracker: Arc<HaTracker>,
}

impl Rig {
    /// The turn goes over after half a minute.
    fn new(feature_level: u32) -> Self {
        Self::with(feature_level, Duration::from_secs(30))
    }

    fn with(feature_level: u32, failover_timeout: Duration) -> Self {
        let options = HaOptions {
            max_clusters: 3,
            failover_timeout,
            ..HaOptions::default()
        };
        Self::with_options(feature_level, options)
    }

    fn with_options(feature_level: u32, options: HaOptions) -> Self {
        let node = Node::new(WriteOptions::default());
        let clock: Arc<dyn Clock> = node.clock.clone();
        let meta = Arc::new(Meta {
            machine: MetaMachine::default(),
            clock: clock.clone(),
            commands: Mutex::default(),
        });
        let init = InitCluster {
            cluster_id: "0000000000000000000000000000002a".into(),
            epoch: Some(PlacementEpoch {
                epoch: 1,
                from_ms: i64::MIN,
                shards: vec![0],
                by_labels: vec!["job".into()],
                spreads: vec![],
            }),
            shards: vec![ShardReplicas {
                shard: 0,
                nodes: vec![1],
            }],
            ..InitCluster::default()
        };
        let member = gnomon_proto::v1::Node {
            address: "127.0.0.1:9095".into(),
            incarnation: 1,
            feature_level,
            ..gnomon_proto::v1::Node::default()
        };
        let register = RegisterNode {
            node: Some(member),
            lease_ms: 1000,
        };
        for command in [Command::InitCluster(init), Command::RegisterNode(register)] {
            let answer = meta.machine.apply_command(&MetaCommand {
                proposed_at_ms: NOW,
                command: Some(command),
            });
            assert_eq!(answer.refused, "");
        }
        let states = meta.machine.watch();
        let service: Arc<dyn MetaService> = meta.clone();
        let registry = prometheus::Registry::new();
        let tracker = HaTracker::new(options, service, states, clock.clone(), &registry).unwrap();
        let intake = Intake::new(node.router.clone(), Some(tracker.clone()));
        let receiver = RemoteWrite::new(intake.clone(), RemoteWriteOptions::default(), &node.metrics, clock);
        Self {
            node,
            meta,
            intake,
            receiver,
            tracker,
        }
    }

    /// Of a build that fills the end of the turn before, and does.
    fn that_fills(options: HaOptions) -> (Self, tokio_util::sync::DropGuard) {
        let level = HA_FILLS_FEATURE_LEVEL.0;
        let rig = Self::with_options(level, options);
        let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
        let answer = rig.meta.machine.apply_command(&MetaCommand {
            proposed_at_ms: NOW,
            command: Some(raise),
        });
        assert_eq!(answer.refused, "");
        let stop = CancellationToken::new();
        tokio::spawn(fill_turns(rig.intake.clone(), stop.clone()));
        (rig, stop.drop_guard())
    }

    fn now(&self) -> i64 {
        self.node.clock.now().0
    }

    async fn post(&self, series: Vec<wire::TimeSeries>) -> (u16, String) {
        let request = wire::WriteRequest {
            timeseries: series,
            metadata: Vec::new(),
        };
        let body = snap::raw::Encoder::new()
            .compress_vec(&request.encode_to_vec())
            .unwrap();
        let request = Request::post("/api/v1/write").body(Body::from(body)).unwrap();
        let response = self.receiver.routes().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// As one of a pair: its samples have its own number as their value.
    async fn write(&self, cluster: &str, replica: u8, samples: &[i64]) -> u16 {
        let replica_name = format!("r{replica}");
        let labels = [("__name__", "m"), ("__replica__", &replica_name), ("cluster", cluster)];
        let samples: Vec<_> = samples.iter().map(|t| (*t, f64::from(replica))).collect();
        self.post(vec![series(&labels, &samples)]).await.0
    }

    async fn stored(&self, labels: &str) -> Vec<(i64, f64)> {
        let all = self.node.read(View::default()).await.unwrap();
        all.get(labels).cloned().unwrap_or_default()
    }
}

fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> wire::TimeSeries {
    wire::TimeSeries {
        labels: labels
            .iter()
            .map(|(name, value)| wire::Label {
                name: (*name).into(),
                value: (*value).into(),
            })
            .collect(),
        samples: samples
            .iter()
            .map(|(timestamp, value)| wire::Sample {
                value: *value,
                timestamp: *timestamp,
            })
            .collect(),
        ..wire::TimeSeries::default()
    }
}

const STORED: &str = r#"{__name__="m", cluster="c"}"#;

#[tokio::test]
async fn one_of_a_pair_is_taken_without_its_label() {
    let rig = Rig::new(4);
    assert_eq!(rig.write("c", 1, &[NOW]).await, 204);
    // The other one's: taken, and dropped.
    assert_eq!(rig.write("c", 2, &[NOW + 1]).await, 204);
    assert_eq!(rig.stored(STORED).await, [(NOW, 1.0)]);
    // Without either label, a series is taken as it is.
    let alone = series(&[("__name__", "x"), ("__replica__", "r2")], &[(NOW, 1.0)]);
    let plain = series(&[("__name__", "x"), ("cluster", "c")], &[(NOW, 1.0)]);
    let empty = series(
        &[("__name__", "y"), ("__replica__", ""), ("cluster", "c")],
        &[(NOW, 1.0)],
    );
    assert_eq!(rig.post(vec![alone, plain, empty]).await.0, 204);
    let all = rig.node.read(View::default()).await.unwrap();
    let names: Vec<_> = all.keys().map(String::as_str).collect();
    let expected = [
        r#"{__name__="m", cluster="c"}"#,
        r#"{__name__="x", __replica__="r2"}"#,
        r#"{__name__="x", cluster="c"}"#,
        r#"{__name__="y", cluster="c"}"#,
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_pair_is_told_by_the_labels_that_are_asked_for_and_by_no_others() {
    let options = HaOptions {
        cluster_label: "team".into(),
        replica_label: "prometheus_replica".into(),
        ..HaOptions::default()
    };
    let rig = Rig::with_options(4, options);
    for replica in ["a", "b"] {
        let value = if replica == "a" { 1.0 } else { 2.0 };
        let paired = [("__name__", "m"), ("prometheus_replica", replica), ("team", "t")];
        // Those that are asked for elsewhere say nothing here.
        let others = [("__name__", "n"), ("__replica__", replica), ("cluster", "c")];
        let body = [&paired, &others].map(|labels| series(labels, &[(NOW, value)]));
        assert_eq!(rig.post(body.into()).await.0, 204);
    }
    let all = rig.node.read(View::default()).await.unwrap();
    let stored: Vec<_> = all
        .iter()
        .map(|(name, samples)| (name.as_str(), samples[0].1))
        .collect();
    let expected = [
        (r#"{__name__="m", team="t"}"#, 1.0),
        (r#"{__name__="n", __replica__="a", cluster="c"}"#, 1.0),
        (r#"{__name__="n", __replica__="b", cluster="c"}"#, 2.0),
    ];
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn what_is_nobodys_yet_is_neither_taken_nor_dropped() {
    let rig = Rig::new(4);
    assert_eq!(rig.write("c", 1, &[NOW]).await, 204);
    // Up to 15 s beyond its newest sample are its own; what is later waits.
    assert_eq!(rig.write("c", 2, &[NOW + 14_999]).await, 204);
    assert_eq!(rig.write("c", 2, &[NOW + 15_000]).await, 503);
    rig.node.clock.advance(Duration::from_secs(12));
    assert_eq!(rig.write("c", 1, &[NOW + 12_000]).await, 204);
    assert_eq!(
        rig.write("c", 2, &[NOW + 15_000]).await,
        204,
        "decided by the first one's claim"
    );
    // The first one dies. Half a minute later the other has its turn, with what it kept.
    rig.node.clock.advance(Duration::from_secs(29));
    assert_eq!(
        rig.write("c", 2, &[NOW + 26_999, NOW + 27_000, NOW + 29_000]).await,
        503
    );
    rig.node.clock.advance(Duration::from_secs(1));
    assert_eq!(
        rig.write("c", 2, &[NOW + 26_999, NOW + 27_000, NOW + 29_000]).await,
        204
    );
    let expected = [
        (NOW, 1.0),
        (NOW + 12_000, 1.0),
        (NOW + 27_000, 2.0),
        (NOW + 29_000, 2.0),
    ];
    assert_eq!(rig.stored(STORED).await, expected);
    // The first one was cut off, and sends what it had: within its turn it counts, beyond it does not.
    assert_eq!(rig.write("c", 1, &[NOW + 20_000, NOW + 28_000]).await, 204);
    assert!(rig.stored(STORED).await.contains(&(NOW + 20_000, 1.0)));
    assert_eq!(rig.stored(STORED).await.len(), 5);
}

fn half_a_minute(max_held_bytes: usize) -> HaOptions {
    HaOptions {
        failover_timeout: Duration::from_secs(30),
        max_held_bytes,
        ..HaOptions::default()
    }
}

/// What the other one sent while the first had the turn is written behind the first one's last sample.
#[tokio::test]
async fn nothing_is_missing_where_the_turn_goes_over() {
    let (rig, _stop) = Rig::that_fills(half_a_minute(1 << 20));
    assert_eq!(rig.write("c", 1, &[NOW]).await, 204);
    for ms in [1_000, 5_000, 10_000] {
        assert_eq!(rig.write("c", 2, &[NOW + ms]).await, 204);
    }
    // One that is dated ahead keeps nothing from being known of the other.
    assert_eq!(rig.write("c", 2, &[NOW + 14_000, NOW + 400_000]).await, 204);
    assert_eq!(rig.write("c", 1, &[NOW + 6_000]).await, 204);
    let waits = [NOW + 14_500, NOW + 15_500];
    assert_eq!(rig.write("c", 2, &waits).await, 503);
    assert_eq!(rig.stored(STORED).await, [(NOW, 1.0), (NOW + 6_000, 1.0)]);
    // The first one is dead.
    rig.node.clock.advance(Duration::from_secs(36));
    assert_eq!(rig.write("c", 2, &waits).await, 503, "after what is held");
    let mut expected = vec![(NOW, 1.0), (NOW + 6_000, 1.0), (NOW + 10_000, 2.0), (NOW + 14_000, 2.0)];
    let filled = async {
        while rig.stored(STORED).await != expected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), filled)
        .await
        .expect("what is held");
    // It was not dead: what it kept of that time would be there twice.
    assert_eq!(rig.write("c", 1, &[NOW + 7_000, NOW + 12_000]).await, 204);
    assert_eq!(rig.stored(STORED).await, expected);
    rig.node.clock.advance(Duration::from_secs(3));
    assert_eq!(rig.write("c", 2, &waits).await, 204);
    expected.extend([(NOW + 14_500, 2.0), (NOW + 15_500, 2.0)]);
    assert_eq!(rig.stored(STORED).await, expected);
    assert_eq!(rig.tracker.held().bytes(), 0);
}

/// Scrapes once a minute: of one target the dead one's last sample is 50 s older than of the other, and the waiting one's stands
/// between.
#[tokio::test]
async fn nothing_is_missing_of_a_target_that_was_next() {
    let (rig, _stop) = Rig::that_fills(half_a_minute(1 << 20));
    let write = async |replica: u8, target: &str, at: i64| {
        let name = format!("r{replica}");
        let labels = [
            ("__name__", "m"),
            ("__replica__", &name),
            ("cluster", "c"),
            ("target", target),
        ];
        rig.post(vec![series(&labels, &[(at, f64::from(replica))])]).await.0
    };
    assert_eq!(write(1, "x", NOW).await, 204);
    rig.node.clock.advance(Duration::from_secs(50));
    assert_eq!(write(1, "y", NOW + 50_000).await, 204);
    assert_eq!(write(2, "x", NOW + 30_000).await, 204);
    // The first one is dead.
    rig.node.clock.advance(Duration::from_secs(36));
    assert_eq!(write(2, "y", NOW + 80_000).await, 503, "after what is held");
    let of_x = r#"{__name__="m", cluster="c", target="x"}"#;
    let filled = async {
        while rig.stored(of_x).await != [(NOW, 1.0), (NOW + 30_000, 2.0)] {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), filled).await;
    assert!(ended.is_ok(), "{:?}", rig.node.read(View::default()).await.unwrap());
}

/// Nobody has what the other one sent: the first one's own is as good as it was.
#[tokio::test]
async fn where_nothing_is_held_the_turn_ends_where_it_ended() {
    let (rig, _stop) = Rig::that_fills(half_a_minute(0));
    assert_eq!(rig.write("c", 1, &[NOW]).await, 204);
    assert_eq!(rig.write("c", 2, &[NOW + 14_000]).await, 204);
    rig.node.clock.advance(Duration::from_secs(36));
    assert_eq!(rig.write("c", 2, &[NOW + 15_500]).await, 204);
    assert_eq!(rig.write("c", 1, &[NOW + 7_000]).await, 204);
    let expected = [(NOW, 1.0), (NOW + 7_000, 1.0), (NOW + 15_500, 2.0)];
    assert_eq!(rig.stored(STORED).await, expected);
}

/// One sample that is dated ahead lengthens no turn: what the other one has is not dropped after a death.
#[tokio::test]
async fn a_sample_dated_ahead_takes_nothing_from_the_other_one() {
    let rig = Rig::new(4);
    let ahead = NOW + 300_000;
    assert_eq!(rig.write("c", 1, &[NOW, ahead]).await, 204);
    rig.node.clock.advance(Duration::from_secs(10));
    let asked = *rig.meta.commands.lock();
    for i in 0..20 {
        assert_eq!(rig.write("c", 1, &[NOW + 9_000 + i, ahead + i]).await, 204);
    }
    assert!(*rig.meta.commands.lock() <= asked + 1, "one claim is enough");
    // The other one's, as far ahead: who has the turn has sent it.
    assert_eq!(rig.write("c", 2, &[NOW + 10_000, ahead + 1000]).await, 204);
    assert_eq!(rig.stored(STORED).await.len(), 41);
    // The first one dies. Its turn has gone on for 15 s.
    rig.node.clock.advance(Duration::from_secs(20));
    assert_eq!(rig.write("c", 2, &[NOW + 30_000, ahead + 30_000]).await, 503);
    rig.node.clock.advance(Duration::from_secs(10));
    let kept = [NOW + 25_000, NOW + 30_000, NOW + 40_000, ahead + 30_000];
    assert_eq!(rig.write("c", 2, &kept).await, 204);
    let stored = rig.stored(STORED).await;
    assert!(kept.iter().all(|time| stored.contains(&(*time, 2.0))), "{stored:?}");
}

/// With the defaults, two that scrape once a minute, half a minute apart, do not take turns.
#[tokio::test]
async fn a_pair_that_scrapes_seldom_has_one_turn() {
    let rig = Rig::with(4, HaOptions::default().failover_timeout);
    let mut waiting = Vec::new();
    for round in 0..10 {
        let now = NOW + round * 60_000;
        assert_eq!(rig.write("c", 1, &[now]).await, 204);
        if !waiting.is_empty() {
            assert_eq!(rig.write("c", 2, &waiting).await, 204);
            waiting.clear();
        }
        rig.node.clock.advance(Duration::from_secs(30));
        waiting.push(now + 30_000);
        assert_eq!(rig.write("c", 2, &waiting).await, 503);
        rig.node.clock.advance(Duration::from_secs(30));
    }
    let stored = rig.stored(STORED).await;
    assert!(
        stored.len() == 10 && stored.iter().all(|(_, value)| *value == 1.0),
        "{stored:?}"
    );
    assert_eq!(rig.meta.machine.state().ha_pairs[0].turns.len(), 1);
}

/// What is older than all turns that are known counts, whoever sends it.
#[tokio::test]
async fn nothing_is_dropped_from_before_the_first_turn() {
    let rig = Rig::new(4);
    let minute = |n: i64| NOW - n * 60_000;
    // Just started, and the first to come; the other one has waited for long.
    assert_eq!(rig.write("c", 1, &[NOW - 1000, NOW]).await, 204);
    let kept = [minute(9), minute(5), minute(1), NOW - 500];
    assert_eq!(rig.write("c", 2, &kept).await, 204);
    let expected = [
        (minute(9), 2.0),
        (minute(5), 2.0),
        (minute(1), 2.0),
        (NOW - 1000, 1.0),
        (NOW, 1.0),
    ];
    assert_eq!(rig.stored(STORED).await, expected);
    // Of one that comes with what it has kept, all counts, and the other's within it does not.
    assert_eq!(rig.write("d", 1, &[NOW - 25_000, NOW]).await, 204);
    assert_eq!(rig.write("d", 2, &[NOW - 24_000, NOW - 1000]).await, 204);
    let stored = rig.stored(r#"{__name__="m", cluster="d"}"#).await;
    assert_eq!(stored, [(NOW - 25_000, 1.0), (NOW, 1.0)]);
}

#[tokio::test]
async fn pairs_are_limited_and_the_answer_says_so() {
    let rig = Rig::new(4);
    for cluster in ["a", "b", "c"] {
        assert_eq!(rig.write(cluster, 1, &[NOW]).await, 204);
    }
    let labels = [("__name__", "m"), ("__replica__", "r"), ("cluster", "d")];
    let (status, text) = rig.post(vec![series(&labels, &[(NOW, 1.0)])]).await;
    assert!(
        status == 400 && text.contains("the limit is reached"),
        "{status} {text}"
    );
    let many = |n: usize| {
        series(
            &[("__name__", "m"), ("__replica__", "r"), ("cluster", &format!("{n}"))],
            &[],
        )
    };
    let (status, text) = rig.post((0..1025).map(many).collect()).await;
    assert!(
        status == 400 && text.contains("more than 1024 replicas"),
        "{status} {text}"
    );
}

#[tokio::test]
async fn before_all_nodes_understand_it_nothing_is_taken_or_lost() {
    let rig = Rig::new(3);
    let labels = [("__name__", "m"), ("__replica__", "r"), ("cluster", "c")];
    let (status, text) = rig.post(vec![series(&labels, &[(NOW, 1.0)])]).await;
    assert!(status == 503 && text.contains("feature level"), "{status} {text}");
}

#[tokio::test]
async fn the_metadata_group_is_asked_seldom() {
    let rig = Rig::new(4);
    for second in 0..120 {
        let now = NOW + second * 1000;
        assert_eq!(rig.write("c", 1, &[now]).await, 204);
        assert_eq!(rig.write("c", 2, &[now + 300]).await, 204);
        rig.node.clock.advance(Duration::from_secs(1));
    }
    let asked = *rig.meta.commands.lock();
    // One to raise the feature level.
    assert!((8..=14).contains(&asked), "{asked} commands in 120 s");
    // One whose turn it is not, and whose clock is ahead, asks once a second at most.
    for _ in 0..50 {
        let _ = rig
            .tracker
            .turns(super::tracker::Asked {
                tenant: &TenantId::anonymous(),
                cluster: "c",
                replica: "r2",
                oldest_ms: rig.now(),
                newest_ms: rig.now() + 60_000,
                may_fill: false,
            })
            .await;
    }
    assert!(*rig.meta.commands.lock() <= asked + 1);
}

/// A pair of servers that scrape every 5 s in different phases, keep what is not acknowledged, and die and come back at
/// random. Never does a sample count twice; what is missing is no more than a turn is lengthened by, wherever one of them
/// lived.
#[tokio::test]
async fn no_gap_and_no_double_whoever_dies_when() {
    for seed in 1..=12_u64 {
        let rig = Rig::new(4);
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut waiting: [Vec<i64>; 2] = Default::default();
        let mut alive = [true, true];
        let mut acknowledged = [0, 0];
        for second in 0..900_i64 {
            let now = rig.now();
            // One of them lives at any time.
            let one = random(2) as usize;
            if random(60) == 0 && (!alive[one] || alive[1 - one]) {
                alive[one] = !alive[one];
                // What a dead one had not sent is gone.
                waiting[one].clear();
            }
            for replica in 0..2 {
                if alive[replica] && second % 5 == [0, 3][replica] {
                    waiting[replica].push(now);
                }
                // Some requests come late.
                if alive[replica] && !waiting[replica].is_empty() && random(3) > 0 {
                    let status = rig.write("c", replica as u8 + 1, &waiting[replica]).await;
                    assert!(status == 204 || status == 503, "{status}");
                    if status == 204 {
                        acknowledged[replica] += waiting[replica].len();
                        waiting[replica].clear();
                    }
                }
            }
            rig.node.clock.advance(Duration::from_secs(1));
        }
        let stored = rig.stored(STORED).await;
        assert!(
            acknowledged[0] > 20 && acknowledged[1] > 20,
            "seed {seed}: {acknowledged:?}"
        );
        let state = rig.meta.machine.state();
        for pair in stored.windows(2) {
            let ((before, left), (after, right)) = (pair[0], pair[1]);
            let gap = after - before;
            // A dead one's unsent samples are gone as well: a few seconds of them.
            assert!(
                gap <= 15_000 + 5_000 + 12_000,
                "seed {seed}: {gap} ms without a sample at {before}"
            );
            if left == right {
                assert!(gap >= 4_000, "seed {seed}: twice at {before}");
            }
        }
        // Each sample is of who had the turn.
        let known = &state.ha_pairs[0];
        for (time, value) in stored.iter().filter(|(t, _)| *t >= known.turns[0].from_ms) {
            let at = known.turns.partition_point(|turn| turn.from_ms <= *time) - 1;
            assert_eq!(known.turns[at].replica, format!("r{value}"), "seed {seed} at {time}");
        }
    }
}
