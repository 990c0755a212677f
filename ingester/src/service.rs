//! The shards of this node, as the services that other roles call.

mod believed;
mod evaluate;
mod read;
mod through;
mod write;

use crate::metrics::IngesterMetrics;
use crate::shard::ShardMachine;
use crate::shard::entry::{Command, Entry, Limits};
use async_trait::async_trait;
use believed::BelievedClock;
use bytes::Bytes;
use gnomon_cluster::others::OtherNodes;
use gnomon_cluster::raft::{ProposeError, ReadError};
use gnomon_model::ids::{BASE_FEATURE_LEVEL, METRIC_LIMIT_FEATURE_LEVEL, START_TIMES_FEATURE_LEVEL};
use gnomon_model::{Clock, FeatureLevel, NodeId, ShardId, TimestampMs};
use gnomon_proto::ServiceError;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use tokio::sync::Notify;

/// The replicated log of a shard: a Raft group.
#[async_trait]
pub trait ShardLog: Send + Sync + 'static {
    /// Commits an entry; the answer is what applying it gave.
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError>;
    /// Returns once everything committed before the call is applied here.
    async fn read_index(&self) -> Result<u64, ReadError>;
    /// As `read_index`, also where another node leads: that one is asked.
    async fn read_index_here(&self) -> Result<u64, ReadError> {
        self.read_index().await
    }
    fn leader(&self) -> Option<NodeId>;
    fn is_leader(&self) -> bool;
}

/// How many series there may be; 0 is no limit. What is there already goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesLimits {
    /// In the shards of this node.
    pub of_node: u64,
    pub of_shard: u64,
    /// Of one metric of a tenant in one shard.
    pub of_metric: u64,
}

impl SeriesLimits {
    /// What a shard with `own` series may have where the node has `all`. Leaders decide by what they have applied: two
    /// shards that grow at once may together have a batch's series too many; and a shard may have one series.
    fn of_batch(self, own: u64, all: u64) -> u64 {
        let left = own.saturating_add(self.of_node.saturating_sub(all)).max(1);
        match (self.of_node, self.of_shard) {
            (0, of_shard) => of_shard,
            (_, 0) => left,
            (_, of_shard) => left.min(of_shard),
        }
    }
}

/// What a leader decides by.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Those of series are derived from `series` for each batch.
    pub limits: Limits,
    pub series: SeriesLimits,
    /// Writes are refused while sealed parts that are not published have more bytes than this.
    pub max_sealed_bytes: u64,
    /// Appends in flight, over all shards; further ones are refused at once.
    pub max_appends: usize,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            series: SeriesLimits::default(),
            max_sealed_bytes: 64 << 30,
            max_appends: 256,
        }
    }
}

/// One shard of this node.
pub struct Shard {
    pub(crate) machine: Arc<ShardMachine>,
    pub(crate) log: Arc<dyn ShardLog>,
    clock: Arc<dyn Clock>,
    /// Newest time stamped into an entry: the shard's time does not go back while this node leads.
    stamped_ms: AtomicI64,
}

impl Shard {
    pub fn new(machine: Arc<ShardMachine>, log: Arc<dyn ShardLog>, clock: Arc<dyn Clock>) -> Self {
        Self {
            machine,
            log,
            clock,
            stamped_ms: AtomicI64::new(i64::MIN),
        }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.machine.shard()
    }

    pub(crate) fn stamp(&self) -> TimestampMs {
        let now = self.clock.now().0;
        TimestampMs(self.stamped_ms.fetch_max(now, Ordering::AcqRel).max(now))
    }

    /// Proposes an entry; what applying it gave comes back.
    pub(crate) async fn propose(&self, command: Command<&[u8]>) -> Result<Bytes, ServiceError> {
        let entry = Entry {
            feature_level: command.feature_level(),
            proposed_at: self.stamp(),
            command,
        };
        Ok(self.log.propose(entry.encode()).await?)
    }
}

/// The shards that this node hosts.
pub struct Shards {
    shards: RwLock<BTreeMap<ShardId, Arc<Shard>>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) believed: BelievedClock,
    pub(crate) metrics: IngesterMetrics,
    options: WriteOptions,
    /// In force; a reload may change them.
    limits: RwLock<Limits>,
    appends: tokio::sync::Semaphore,
    /// For others than this node leads.
    passes: tokio::sync::Semaphore,
    /// The cluster's: what all replicas understand.
    feature_level: AtomicU32,
    /// Whoever writes has start timestamps.
    has_starts: AtomicBool,
    /// Told when a higher feature level is wanted.
    pub(crate) level_wanted: Notify,
    /// None of a node that is alone.
    others: Option<Arc<dyn OtherNodes>>,
}

impl Shards {
    #[must_use]
    pub fn new(options: WriteOptions, clock: Arc<dyn Clock>, metrics: IngesterMetrics) -> Self {
        Self {
            shards: RwLock::default(),
            believed: BelievedClock::new(clock.clone()),
            clock,
            metrics,
            appends: tokio::sync::Semaphore::new(options.max_appends),
            passes: tokio::sync::Semaphore::new(through::MAX_PASSES),
            limits: RwLock::new(options.limits),
            feature_level: AtomicU32::new(BASE_FEATURE_LEVEL.0),
            has_starts: AtomicBool::new(false),
            level_wanted: Notify::new(),
            others: None,
            options,
        }
    }

    /// What others lead is passed on to them, where somebody asks for that.
    #[must_use]
    pub fn among(self, others: Arc<dyn OtherNodes>) -> Self {
        let others = Some(others);
        Self { others, ..self }
    }

    /// From the next append on.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write() = limits;
    }

    pub(crate) fn set_feature_level(&self, level: u32) {
        self.feature_level.store(level, Ordering::Relaxed);
    }

    /// The feature level that is needed by what is configured and by what comes, where the cluster is not at it, and what it
    /// is needed for.
    pub(crate) fn wanted_feature_level(&self) -> Option<(u32, &'static str)> {
        let has_starts = self.has_starts.load(Ordering::Relaxed);
        let starts = (START_TIMES_FEATURE_LEVEL.0, "start timestamps");
        let limit = (METRIC_LIMIT_FEATURE_LEVEL.0, "--ingest.max-series-per-metric");
        let wanted = [(self.options.series.of_metric > 0, limit), (has_starts, starts)];
        let mut wanted = wanted
            .into_iter()
            .filter(|(is_wanted, _)| *is_wanted)
            .map(|(_, level)| level);
        wanted.find(|(level, _)| !self.is_at(FeatureLevel(*level)))
    }

    /// Whether all replicas understand what is of this level.
    pub(crate) fn is_at(&self, level: FeatureLevel) -> bool {
        self.feature_level.load(Ordering::Relaxed) >= level.0
    }

    /// Notes that somebody has start timestamps, and leaves them out while the cluster is not at their level.
    pub(crate) fn want_starts(&self) {
        if !self.has_starts.swap(true, Ordering::Relaxed) {
            self.level_wanted.notify_one();
        }
    }

    /// For a batch of a shard.
    pub(crate) fn limits_of(&self, shard: &Shard) -> Limits {
        let mut limits = *self.limits.read();
        let series = self.options.series;
        if series == SeriesLimits::default() {
            return limits;
        }
        let all = match series.of_node {
            0 => 0,
            _ => self.shards.read().values().map(|s| s.machine.series_count()).sum(),
        };
        limits.max_series = series.of_batch(shard.machine.series_count(), all);
        // Replicas of an older version would not understand it.
        if self.is_at(METRIC_LIMIT_FEATURE_LEVEL) {
            limits.max_series_per_metric = series.of_metric;
        }
        limits
    }

    pub fn add(&self, shard: Arc<Shard>) {
        self.shards.write().insert(shard.id(), shard);
    }

    pub fn remove(&self, shard: ShardId) {
        self.shards.write().remove(&shard);
    }

    #[must_use]
    pub fn has(&self, shard: ShardId) -> bool {
        self.shards.read().contains_key(&shard)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Shard>> {
        self.shards.read().values().cloned().collect()
    }

    /// Brings the gauges of the whole node up to date.
    pub(crate) fn show(&self, metrics: &IngesterMetrics) {
        let (mut series, mut min_ms, mut max_ms) = (0, i64::MAX, i64::MIN);
        for shard in self.all() {
            shard.machine.read(|state| {
                series += state.series_count();
                max_ms = max_ms.max(state.counters.newest_ms);
                let windows = state.tenants.values().filter_map(|t| t.head.windows.keys().next());
                min_ms = windows.fold(min_ms, |min, start| min.min(*start));
            });
        }
        metrics.head_series.set(i64::try_from(series).unwrap_or(i64::MAX));
        if min_ms <= max_ms {
            metrics.head_min_ms.set(min_ms);
            metrics.head_max_ms.set(max_ms);
        }
    }

    fn get(&self, shard: u32) -> Result<Arc<Shard>, ServiceError> {
        let there = self.shards.read().get(&ShardId(shard)).cloned();
        // Not yet, or not any more: another node has it, or this one in a moment.
        there.ok_or_else(|| ServiceError::Unavailable(format!("shard {shard} is not open on this node")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, Node};
    use gnomon_model::{Labels, PlacementEpoch, TargetId, TenantId};
    use gnomon_proto::batch::{BatchBuilder, TickHeader};
    use gnomon_proto::service::ShardWriteService;
    use gnomon_proto::v1::{AppendRequest, AppendResponse, View};

    async fn tick(node: &Node, term: u64, tick_ms: i64) -> AppendResponse {
        append(node, term, tick_ms).await.unwrap()
    }

    async fn append(node: &Node, term: u64, tick_ms: i64) -> Result<AppendResponse, ServiceError> {
        let mut batch = BatchBuilder::new(&TenantId::anonymous(), PlacementEpoch(1));
        batch.begin_tick(&TickHeader {
            target: TargetId(1),
            term,
            tick_ms,
            interval_ms: 15_000,
            first: true,
            last: true,
            complete: true,
            home: true,
            track_timestamps_staleness: false,
            names_only: false,
            other_shards: Vec::new(),
        });
        let key = batch.new_series(Labels::from_pairs([("__name__", "a")]).as_ref());
        batch.sample(key, tick_ms, term as f64);
        let request = AppendRequest {
            shard: 0,
            batch: batch.finish(),
            starts_left_out: false,
            only_newer: false,
        };
        node.shards.append(request).await
    }

    /// A scraper's clock and this node's are ahead by five minutes, and are set right.
    #[tokio::test]
    async fn what_clocks_that_jumped_make_does_not_stand_in_the_way() {
        let node = Node::new(WriteOptions::default());
        node.shards.believed.set_has_others(true);
        assert!(tick(&node, 1, NOW).await.ticks_taken[0]);
        node.clock.set_wall(TimestampMs(NOW + 315_000));
        let refused = append(&node, 1, NOW + 315_000).await.unwrap_err();
        assert!(matches!(refused, ServiceError::Busy(_)), "{refused:?}");
        // A scraper whose clock is right is not kept waiting.
        assert!(tick(&node, 1, NOW + 15_000).await.ticks_taken[0]);
        node.clock.set_wall(TimestampMs(NOW + 30_000));
        assert!(tick(&node, 1, NOW + 30_000).await.ticks_taken[0]);
    }

    #[tokio::test]
    async fn a_scrape_that_the_owner_before_has_made_is_not_taken_again() {
        let node = Node::new(WriteOptions::default());
        assert!(tick(&node, 1, NOW).await.ticks_taken[0]);
        // The next owner was a little later, or earlier, at the same place in the interval.
        for late_ms in [40, -3, 3_000] {
            let again = tick(&node, 2, NOW + late_ms).await;
            assert_eq!((&again.ticks_taken[..], &again.refs[..]), (&[false][..], &[0][..]));
            assert!(again.ticks_doubled && again.ticks_repeated[0], "{late_ms}");
        }
        // Its next one is its own, and so is whatever the same owner makes.
        assert!(tick(&node, 2, NOW + 14_900).await.ticks_taken[0]);
        let again = tick(&node, 2, NOW + 14_900).await;
        assert!(!again.ticks_doubled && again.ticks_repeated[0]);
        assert!(tick(&node, 2, NOW + 15_100).await.ticks_taken[0]);
        let all = node.read(View::default()).await.unwrap();
        let expected = [(NOW, 1.0), (NOW + 14_900, 2.0), (NOW + 15_100, 2.0)];
        assert_eq!(all[r#"{__name__="a"}"#], expected);
    }

    #[test]
    fn a_shard_may_have_what_is_left_of_the_nodes_limit() {
        let limits = |of_node, of_shard| SeriesLimits {
            of_node,
            of_shard,
            of_metric: 0,
        };
        assert_eq!(limits(0, 0).of_batch(5, 9), 0);
        assert_eq!(limits(0, 7).of_batch(5, 9), 7);
        assert_eq!(limits(10, 0).of_batch(5, 9), 6);
        assert_eq!(limits(10, 5).of_batch(5, 9), 5);
        assert_eq!(limits(10, 0).of_batch(5, 12), 5);
        // 0 would be no limit.
        assert_eq!(limits(10, 0).of_batch(0, 10), 1);
    }
}
