mod deletes;
mod extras;
mod golden;
mod retention;
mod starts;

use super::*;
use crate::head::WINDOW_MS;
use crate::service::WriteOptions;
use crate::testing::{NOW, Node};
use async_trait::async_trait;
use futures::stream::BoxStream;
use gnomon_cluster::meta::MetaMachine;
use gnomon_cluster::retention::Retention;
use gnomon_model::{Labels, PlacementEpoch as EpochNumber, SeriesRef, TargetId, TenantId, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::batch::{BatchBuilder, TickHeader};
use gnomon_proto::service::ShardWriteService;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::meta_command::Command as Change;
use gnomon_proto::v1::{
    AppendRequest, AppendResponse, InitCluster, MetaCommand, MetaResponse, MetaState, PlacementEpoch, View,
};
use gnomon_tsdb::bucket::faults::{Faults, FaultyStore};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parking_lot::Mutex;

/// The real catalogue without its log, which may be told to fail.
struct Meta {
    machine: MetaMachine,
    /// Commands that are done, but answered with an error.
    lost_answers: Mutex<usize>,
    /// What another leader does just before the next blocks are condemned.
    before_condemning: Mutex<Option<Change>>,
}

#[async_trait]
impl MetaService for Meta {
    async fn propose(&self, mut command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        command.proposed_at_ms = NOW;
        if matches!(command.command, Some(Change::CondemnBlocks(_)))
            && let Some(other) = self.before_condemning.lock().take()
        {
            let other = MetaCommand {
                proposed_at_ms: NOW,
                command: Some(other),
            };
            assert_eq!(self.machine.apply_command(&other).refused, "");
        }
        let response = self.machine.apply_command(&command);
        let mut lost = self.lost_answers.lock();
        if *lost > 0 {
            *lost -= 1;
            return Err(ServiceError::Unknown("connection reset".into()));
        }
        Ok(response)
    }
    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Ok(self.machine.state())
    }
    async fn watch(&self, _: u64) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        Err(ServiceError::Unavailable("not watched here".into()))
    }
}

struct Rig {
    node: Node,
    meta: Arc<Meta>,
    bucket: Arc<InMemory>,
    duties: Duties,
}

/// The start of the window that holds `NOW`.
fn window() -> i64 {
    crate::head::window_of(NOW).start.0
}

impl Rig {
    fn new(write: WriteOptions) -> Self {
        Self::founded_after(None, write)
    }

    /// With what an earlier cluster left.
    fn founded_after(left: Option<Change>, write: WriteOptions) -> Self {
        let node = Node::new(write);
        let machine = MetaMachine::default();
        if left.is_some() {
            let adopted = machine.apply_command(&MetaCommand {
                proposed_at_ms: NOW,
                command: left,
            });
            assert_eq!(adopted.refused, "");
        }
        let epoch = PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: vec![0],
            by_labels: vec!["job".into(), "instance".into()],
            spreads: Vec::new(),
        };
        let init = machine.apply_command(&MetaCommand {
            proposed_at_ms: NOW,
            command: Some(Change::InitCluster(InitCluster {
                cluster_id: "0123456789abcdef0123456789abcdef".into(),
                epoch: Some(epoch),
                shards: vec![gnomon_proto::v1::ShardReplicas {
                    shard: 0,
                    nodes: vec![7],
                }],
                ..InitCluster::default()
            })),
        });
        assert_eq!(init.refused, "");
        let meta = Arc::new(Meta {
            machine,
            lost_answers: Mutex::new(0),
            before_condemning: Mutex::new(None),
        });
        let bucket = Arc::new(InMemory::new());
        let context = DutyContext {
            options: DutyOptions::default(),
            states: meta.machine.watch(),
            meta: meta.clone(),
            bucket: bucket.clone(),
            claim: None,
            budget: Budget::fixed(Retention::default()),
            clock: node.clock.clone(),
            metrics: node.metrics.clone(),
        };
        let duties = Duties::new(context, node.shard());
        Self {
            node,
            meta,
            bucket,
            duties,
        }
    }

    async fn append(&self, batch: BatchBuilder) -> Result<AppendResponse, ServiceError> {
        let request = AppendRequest {
            shard: 0,
            batch: batch.finish(),
            starts_left_out: false,
            only_newer: false,
        };
        self.node.shards.append(request).await
    }

    async fn sample(&self, name: &str, timestamp_ms: i64, value: f64) -> Result<AppendResponse, ServiceError> {
        let mut batch = builder();
        batch.begin_rows();
        let key = batch.new_series(Labels::from_pairs([("__name__", name)]).as_ref());
        batch.sample(key, timestamp_ms, value);
        self.append(batch).await
    }

    /// Looks around every five seconds.
    async fn pass(&mut self, time: Duration) {
        let mut left = time;
        while left > Duration::ZERO {
            let step = left.min(Duration::from_secs(5));
            self.node.clock.advance(step);
            self.duties.round().await;
            left -= step;
        }
    }

    fn blocks(&self, state: State) -> Vec<gnomon_proto::v1::BlockRecord> {
        let all = self.meta.machine.state();
        all.blocks.iter().filter(|b| b.state() == state).cloned().collect()
    }

    fn sealed(&self) -> Vec<u64> {
        self.node.log.machine.read(|s| {
            let parts = s.tenants.values().flat_map(|t| t.head.sealed.keys().copied());
            parts.collect()
        })
    }
}

fn builder() -> BatchBuilder {
    BatchBuilder::new(&TenantId::anonymous(), EpochNumber(1))
}

#[tokio::test]
async fn a_window_becomes_a_block_and_leaves_the_head() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.sample("a", NOW, 1.0).await.unwrap();
    rig.sample("b", NOW + 1, 2.0).await.unwrap();
    // Not due yet, then due but not quiet, then sealed and published.
    let due = window() + WINDOW_MS + 1_800_000 - NOW;
    rig.pass(Duration::from_millis(due as u64 - 10_000)).await;
    assert!(rig.blocks(State::Live).is_empty());
    rig.sample("c", NOW + WINDOW_MS, 3.0).await.unwrap();
    rig.pass(Duration::from_secs(80)).await;
    let live = rig.blocks(State::Live);
    assert_eq!(live.len(), 1);
    let block = &live[0];
    assert_eq!((block.series, block.samples, &block.parts[..]), (2, 2, &[1][..]));
    assert_eq!((block.min_sample_ms, block.max_sample_ms), (NOW, NOW + 1));
    let object = rig
        .bucket
        .head(&object_store::path::Path::from(block.path.as_str()))
        .await
        .unwrap();
    assert_eq!(object.size, block.bytes);
    assert!(rig.sealed().is_empty());
    // Whoever takes the part from the block gets the rest; whoever does not know of it has to look again.
    let revision = rig.meta.machine.state().catalogue_revision;
    let view = View {
        catalogue_revision: revision,
        parts_from_blocks: vec![1],
        ..View::default()
    };
    let rest = rig.node.read(view).await.unwrap();
    assert_eq!(rest.keys().collect::<Vec<_>>(), [r#"{__name__="c"}"#]);
    let old = rig.node.read(View::default()).await;
    assert_eq!(old.unwrap_err(), ServiceError::StaleView { revision });
}

#[tokio::test]
async fn an_object_store_outage_costs_disk_then_writes() {
    let options = WriteOptions {
        max_sealed_bytes: 20,
        ..WriteOptions::default()
    };
    let mut rig = Rig::new(options);
    rig.sample("a", NOW, 1.0).await.unwrap();
    let outage = Faults {
        refused: 1.0,
        ..Faults::default()
    };
    let bucket = FaultyStore::new(rig.bucket.clone(), 1, outage);
    rig.duties.context.bucket = Arc::new(bucket.clone());
    rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
    assert_eq!(rig.sealed(), [1]);
    assert!(rig.node.metrics.upload_failures.get() > 1);
    let later = rig.node.clock.now().0;
    rig.sample("b", later, 1.0).await.unwrap();
    rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
    let refused = rig.sample("b", rig.node.clock.now().0, 1.0).await;
    assert!(matches!(refused, Err(ServiceError::Busy(_))), "{refused:?}");
    // Sealed samples are readable meanwhile.
    assert_eq!(rig.node.read(View::default()).await.unwrap().len(), 2);
    bucket.set(Faults::default());
    rig.pass(Duration::from_secs(120)).await;
    assert!(rig.sealed().is_empty());
    assert_eq!(rig.blocks(State::Live).len(), 2);
    rig.sample("b", rig.node.clock.now().0, 1.0).await.unwrap();
}

#[tokio::test]
async fn lost_answers_of_the_catalogue_are_harmless() {
    for lost in 1..=3 {
        let mut rig = Rig::new(WriteOptions::default());
        rig.sample("a", NOW, 1.0).await.unwrap();
        *rig.meta.lost_answers.lock() = lost;
        rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
        let live = rig.blocks(State::Live);
        assert_eq!(live.len(), 1, "{lost} answers lost");
        assert_eq!(live[0].samples, 1);
        assert!(rig.blocks(State::Staged).is_empty());
        assert!(rig.sealed().is_empty());
    }
}

#[tokio::test]
async fn only_a_leader_has_duties() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.sample("a", NOW, 1.0).await.unwrap();
    rig.node.log.leads.store(false, std::sync::atomic::Ordering::Relaxed);
    rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
    assert!(rig.sealed().is_empty() && rig.blocks(State::Live).is_empty());
    let refused = rig.sample("a", NOW, 1.0).await;
    assert_eq!(refused.unwrap_err(), ServiceError::NotLeader { leader: Some(7) });
}

/// A scrape with one sample of a new series, of a target that is scraped every so often.
fn scrape(tick_ms: i64, interval_ms: u64) -> BatchBuilder {
    let mut batch = builder();
    batch.begin_tick(&TickHeader {
        target: TargetId(1),
        term: 1,
        tick_ms,
        interval_ms,
        first: true,
        last: true,
        complete: true,
        home: true,
        track_timestamps_staleness: false,
        names_only: false,
        other_shards: Vec::new(),
    });
    let key = batch.new_series(Labels::from_pairs([("__name__", "a")]).as_ref());
    batch.sample(key, tick_ms, 1.0);
    batch
}

async fn tick(rig: &Rig, tick_ms: i64, interval_ms: u64) {
    let taken = rig.append(scrape(tick_ms, interval_ms)).await.unwrap();
    assert_eq!(taken.refs, [SeriesRef(1).0]);
}

/// What is behind stands for a scraper that comes after one whose clock was ahead.
#[tokio::test]
async fn a_scrape_of_a_time_that_is_still_to_come_is_not_taken_and_others_are() {
    let rig = Rig::new(WriteOptions::default());
    let refused = rig.append(scrape(NOW + 300_000, 15_000)).await.unwrap_err();
    assert!(matches!(refused, ServiceError::Busy(_)), "{refused:?}");
    assert!(refused.is_retryable(), "the clock that is wrong may be this node's");
    assert!(refused.to_string().contains("300 s ahead"), "{refused}");
    assert_eq!(
        rig.append(scrape(NOW + 59_000, 15_000)).await.unwrap().ticks_taken,
        [true]
    );
    // This node's clock is set back: the shard's time is not.
    rig.node.clock.set_wall(TimestampMs(NOW - 300_000));
    assert_eq!(
        rig.append(scrape(NOW + 60_000, 15_000)).await.unwrap().ticks_taken,
        [true]
    );
}

#[tokio::test]
async fn a_target_gone_silent_gets_its_markers() {
    let mut rig = Rig::new(WriteOptions::default());
    tick(&rig, NOW, 15_000).await;
    rig.pass(Duration::from_secs(30)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 0);
    rig.pass(Duration::from_secs(10)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 1);
    let all = rig.node.read(View::default()).await.unwrap();
    let samples = &all[r#"{__name__="a"}"#];
    assert_eq!(samples[1].0, NOW + 15_000);
    assert!(gnomon_model::is_stale_nan(samples[1].1));
}

/// By which it would have been silent for long enough.
#[tokio::test]
async fn a_clock_that_was_set_makes_nobody_silent() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.pass(Duration::from_secs(60)).await;
    let heard = rig.node.clock.now().0;
    tick(&rig, heard, 15_000).await;
    rig.node.clock.set_wall(TimestampMs(heard + 42_000));
    rig.pass(Duration::from_secs(30)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 0);
    rig.pass(Duration::from_secs(10)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 1);
    let all = rig.node.read(View::default()).await.unwrap();
    assert_eq!(all[r#"{__name__="a"}"#][1].0, heard + 15_000);
}

/// By a clock that was ahead. Its others are refused until that time has come, and nobody is silent.
#[tokio::test]
async fn a_target_with_a_scrape_of_a_time_to_come_is_not_silent_before_it() {
    let mut rig = Rig::new(WriteOptions::default());
    tick(&rig, NOW + 50_000, 15_000).await;
    rig.pass(Duration::from_secs(50 + 30)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 0);
    rig.pass(Duration::from_secs(10)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 1);
    let all = rig.node.read(View::default()).await.unwrap();
    assert_eq!(all[r#"{__name__="a"}"#][1].0, NOW + 65_000);
}

#[tokio::test]
async fn what_a_live_scraper_may_hold_is_waited_for() {
    let mut rig = Rig::new(WriteOptions::default());
    let register = |address: &str, role: &str, lease_ms| MetaCommand {
        proposed_at_ms: NOW,
        command: Some(Change::RegisterNode(gnomon_proto::v1::RegisterNode {
            node: Some(gnomon_proto::v1::Node {
                address: address.into(),
                roles: vec![role.into()],
                incarnation: 1,
                feature_level: 1,
                ..gnomon_proto::v1::Node::default()
            }),
            lease_ms,
        })),
    };
    for address in ["one:9095", "other:9095"] {
        let command = register(address, "scraper", 60_000);
        assert_eq!(rig.meta.propose(command).await.unwrap().refused, "");
    }
    // Leading for long: it is not a new leader's patience that is seen here.
    rig.pass(Duration::from_secs(20)).await;
    let heard = rig.node.clock.now().0;
    // Its scraper may die just before the next tick, and its successor come just after a place in the interval.
    tick(&rig, heard, 10_000).await;
    rig.pass(Duration::from_secs(15 + 2 * 10)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 0);
    rig.pass(Duration::from_secs(1 + 5)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 1);
    let all = rig.node.read(View::default()).await.unwrap();
    assert_eq!(all[r#"{__name__="a"}"#][1].0, heard + 10_000);
    // Where nobody scrapes any more there is nothing to wait for, as others' leases show.
    rig.pass(Duration::from_secs(60)).await;
    let heard = rig.node.clock.now().0;
    let command = register("third:9095", "ingester", 200_000);
    assert_eq!(rig.meta.propose(command).await.unwrap().refused, "");
    tick(&rig, heard, 1_000).await;
    rig.pass(Duration::from_secs(5)).await;
    assert_eq!(rig.node.metrics.targets_expired.get(), 2);
}
