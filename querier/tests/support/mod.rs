//! A small cluster in memory: shards as a head would answer, real blocks in an in-memory object store, a catalogue.

#![allow(dead_code, unreachable_pub)]

use async_trait::async_trait;
use axum::body::Body;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_cluster::fragments::PageSource;
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::re2::Regex;
use gnomon_model::relabel::{Action, RelabelConfig};
use gnomon_model::{
    BlockId, ClusterId, Labels, LabelsRef, ManualClock, MatchOp, Matcher, NodeId, PartId, ShardId, TenantId, TimeRange,
    TimestampMs,
};
use gnomon_proto::service::{
    BlockReadService, EvaluateStream, MetaService, SelectStream, ShardReadService, TargetsService,
};
use gnomon_proto::{ServiceError, v1};
use gnomon_querier::{
    ApiState, BlockReads, BuildInfo, ConfigInfo, Fanout, NodeInfo, Notifications, Queriers, QueryOptions, ResultCache,
    RuntimeInfo, ServedBlocks, SpreadBlocks, StoredBlocks, WebOptions, api_router,
};
use gnomon_tsdb::{BlockMeta, BlockWriter, Exemplar, FloatPageBuilder, MemorySink, MetricMetadata, Page};
use http::{Request, StatusCode};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;
use tower::ServiceExt;

/// The clocks of the tests stand here: 2015-07-01T20:11:40Z.
pub const NOW_MS: i64 = 1_435_781_500_000;

pub type Points = Vec<(i64, f64)>;
pub type SeriesMap = BTreeMap<Labels, Points>;

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

pub fn page(points: &[(i64, f64)]) -> Option<Page> {
    let mut builder = FloatPageBuilder::new();
    for (t, v) in points {
        builder.append(*t, *v).unwrap();
    }
    builder.page()
}

/// One shard's head.
#[derive(Default)]
pub struct Head {
    /// Samples by part; those of the open one under the highest number.
    pub parts: BTreeMap<u64, SeriesMap>,
    /// Parts that were published and dropped, with the catalogue's revision then.
    pub dropped: BTreeMap<u64, u64>,
    /// First and last sample of those.
    pub dropped_ms: BTreeMap<u64, (i64, i64)>,
    /// The newest delete that is carried out here: a view that does not know of it is too old.
    pub delete_revision: u64,
    /// Evaluates no parts of queries, as a node of an older version.
    pub is_old: bool,
    pub exemplars: Vec<v1::SeriesExemplars>,
    pub metadata: Vec<v1::MetricMetadata>,
    /// Answers with this error.
    pub failure: Option<ServiceError>,
    /// Gives so many series, then fails.
    pub fail_after: Option<usize>,
    /// Never answers.
    pub hangs: bool,
    /// From when on samples are another placement epoch's, and its number.
    pub until: Option<(i64, u32)>,
}

#[derive(Default)]
pub struct Shards {
    pub heads: Mutex<BTreeMap<u32, Head>>,
    pub asked: Mutex<Vec<u32>>,
    /// How many parts of queries were evaluated.
    pub evaluated: Mutex<usize>,
}

fn matcher(m: &v1::LabelMatcher) -> Matcher {
    let op = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex][m.op as usize];
    Matcher::new(&m.name, op, &m.value).unwrap()
}

fn matches(matchers: &[v1::LabelMatcher], labels: &Labels) -> bool {
    matchers.iter().all(|m| matcher(m).matches_labels(labels.as_ref()))
}

fn any_set(sets: &[v1::MatcherSet], labels: &Labels) -> bool {
    sets.is_empty() || sets.iter().any(|set| matches(&set.matchers, labels))
}

impl Head {
    fn visible(&self, view: Option<&v1::View>, start_ms: i64, end_ms: i64) -> Result<SeriesMap, ServiceError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if view.is_some_and(|view| view.catalogue_revision < self.delete_revision) {
            return Err(ServiceError::StaleView {
                revision: self.delete_revision,
            });
        }
        if let Some((until_ms, epoch)) = self.until
            && end_ms >= until_ms
            && view.is_none_or(|view| view.placement_epoch < epoch)
        {
            return Err(ServiceError::StaleMap { epoch });
        }
        let named: BTreeSet<_> = view
            .map(|v| v.parts_from_blocks.iter().copied().collect())
            .unwrap_or_default();
        let overlaps = |part: &u64| {
            let times = self.dropped_ms.get(part);
            times.is_none_or(|(min_ms, max_ms)| *min_ms <= end_ms && start_ms <= *max_ms)
        };
        let missing = |(part, _): &(&u64, &u64)| !named.contains(part) && overlaps(part);
        if let Some((_, revision)) = self.dropped.iter().find(missing) {
            return Err(ServiceError::StaleView { revision: *revision });
        }
        let mut all = SeriesMap::new();
        for (_, series) in self.parts.iter().filter(|(part, _)| !named.contains(part)) {
            for (labels, points) in series {
                let points = points.iter().filter(|(t, _)| (start_ms..=end_ms).contains(t));
                let entry = all.entry(labels.clone()).or_default();
                entry.extend(points);
                entry.sort_by_key(|(t, _)| *t);
            }
        }
        all.retain(|_, points| !points.is_empty());
        Ok(all)
    }
}

impl Shards {
    async fn head<T>(
        &self,
        shard: u32,
        read: impl FnOnce(&Head) -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        self.asked.lock().push(shard);
        let hangs = self.heads.lock().get(&shard).is_some_and(|head| head.hangs);
        if hangs {
            std::future::pending::<()>().await;
        }
        match self.heads.lock().get(&shard) {
            Some(head) => read(head),
            None => Err(ServiceError::Unavailable(format!("shard {shard} has no leader"))),
        }
    }
}

#[async_trait]
impl ShardReadService for Shards {
    async fn select(&self, request: v1::SelectRequest) -> Result<SelectStream, ServiceError> {
        let wire = |(labels, points): (Labels, Points)| v1::Series {
            labels: labels.as_bytes().to_vec().into(),
            pages: page(&points)
                .filter(|_| !request.labels_only)
                .map(|page| v1::Page {
                    coding: u32::from(page.coding.tag()),
                    count: page.count,
                    min_ms: page.min_ts,
                    max_ms: page.max_ts,
                    data: page.bytes,
                })
                .into_iter()
                .collect(),
        };
        let (series, fail_after) = self
            .head(request.shard, |head| {
                let visible = head.visible(request.view.as_ref(), request.start_ms, request.end_ms)?;
                Ok((visible, head.fail_after))
            })
            .await?;
        let wanted = series
            .into_iter()
            .filter(|(labels, _)| matches(&request.matchers, labels));
        let mut batches: Vec<_> = wanted
            .map(wire)
            .map(|s| {
                Ok(v1::SelectBatch {
                    series: vec![s],
                    ..v1::SelectBatch::default()
                })
            })
            .collect();
        if let Some(after) = fail_after {
            batches.truncate(after);
            batches.push(Err(ServiceError::Unavailable("connection lost".into())));
        }
        Ok(futures::stream::iter(batches).boxed())
    }

    async fn evaluate(&self, request: v1::EvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        let max_held_samples = request.max_held_samples;
        let select = request.select.unwrap();
        let shard = select.shard;
        if self.heads.lock().get(&shard).is_some_and(|head| head.is_old) {
            return Err(ServiceError::Invalid("unimplemented".into()));
        }
        let matchers = select.matchers.iter().map(matcher).collect();
        let fragment = gnomon_cluster::fragments::from_wire(&request.fragment.unwrap(), matchers)?;
        assert_eq!(fragment.samples(), (select.start_ms, select.end_ms));
        let mut batches: std::collections::VecDeque<_> = self.select(select).await?.collect::<Vec<_>>().await.into();
        *self.evaluated.lock() += 1;
        let source = PageSource::new(|| batches.pop_front().transpose());
        let mut answer = Vec::new();
        let mut give = |batch| {
            answer.push(Ok(batch));
            true
        };
        let mut limits = gnomon_promql::Limits::default();
        if max_held_samples > 0 {
            limits.max_samples = max_held_samples;
        }
        let cancel = gnomon_promql::CancelFlag::new();
        if let Err(error) = gnomon_cluster::fragments::evaluate(&fragment, &source, &limits, &cancel, &mut give) {
            answer.push(Err(error));
        }
        Ok(futures::stream::iter(answer).boxed())
    }

    async fn labels(&self, request: v1::LabelsRequest) -> Result<v1::LabelsResponse, ServiceError> {
        let series = self
            .head(request.shard, |head| {
                head.visible(request.view.as_ref(), request.start_ms, request.end_ms)
            })
            .await?;
        let mut values = BTreeSet::new();
        for labels in series.keys().filter(|labels| any_set(&request.matchers, labels)) {
            if request.name.is_empty() {
                values.extend(labels.iter().map(|(n, _)| n.to_owned()));
            } else {
                values.extend(labels.get(&request.name).map(str::to_owned));
            }
        }
        Ok(v1::LabelsResponse {
            values: values.into_iter().collect(),
        })
    }

    async fn exemplars(&self, request: v1::ExemplarsRequest) -> Result<v1::ExemplarsResponse, ServiceError> {
        let mut series = self.head(request.shard, |head| Ok(head.exemplars.clone())).await?;
        let sets = request
            .matchers
            .iter()
            .map(|set| gnomon_proto::matchers::from_wire(&set.matchers));
        let sets = sets.collect::<Result<Vec<_>, _>>().map_err(ServiceError::Invalid)?;
        let range = request.start_ms..=request.end_ms;
        series.retain_mut(|series| {
            let labels = LabelsRef::from_canonical(&series.labels);
            series.exemplars.retain(|e| range.contains(&e.timestamp_ms));
            let is_wanted = |set: &Vec<Matcher>| set.iter().all(|m| m.matches_labels(labels));
            !series.exemplars.is_empty() && sets.iter().any(is_wanted)
        });
        Ok(v1::ExemplarsResponse { series })
    }

    async fn metric_metadata(
        &self,
        request: v1::MetricMetadataRequest,
    ) -> Result<v1::MetricMetadataResponse, ServiceError> {
        let mut metadata = self.head(request.shard, |head| Ok(head.metadata.clone())).await?;
        metadata.retain(|m| request.metric.is_empty() || m.metric == request.metric);
        Ok(v1::MetricMetadataResponse { metadata })
    }

    async fn head_stats(&self, request: v1::HeadStatsRequest) -> Result<v1::HeadStatsResponse, ServiceError> {
        self.head(request.shard, |head| {
            let all = head.visible(None, i64::MIN, i64::MAX)?;
            let times = || all.values().flatten().map(|(t, _)| *t);
            Ok(v1::HeadStatsResponse {
                series: all.len() as u64,
                label_pairs: 3,
                pages: all.len() as u64,
                min_ms: times().min().unwrap_or(0),
                max_ms: times().max().unwrap_or(0),
                series_count_by_metric_name: vec![v1::NameCount {
                    name: "up".into(),
                    value: all.len() as u64,
                }],
                ..v1::HeadStatsResponse::default()
            })
        })
        .await
    }
}

/// The metadata group: the truth, which a querier's watch may lag behind.
pub struct Meta {
    pub state: Mutex<v1::MetaState>,
    pub reads: Mutex<usize>,
    pub failure: Mutex<Option<ServiceError>>,
}

#[async_trait]
impl MetaService for Meta {
    async fn propose(&self, _: v1::MetaCommand) -> Result<v1::MetaResponse, ServiceError> {
        Err(ServiceError::Invalid("queriers do not propose".into()))
    }

    async fn read(&self) -> Result<Arc<v1::MetaState>, ServiceError> {
        *self.reads.lock() += 1;
        match self.failure.lock().clone() {
            Some(error) => Err(error),
            None => Ok(Arc::new(self.state.lock().clone())),
        }
    }

    async fn watch(
        &self,
        _: u64,
    ) -> Result<BoxStream<'static, Result<Arc<v1::MetaState>, ServiceError>>, ServiceError> {
        Ok(futures::stream::pending().boxed())
    }
}

pub struct Node(pub Mutex<Result<(), String>>);

/// Of the scrape pool `node`: ports are cut off, targets in the zone `b` dropped.
fn rules() -> Arc<[RelabelConfig]> {
    let host = RelabelConfig {
        source_labels: vec!["__address__".into()],
        regex: Regex::anchored("(.*):\\d+").unwrap(),
        target_label: "host".into(),
        ..RelabelConfig::default()
    };
    let zone = RelabelConfig {
        source_labels: vec!["zone".into(), "host".into()],
        regex: Regex::anchored("b;.*").unwrap(),
        action: Action::Drop,
        ..RelabelConfig::default()
    };
    let shard = RelabelConfig {
        source_labels: vec!["host".into()],
        modulus: 4,
        target_label: "shard".into(),
        action: Action::HashMod,
        ..RelabelConfig::default()
    };
    [host, zone, shard].into()
}

impl NodeInfo for Node {
    fn readiness(&self) -> Result<(), String> {
        self.0.lock().clone()
    }

    fn config(&self) -> ConfigInfo {
        ConfigInfo {
            external_labels: Labels::from_pairs([("region", "eu"), ("replica", "r1")]),
            yaml: "global:\n  scrape_interval: 15s\n".into(),
            reload_successful: true,
            reloaded_at_ms: NOW_MS - 60_000,
            evaluation_interval_ms: 60_000,
            relabelling: Arc::new(BTreeMap::from([("node".to_owned(), rules())])),
        }
    }

    fn runtime(&self) -> RuntimeInfo {
        RuntimeInfo {
            started_at_ms: NOW_MS - 60_001,
            working_directory: "/data".into(),
            hostname: "host".into(),
            storage_retention: "15d".into(),
            roles: vec!["querier".into()],
            corruptions: 0,
            threads: 7,
            processors: 2,
        }
    }
}

#[derive(Default)]
pub struct Scraper {
    pub targets: v1::ListTargetsResponse,
    pub metadata: Vec<v1::TargetMetadata>,
    pub failure: Option<ServiceError>,
}

#[async_trait]
impl TargetsService for Scraper {
    async fn list_targets(&self, request: v1::ListTargetsRequest) -> Result<v1::ListTargetsResponse, ServiceError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut all = self.targets.clone();
        let pool = |name: &String| request.scrape_pool.is_empty() || *name == request.scrape_pool;
        all.active.retain(|t| request.active && pool(&t.scrape_pool));
        all.dropped.retain(|t| request.dropped && pool(&t.scrape_pool));
        Ok(all)
    }

    async fn target_metadata(
        &self,
        request: v1::TargetMetadataRequest,
    ) -> Result<v1::TargetMetadataResponse, ServiceError> {
        let mut metadata = self.metadata.clone();
        metadata.retain(|m| request.metric.is_empty() || m.metric == request.metric);
        Ok(v1::TargetMetadataResponse { metadata })
    }
}

/// Other queriers, of which every third answer breaks off after its first message.
struct Others {
    served: ServedBlocks,
    answers: Mutex<usize>,
    evaluated: Arc<AtomicUsize>,
}

impl Others {
    fn known(store: Arc<dyn ObjectStore>, evaluated: &Arc<AtomicUsize>) -> Arc<Known> {
        let clock = Arc::new(ManualClock::at(TimestampMs(NOW_MS)));
        let blocks = StoredBlocks::new(store, 1 << 20, clock, &prometheus::Registry::new()).unwrap();
        Arc::new(Known(Arc::new(Self {
            served: ServedBlocks::new(Arc::new(blocks), 1 << 30),
            answers: Mutex::default(),
            evaluated: Arc::clone(evaluated),
        })))
    }
}

#[async_trait]
impl BlockReadService for Others {
    async fn select(&self, request: v1::BlockSelectRequest) -> Result<SelectStream, ServiceError> {
        // As it comes over a connection.
        let request = prost::Message::encode_to_vec(&request);
        let request = prost::Message::decode(&request[..]).unwrap();
        let stream = self.served.select(request).await?;
        let answers = {
            let mut answers = self.answers.lock();
            *answers += 1;
            *answers
        };
        if !answers.is_multiple_of(3) {
            return Ok(stream);
        }
        let broken = futures::stream::iter([Err(ServiceError::Unknown("connection: reset".into()))]);
        Ok(stream.take(1).chain(broken).boxed())
    }

    async fn labels(&self, request: v1::BlockLabelsRequest) -> Result<v1::LabelsResponse, ServiceError> {
        self.served.labels(request).await
    }

    async fn evaluate(&self, request: v1::BlockEvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        let request = prost::Message::encode_to_vec(&request);
        let request = prost::Message::decode(&request[..]).unwrap();
        let stream = self.served.evaluate(request).await?;
        let answers = {
            let mut answers = self.answers.lock();
            *answers += 1;
            *answers
        };
        self.evaluated.fetch_add(1, Ordering::Relaxed);
        if !answers.is_multiple_of(3) {
            return Ok(stream);
        }
        let broken = futures::stream::iter([Err(ServiceError::Unknown("connection: reset".into()))]);
        Ok(stream.take(1).chain(broken).boxed())
    }
}

struct Known(Arc<Others>);

impl Queriers for Known {
    fn own(&self) -> NodeId {
        NodeId(1)
    }

    fn live(&self) -> Vec<NodeId> {
        [1, 2, 3].map(NodeId).to_vec()
    }

    fn block_read(&self, _: NodeId) -> Result<Arc<dyn BlockReadService>, ServiceError> {
        Ok(Arc::clone(&self.0) as _)
    }
}

/// Everything at once; tests change what they are about, then build the router.
pub struct Cluster {
    pub shards: Arc<Shards>,
    pub meta: Arc<Meta>,
    pub store: Arc<InMemory>,
    pub node: Arc<Node>,
    pub scrapers: Vec<(String, Arc<Scraper>)>,
    pub query: QueryOptions,
    pub web: WebOptions,
    pub registry: prometheus::Registry,
    pub notifications: Arc<Notifications>,
    /// Whether most blocks are read by other queriers, which break off now and then.
    pub spread: bool,
    /// Parts of queries that those have evaluated over blocks.
    pub evaluated_elsewhere: Arc<AtomicUsize>,
    /// For results; 0 is none.
    pub results_bytes: u64,
    watched: watch::Sender<Arc<v1::MetaState>>,
}

impl Cluster {
    /// With shards 0 to `shards` - 1, empty.
    pub fn new(shards: u32) -> Self {
        let state = v1::MetaState {
            revision: 1,
            epochs: vec![v1::PlacementEpoch {
                epoch: 1,
                from_ms: i64::MIN,
                shards: (0..shards).collect(),
                by_labels: vec!["job".into(), "instance".into()],
                spreads: Vec::new(),
            }],
            ..v1::MetaState::default()
        };
        let heads = (0..shards).map(|shard| (shard, Head::default())).collect();
        Self {
            shards: Arc::new(Shards {
                heads: Mutex::new(heads),
                asked: Mutex::default(),
                evaluated: Mutex::default(),
            }),
            watched: watch::Sender::new(Arc::new(state.clone())),
            meta: Arc::new(Meta {
                state: Mutex::new(state),
                reads: Mutex::new(0),
                failure: Mutex::new(None),
            }),
            store: Arc::new(InMemory::new()),
            node: Arc::new(Node(Mutex::new(Ok(())))),
            scrapers: Vec::new(),
            query: QueryOptions::default(),
            web: WebOptions::default(),
            registry: prometheus::Registry::new(),
            notifications: Notifications::new(Arc::new(ManualClock::at(TimestampMs(NOW_MS))), 2).unwrap(),
            spread: false,
            evaluated_elsewhere: Arc::default(),
            results_bytes: 1 << 20,
        }
    }

    /// Adds samples to a part of a shard's head.
    pub fn add(&self, shard: u32, part: u64, labels: Labels, points: &[(i64, f64)]) {
        let mut heads = self.shards.heads.lock();
        let head = heads.get_mut(&shard).unwrap();
        head.parts
            .entry(part)
            .or_default()
            .entry(labels)
            .or_default()
            .extend(points);
    }

    pub fn with_head(&self, shard: u32, change: impl FnOnce(&mut Head)) {
        change(self.shards.heads.lock().get_mut(&shard).unwrap());
    }

    /// Turns a part into a live block, as a shard's leader does; queriers that only watch hear of it with
    /// [`Self::tell`].
    pub async fn publish(&self, shard: u32, part: u64) -> String {
        let id = BlockId(u128::from(shard) << 64 | u128::from(part));
        self.publish_as(id, shard, part).await
    }

    /// As [`Self::publish`], as the block of that id.
    pub async fn publish_as(&self, id: BlockId, shard: u32, part: u64) -> String {
        let series = self
            .shards
            .heads
            .lock()
            .get(&shard)
            .unwrap()
            .parts
            .get(&part)
            .unwrap()
            .clone();
        let all_times: Vec<_> = series.values().flatten().map(|(t, _)| *t).collect();
        let (min, max) = (*all_times.iter().min().unwrap(), *all_times.iter().max().unwrap());
        let window = TimeRange::new(TimestampMs(min), TimestampMs(max + 1));
        let (exemplars, metadata) = {
            let heads = self.shards.heads.lock();
            let head = &heads[&shard];
            (head.exemplars.clone(), head.metadata.clone())
        };
        let mut meta = BlockMeta::new(id, ClusterId(1), TenantId::anonymous(), ShardId(shard), window);
        meta.parts = vec![PartId {
            shard: ShardId(shard),
            number: part,
        }];
        meta.feature_level = CURRENT_FEATURE_LEVEL;
        let mut writer = BlockWriter::new(meta, MemorySink::default());
        for (labels, points) in &series {
            writer.add_series(labels.as_ref(), page(points)).await.unwrap();
        }
        for series in exemplars {
            let labels = LabelsRef::checked(&series.labels).unwrap();
            let within = series
                .exemplars
                .iter()
                .filter(|e| (min..=max).contains(&e.timestamp_ms));
            let its = within.map(|e| Exemplar {
                timestamp_ms: e.timestamp_ms,
                value: e.value,
                labels: LabelsRef::checked(&e.labels).unwrap().to_owned(),
            });
            writer.add_exemplars(labels, its.collect()).unwrap();
        }
        for entry in metadata {
            let known = MetricMetadata {
                at_ms: max,
                kind: entry.r#type,
                unit: entry.unit,
                help: entry.help,
            };
            writer.add_metadata(&entry.metric, known);
        }
        let block = writer.finish().await.unwrap();
        let path = format!("blocks/{id}.gnb");
        self.store
            .put(&Path::from(path.as_str()), block.output.into())
            .await
            .unwrap();
        let mut state = self.meta.state.lock();
        state.revision += 1;
        state.catalogue_revision += 1;
        state.blocks.push(v1::BlockRecord {
            id: id.to_string(),
            tenant: "anonymous".into(),
            shard,
            start_ms: window.start.0,
            end_ms: window.end.0,
            state: v1::block_record::State::Live as i32,
            parts: vec![part],
            path: path.clone(),
            min_sample_ms: min,
            max_sample_ms: max,
            ..v1::BlockRecord::default()
        });
        path
    }

    /// The shard drops a published part.
    pub fn drop_part(&self, shard: u32, part: u64) {
        let (revision, of_block) = {
            let state = self.meta.state.lock();
            let mut blocks = state.blocks.iter();
            let block = blocks.find(|block| block.shard == shard && block.parts.contains(&part));
            let times = block.map(|block| (block.start_ms, block.end_ms - 1));
            (state.catalogue_revision, times)
        };
        self.with_head(shard, |head| {
            let series = head.parts.remove(&part).unwrap_or_default();
            let times = || series.values().flatten().map(|(t, _)| *t);
            // All that it had may have been deleted since.
            if let Some(times) = times().min().zip(times().max()).or(of_block) {
                head.dropped_ms.insert(part, times);
            }
            head.dropped.insert(part, revision);
        });
    }

    /// The watch catches up.
    pub fn tell(&self) {
        self.watched.send_replace(Arc::new(self.meta.state.lock().clone()));
    }

    /// The watch shows a state from before all epochs but the first, which has this many shards, and before all blocks.
    pub fn tell_of_one_epoch(&self, shards: u32) {
        let mut state = v1::MetaState {
            revision: 1,
            epochs: self.meta.state.lock().epochs[..1].to_vec(),
            ..v1::MetaState::default()
        };
        state.epochs[0].shards = (0..shards).collect();
        self.watched.send_replace(Arc::new(state));
    }

    pub fn state(&self) -> ApiState {
        let store: Arc<dyn ObjectStore> = Arc::clone(&self.store) as _;
        let scrapers = self.scrapers.clone();
        let clock = || Arc::new(ManualClock::at(TimestampMs(NOW_MS)));
        let blocks = StoredBlocks::new(store, 1 << 20, clock(), &prometheus::Registry::new()).unwrap();
        let blocks: Arc<dyn BlockReads> = if self.spread {
            let others = Others::known(Arc::clone(&self.store) as _, &self.evaluated_elsewhere);
            Arc::new(SpreadBlocks::new(Arc::new(blocks), others, 0, clock(), &prometheus::Registry::new()).unwrap())
        } else {
            Arc::new(blocks)
        };
        ApiState {
            clock: clock(),
            registry: self.registry.clone(),
            fanout: Arc::new(Fanout {
                tenant: TenantId::anonymous(),
                shards: Arc::clone(&self.shards) as _,
                blocks,
                meta: Arc::clone(&self.meta) as _,
                view: self.watched.subscribe(),
                deletes: gnomon_cluster::deletes::KnownDeletes::default(),
            }),
            scrapers: Arc::new(move || {
                let one = |(name, scraper): &(String, Arc<Scraper>)| (name.clone(), Arc::clone(scraper) as _);
                scrapers.iter().map(one).collect()
            }),
            node: Arc::clone(&self.node) as _,
            notifications: Arc::clone(&self.notifications),
            query: self.query.clone(),
            results: ResultCache::new(self.results_bytes, "test"),
            web: self.web.clone(),
            admin: gnomon_querier::AdminOptions {
                enabled: false,
                bucket: Arc::clone(&self.store) as _,
                snapshots: std::path::PathBuf::new(),
            },
            build: BuildInfo {
                version: "0.1.0".into(),
                revision: "abc".into(),
                branch: "main".into(),
                build_user: "me".into(),
                build_date: "20260101-00:00:00".into(),
                rust_version: "rustc 1.95.0".into(),
            },
            flags: BTreeMap::from([("web.enable-lifecycle".to_owned(), "true".to_owned())]),
        }
    }

    pub fn router(&self) -> axum::Router {
        api_router(self.state()).unwrap()
    }

    /// Asks with GET: the status and the body.
    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        let (status, body) = self.send_for_bytes(request).await;
        (status, String::from_utf8(body).unwrap())
    }

    pub async fn send_for_bytes(&self, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let response = self.router().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap();
        (status, body.to_vec())
    }

    /// A successful answer's body.
    pub async fn ok(&self, path: &str) -> String {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }
}

/// Three series in two shards, a sample every 15 s for the ten minutes before now.
pub fn example() -> Cluster {
    let cluster = Cluster::new(2);
    let times = || (0..40).map(|i| NOW_MS - i * 15_000).rev();
    for (shard, instance, value) in [(0, "a:9100", 1.0), (1, "b:9100", 0.0)] {
        let series = labels(&[("__name__", "up"), ("job", "node"), ("instance", instance)]);
        cluster.add(shard, 1, series, &times().map(|t| (t, value)).collect::<Vec<_>>());
    }
    let counter = labels(&[("__name__", "requests_total"), ("job", "api"), ("path", "/<x>&")]);
    let points: Vec<_> = times().enumerate().map(|(i, t)| (t, i as f64 * 30.0)).collect();
    cluster.add(0, 1, counter, &points);
    cluster
}
