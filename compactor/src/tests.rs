//! The role against the real rules of the catalogue and a store that fails.

mod deletes;
mod extras;
mod paused;

use crate::plan::Policy;
use crate::{Compactor, Grace, Settings};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_cluster::meta::MetaMachine;
use gnomon_cluster::node::Claim;
use gnomon_cluster::retention::{Budget, Retention, charged_bytes, used_bytes};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::{
    BlockId, Clock, ClusterId, Labels, ManualClock, NodeId, PartId, ShardId, TenantId, TimeRange, TimestampMs,
};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{
    BlockRecord, InitCluster, MetaCommand, MetaResponse, MetaState, Node, PlacementEpoch, PublishBlock, RegisterNode,
    ShardReplicas, StageBlock,
};
use gnomon_tsdb::bucket::block_path;
use gnomon_tsdb::bucket::faults::{Faults, FaultyStore};
use gnomon_tsdb::{BlockMeta, BlockReader, BlockWriter, Bucket, FloatPageBuilder, UploadSink, decode_into};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const H: i64 = 3_600_000;
const CLUSTER: &str = "0000000000000000000000000000000a";

/// One replica of the metadata group, without a log.
struct Meta {
    machine: MetaMachine,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl MetaService for Meta {
    async fn propose(&self, mut command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        command.proposed_at_ms = self.clock.now().0;
        Ok(self.machine.apply_command(&command))
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Ok(self.machine.state())
    }

    async fn watch(&self, _: u64) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        Ok(futures::stream::empty().boxed())
    }
}

struct World {
    meta: Arc<Meta>,
    clock: Arc<ManualClock>,
    memory: Arc<InMemory>,
    faults: FaultyStore,
    compactor: Compactor,
}

type Data = BTreeMap<(String, i64), u64>;

fn settings() -> Settings {
    Settings {
        policy: Policy {
            window_ms: 2 * H,
            retention_ms: Some(1000 * H),
            retention_bytes: None,
            max_merge_bytes: 1 << 40,
            settle_ms: H,
        },
        grace: Grace {
            condemned_ms: 60_000,
            pressed_ms: 0,
            unnamed_ms: 0,
            staged_ms: H,
        },
        lease: Duration::from_secs(120),
        interval: Duration::from_millis(1),
        part_bytes: gnomon_tsdb::block::PART_BYTES,
    }
}

impl World {
    async fn new(seed: u64, settings: Settings) -> Self {
        let clock = Arc::new(ManualClock::at(TimestampMs(0)));
        let meta = Arc::new(Meta {
            machine: MetaMachine::default(),
            clock: clock.clone(),
        });
        let memory = Arc::new(InMemory::new());
        let faults = FaultyStore::new(memory.clone(), seed, Faults::default());
        let node = Node {
            id: 0,
            address: "a:1".into(),
            incarnation: 1,
            feature_level: CURRENT_FEATURE_LEVEL.0,
            ..Node::default()
        };
        let replicas = ShardReplicas {
            shard: 0,
            nodes: vec![1],
        };
        let epoch = PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: vec![0],
            ..PlacementEpoch::default()
        };
        let init = InitCluster {
            cluster_id: CLUSTER.into(),
            epoch: Some(epoch),
            shards: vec![replicas],
            ..InitCluster::default()
        };
        for command in [
            Command::InitCluster(init),
            Command::RegisterNode(RegisterNode {
                node: Some(node),
                lease_ms: 60_000,
            }),
        ] {
            propose(&meta, command).await;
        }
        let retention = Retention {
            time_ms: settings.policy.retention_ms,
            size_bytes: settings.policy.retention_bytes,
        };
        let compactor = Compactor::new(
            meta.clone(),
            NodeId(1),
            Bucket::from_store(Arc::new(faults.clone()), "memory"),
            clock.clone(),
            settings,
            Budget::fixed(retention),
            &prometheus::Registry::new(),
        )
        .unwrap();
        Self {
            meta,
            clock,
            memory,
            faults,
            compactor,
        }
    }

    fn at(&self, hours: i64) {
        self.clock.set_wall(TimestampMs(hours * H));
    }

    fn state(&self) -> Arc<MetaState> {
        self.meta.machine.state()
    }

    fn live(&self) -> Vec<BlockRecord> {
        self.state()
            .blocks
            .iter()
            .filter(|b| b.state() == State::Live)
            .cloned()
            .collect()
    }

    async fn bytes(&self) -> u64 {
        use object_store::ObjectStore;
        self.memory
            .list(None)
            .map(|o| o.unwrap().size)
            .fold(0, |a, b| async move { a + b })
            .await
    }

    async fn objects(&self) -> usize {
        use object_store::ObjectStore;
        self.memory.list(None).count().await
    }

    /// Uploads and publishes a part of 100 series whose samples have `tag` in their value.
    async fn add_part(&self, number: u64, window_start: i64, offset_ms: i64, tag: u64) {
        self.add_part_as_of(0, number, window_start, offset_ms, tag).await;
    }

    /// As [`Self::add_part`], of a shard that had deletes up to a revision in its log.
    async fn add_part_as_of(&self, revision: u64, number: u64, window_start: i64, offset_ms: i64, tag: u64) {
        let window = TimeRange::new(TimestampMs(window_start), TimestampMs(window_start + 2 * H));
        let id = BlockId(u128::from(number));
        let cluster: ClusterId = CLUSTER.parse().unwrap();
        let mut meta = BlockMeta::new(id, cluster, TenantId::anonymous(), ShardId(0), window);
        meta.parts = vec![PartId {
            shard: ShardId(0),
            number,
        }];
        meta.tombstone_revision = revision;
        let path = block_path(&TenantId::anonymous(), ShardId(0), window.start, id);
        let mut record = BlockRecord {
            id: id.to_string(),
            tenant: "anonymous".into(),
            start_ms: window.start.0,
            end_ms: window.end.0,
            bytes: 1 << 20,
            parts: vec![number],
            path: path.to_string(),
            tombstone_revision: revision,
            ..BlockRecord::default()
        };
        propose(
            &self.meta,
            Command::StageBlock(StageBlock {
                block: Some(record.clone()),
                cap_bytes: 0,
            }),
        )
        .await;
        meta.feature_level.0 = self.state().feature_level;
        let mut writer = BlockWriter::new(meta, UploadSink::new(self.memory.clone(), path));
        for series in 0..100 {
            let mut page = FloatPageBuilder::new();
            for i in 0..20 {
                page.append(window_start + offset_ms + i * 60_000, (tag * 1000 + series) as f64)
                    .unwrap();
            }
            writer.add_series(labels(series).as_ref(), page.page()).await.unwrap();
        }
        extras::add(&mut writer, number, window_start + offset_ms);
        let written = writer.finish().await.unwrap();
        record.bytes = written.bytes;
        record.samples = written.meta.stats.samples;
        record.max_sample_ms = written.meta.stats.max_sample.0;
        propose(&self.meta, Command::PublishBlock(PublishBlock { block: Some(record) })).await;
    }

    /// Everything that live blocks hold; a sample that two of them hold is an error unless it is a double in the input.
    async fn data(&self) -> Data {
        let mut records = self.live();
        records.sort_by(|a, b| b.parts.cmp(&a.parts));
        let mut data = Data::new();
        for record in records {
            let reader = BlockReader::open(self.memory.clone(), Path::from(record.path.as_str()))
                .await
                .unwrap();
            reader.verify().await.unwrap();
            let mut all = Arc::new(reader).select(&[], i64::MIN, i64::MAX).await.unwrap();
            while let Some(series) = all.next().await.unwrap() {
                for page in series.pages {
                    let (mut timestamps, mut values) = (Vec::new(), Vec::new());
                    decode_into(&page.bytes, &mut timestamps, &mut values).unwrap();
                    let name = series.labels.metric_name();
                    data.extend(
                        timestamps
                            .iter()
                            .zip(values)
                            .map(|(t, v)| ((name.to_owned(), *t), v.to_bits())),
                    );
                }
            }
        }
        data
    }

    async fn cycle(&self) -> Result<(), crate::CompactorError> {
        self.compactor.cycle(&CancellationToken::new()).await
    }
}

fn labels(series: u64) -> Labels {
    Labels::from_pairs([("__name__", format!("m{series:03}"))])
}

async fn propose(meta: &Meta, command: Command) -> MetaResponse {
    let response = meta
        .propose(MetaCommand {
            proposed_at_ms: 0,
            command: Some(command),
        })
        .await
        .unwrap();
    assert_eq!(response.refused, "");
    response
}

#[tokio::test]
async fn windows_become_one_block_and_what_they_were_goes() {
    let world = World::new(0, settings()).await;
    for (number, window) in [(1, 0), (2, 2), (4, 4)] {
        world.add_part(number, window * H, 0, number).await;
    }
    // A late part of the first window; one sample of it was there already, and that one stays.
    world.add_part(5, 0, 19 * 60_000, 5).await;
    let before = world.data().await;
    world.at(100);
    for _ in 0..2 {
        world.cycle().await.unwrap();
    }
    let live = world.live();
    assert_eq!(live.len(), 1);
    assert_eq!(
        (live[0].start_ms, live[0].end_ms, &live[0].parts),
        (0, 6 * H, &vec![1, 2, 4, 5])
    );
    assert_eq!(live[0].samples, 100 * (20 * 4 - 1));
    assert_eq!(world.data().await, before);
    world.clock.advance(Duration::from_secs(61));
    world.cycle().await.unwrap();
    assert_eq!((world.state().blocks.len(), world.objects().await), (1, 1));
}

#[tokio::test]
async fn retention_lets_go_by_time_and_by_size() {
    // Blocks stay as they are: what is left can be told by its part.
    let mut settings = settings();
    settings.policy.max_merge_bytes = 0;
    let world = World::new(0, settings.clone()).await;
    for number in 1..=4 {
        world.add_part(number, number as i64 * 20 * H, 0, number).await;
    }
    world.at(1041);
    world.cycle().await.unwrap();
    assert_eq!(world.live().iter().map(|b| b.parts[0]).collect::<Vec<_>>(), [3, 4]);
    // Room for one block and a half, beside five copies of the (small) catalogue and a little.
    let block = charged_bytes(world.live()[0].bytes);
    let mut small = settings;
    small.policy.retention_bytes = Some(block * 3 / 2 + 6 * 4096);
    let world = World::new(0, small).await;
    for number in 1..=4 {
        world.add_part(number, number as i64 * 20 * H, 0, number).await;
    }
    world.cycle().await.unwrap();
    assert_eq!(world.live().iter().map(|b| b.parts[0]).collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn unnamed_objects_and_abandoned_records_go_and_others_stay() {
    let world = World::new(0, settings()).await;
    world.add_part(1, 0, 0, 1).await;
    let stray = block_path(&TenantId::anonymous(), ShardId(0), TimestampMs(0), BlockId(99));
    for path in [
        stray.clone(),
        Path::from("cluster.json"),
        Path::from("catalogue/checkpoint-1"),
    ] {
        world.memory.put(&path, "x".into()).await.unwrap();
    }
    // An upload under way: named, not published.
    let uploading = block_path(&TenantId::anonymous(), ShardId(0), TimestampMs(0), BlockId(98));
    let record = BlockRecord {
        id: BlockId(98).to_string(),
        tenant: "anonymous".into(),
        end_ms: 1,
        parts: vec![7],
        path: uploading.to_string(),
        ..BlockRecord::default()
    };
    let stage = StageBlock {
        block: Some(record),
        cap_bytes: 0,
    };
    propose(&world.meta, Command::StageBlock(stage)).await;
    world.memory.put(&uploading, "x".into()).await.unwrap();
    // Objects carry the time of the machine's clock: garbage is judged well after it.
    let far = 10_000_000;
    world.clock.set_wall(TimestampMs(0));
    world.at(0);
    let grace = Grace {
        unnamed_ms: i64::MIN / 2,
        ..settings().grace
    };
    let collect = |now: i64| {
        let bucket = Bucket::from_store(world.memory.clone(), "memory");
        let catalogue = crate::Catalogue::new(world.meta.clone(), NodeId(1));
        async move {
            crate::garbage::collect(&catalogue, &bucket, &grace, TimestampMs(now), &CancellationToken::new()).await
        }
    };
    let collected = collect(far).await.unwrap();
    assert_eq!((collected.unnamed, collected.condemned), (1, 0));
    assert!(world.memory.head(&stray).await.is_err());
    assert_eq!(
        world.objects().await,
        4,
        "the live block, the upload, the marker and the checkpoint"
    );
    // Nobody publishes it any more: it is condemned, deleted, and forgotten then.
    world.at(2);
    world.cycle().await.unwrap();
    let given_up = |state: &MetaState| state.blocks.iter().any(|b| b.state() == State::Condemned);
    assert!(given_up(&world.state()));
    assert!(world.memory.head(&uploading).await.is_ok());
    world.clock.advance(Duration::from_secs(61));
    world.cycle().await.unwrap();
    assert_eq!(world.state().blocks.len(), 1);
    assert!(world.memory.head(&uploading).await.is_err());
}

#[tokio::test]
async fn an_empty_catalogue_proves_nothing() {
    let clock = Arc::new(ManualClock::at(TimestampMs(0)));
    let meta = Arc::new(Meta {
        machine: MetaMachine::default(),
        clock,
    });
    let memory = Arc::new(InMemory::new());
    let path = block_path(&TenantId::anonymous(), ShardId(0), TimestampMs(0), BlockId(1));
    memory.put(&path, "x".into()).await.unwrap();
    let bucket = Bucket::from_store(memory.clone(), "memory");
    let catalogue = crate::Catalogue::new(meta, NodeId(1));
    let stop = CancellationToken::new();
    let now = TimestampMs(i64::MAX);
    let collected = crate::garbage::collect(&catalogue, &bucket, &Grace::default(), now, &stop)
        .await
        .unwrap();
    assert_eq!(collected.unnamed, 0);
    assert!(memory.head(&path).await.is_ok());
}

/// Whatever the store does, live blocks hold all the data, and once it is healed the work is finished.
#[tokio::test]
async fn under_faults_nothing_is_lost_and_all_is_merged_in_the_end() {
    for seed in 0..20 {
        let world = World::new(seed, settings()).await;
        for number in 1..=6 {
            world
                .add_part(
                    number,
                    (number as i64 - 1) / 2 * 2 * H,
                    (number as i64 % 2) * 30 * 60_000,
                    number,
                )
                .await;
        }
        let before = world.data().await;
        world.at(100);
        world.faults.set(Faults {
            refused: 0.1,
            lost_response: 0.1,
            torn: 0.1,
            latency: Duration::ZERO,
        });
        for _ in 0..15 {
            let _ = world.cycle().await;
            world.clock.advance(Duration::from_secs(30));
            assert_eq!(world.data().await, before, "seed {seed}");
        }
        world.faults.set(Faults::default());
        for _ in 0..4 {
            world.cycle().await.unwrap();
            world.clock.advance(Duration::from_secs(200));
        }
        assert_eq!(world.data().await, before, "seed {seed}");
        assert_eq!(world.live().len(), 1, "seed {seed}");
    }
}

#[tokio::test]
async fn a_stopped_merge_leaves_its_inputs_and_frees_the_job() {
    let world = World::new(0, settings()).await;
    for number in 1..=3 {
        world.add_part(number, (number as i64 - 1) * 2 * H, 0, number).await;
    }
    world.at(100);
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(matches!(
        world.compactor.cycle(&stop).await,
        Err(crate::CompactorError::Stopped)
    ));
    assert_eq!(world.live().len(), 3);
    world.cycle().await.unwrap();
    assert_eq!(world.live().len(), 1);
}

#[tokio::test]
async fn nothing_is_staged_while_the_bucket_may_not_be_written_to() {
    let mut world = World::new(0, settings()).await;
    for number in 1..=3 {
        world.add_part(number, (number as i64 - 1) * 2 * H, 0, number).await;
    }
    world.at(100);
    let (bucket, registry) = (world.memory.clone(), prometheus::Registry::new());
    let claim = Claim::new(bucket, "memory", world.clock.clone(), &registry).unwrap();
    claim.hold(CLUSTER.parse().unwrap(), 0, false);
    world.compactor = world.compactor.with_claim(Some(claim));
    let before = world.state();
    // There is no mark.
    world.cycle().await.unwrap();
    assert_eq!(world.state().blocks, before.blocks);
    let mark = format!(r#"{{"format":1,"cluster_id":"{CLUSTER}","created_ms":0,"generation":0}}"#);
    world
        .memory
        .put(&Path::from("cluster.json"), mark.into())
        .await
        .unwrap();
    world.clock.advance(Duration::from_secs(10));
    world.cycle().await.unwrap();
    assert_eq!(world.live().len(), 1);
}

/// A lease that ran out goes on unless another node had the job meanwhile, be it that this one has ended it.
#[tokio::test]
async fn a_lease_is_lengthened_until_another_node_has_had_the_job() {
    let world = World::new(0, settings()).await;
    let register = |id: u64| RegisterNode {
        node: Some(Node {
            id: 0,
            address: format!("b:{id}"),
            incarnation: id,
            feature_level: CURRENT_FEATURE_LEVEL.0,
            ..Node::default()
        }),
        lease_ms: 600_000,
    };
    propose(&world.meta, Command::RegisterNode(register(2))).await;
    let [own, other] = [1, 2].map(|node| crate::Catalogue::new(world.meta.clone(), NodeId(node)));
    let lasts = Duration::from_secs(20);
    let lease = own.acquire("job", lasts).await.unwrap().unwrap();
    for seconds in [19, 19, 21, 200] {
        world.clock.advance(Duration::from_secs(seconds));
        own.renew(&lease, lasts).await.unwrap();
        assert!(other.acquire("job", lasts).await.unwrap().is_none());
    }
    for has_ended in [false, true] {
        world.clock.advance(Duration::from_secs(21));
        let others = other.acquire("job", lasts).await.unwrap().unwrap();
        if has_ended {
            other.release(&others).await.unwrap();
        }
        let lost = own.renew(&lease, lasts).await;
        assert!(
            matches!(&lost, Err(crate::CompactorError::Lost(job)) if job == "job"),
            "{has_ended}: {lost:?}"
        );
    }
    own.release(&lease).await.unwrap();
    assert!(other.acquire("job", lasts).await.unwrap().is_some());
}

/// Parts come and are merged under a store that fails, below a size that holds a third of them: at no moment does the
/// bucket hold more than the size, whatever was left behind.
#[tokio::test]
async fn the_bucket_stays_below_the_size_whatever_fails() {
    for seed in 0..4 {
        let mut settings = settings();
        let cap = 400 * 4096;
        settings.policy.retention_bytes = Some(cap);
        settings.policy.retention_ms = None;
        settings.grace.condemned_ms = 30_000;
        let world = World::new(seed, settings).await;
        world.faults.set(Faults {
            refused: 0.1,
            lost_response: 0.15,
            torn: 0.1,
            latency: Duration::ZERO,
        });
        let budget = Budget::fixed(Retention {
            time_ms: None,
            size_bytes: Some(cap),
        });
        let mut merged = 0;
        for number in 1..=150_u64 {
            let window = number as i64 / 2 * 2 * H;
            world.clock.set_wall(TimestampMs(window + 8 * H));
            let room = budget.for_blocks(&world.state()).unwrap();
            let free = room.saturating_sub(used_bytes(&world.state().blocks));
            // As the ingester does: it stages where there is room, and waits otherwise.
            if free >= 1 << 20 {
                world
                    .add_part(number, window, (number as i64 % 2) * 30 * 60_000, number)
                    .await;
            }
            let _ = world.cycle().await;
            let _ = world.compactor.relieve(&CancellationToken::new()).await;
            world.clock.advance(Duration::from_secs(31));
            let bytes = world.bytes().await;
            assert!(bytes <= cap, "seed {seed}: {bytes} of {cap}");
            assert!(
                bytes <= used_bytes(&world.state().blocks),
                "seed {seed}: more than the catalogue knows of"
            );
            merged = merged.max(world.live().iter().map(|b| b.level).max().unwrap_or(0));
        }
        assert!(merged > 0, "seed {seed}: nothing was merged");
        assert!(world.live().len() > 3, "seed {seed}");
    }
}

/// One block with a byte changed: its merges fail once, those of others are made, and it is tried again later.
#[tokio::test]
async fn a_damaged_block_holds_up_no_other() {
    let world = World::new(1, settings()).await;
    for (number, hour) in [(1, 0), (2, 2), (3, 4), (4, 6), (5, 8), (6, 10)] {
        world.add_part(number, hour * H, 0, number).await;
    }
    world.at(24);
    let path = Path::from(world.live().iter().find(|b| b.parts == [2]).unwrap().path.as_str());
    let good = world.memory.get(&path).await.unwrap().bytes().await.unwrap();
    let mut bad = good.to_vec();
    bad[40] ^= 1;
    world.memory.put(&path, bad.into()).await.unwrap();
    let stop = CancellationToken::new();
    for _ in 0..3 {
        world.compactor.cycle(&stop).await.unwrap();
    }
    let parts = |world: &World| {
        let mut parts: Vec<_> = world.live().into_iter().map(|b| b.parts).collect();
        parts.sort();
        parts
    };
    assert_eq!(parts(&world), [vec![1, 3], vec![2], vec![4, 5, 6]]);
    world.memory.put(&path, good.into()).await.unwrap();
    world.clock.advance(Duration::from_secs(3600));
    for _ in 0..3 {
        world.compactor.cycle(&stop).await.unwrap();
    }
    assert_eq!(parts(&world), [vec![1, 2, 3, 4, 5, 6]]);
}
