//! A shard without Raft: what is proposed is applied at once, flushes go to memory.

use crate::metrics::IngesterMetrics;
use crate::service::{Shard, ShardLog, Shards, WriteOptions};
use crate::shard::ShardMachine;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use gnomon_cluster::placement::Placement;
use gnomon_cluster::raft::{Applied, ProposeError, ReadError, StateError, StateMachine, StateReader, StateWriter};
use gnomon_cluster::router::{Router, RouterOptions, ShardWriter, ShardWriters};
use gnomon_model::{Clock, ManualClock, NodeId, ShardId, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::service::{ShardReadService, ShardWriteService};
use gnomon_proto::v1::{PlacementEpoch, SelectRequest, View};
use gnomon_tsdb::page::{Page, PageSamples};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

#[derive(Clone, Default)]
pub(crate) struct MemoryState(Arc<Mutex<Stored>>);

/// The pairs, and the index they stand at.
type Stored = (BTreeMap<Vec<u8>, Vec<u8>>, u64);

impl MemoryState {
    pub(crate) fn pairs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.0.lock().0.clone()
    }
}

impl StateWriter for MemoryState {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.lock().0.insert(key.to_vec(), value.to_vec());
    }
    fn delete(&mut self, key: &[u8]) {
        self.0.lock().0.remove(key);
    }
    fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.0.lock().0.retain(|k, _| !(from <= &k[..] && &k[..] < to));
    }
}

impl StateReader for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.lock().0.get(key).cloned().map(Bytes::from))
    }
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let all = self.0.lock().0.clone();
        let within = |k: &[u8]| from <= k && to.is_none_or(|to| k < to);
        for (key, value) in all.iter().filter(|(k, _)| within(k)) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
    fn index(&self) -> u64 {
        self.0.lock().1
    }
    fn share(&self) -> Arc<dyn StateReader> {
        Arc::new(self.clone())
    }
}

/// Applies at once, flushes when the machine wants it.
pub(crate) struct DirectLog {
    pub(crate) machine: Arc<ShardMachine>,
    pub(crate) store: MemoryState,
    pub(crate) leads: AtomicBool,
    index: Mutex<u64>,
}

impl DirectLog {
    fn new(shard: ShardId) -> Arc<Self> {
        let machine = Arc::new(ShardMachine::new(shard));
        let store = MemoryState::default();
        machine.restore(&store).unwrap();
        Arc::new(Self {
            machine,
            store,
            leads: AtomicBool::new(true),
            index: Mutex::new(0),
        })
    }

    pub(crate) fn flush(&self) {
        let mut store = self.store.clone();
        let index = *self.index.lock();
        self.machine.flush(&mut store).unwrap();
        store.0.lock().1 = index;
        self.machine.flushed(index);
    }
}

#[async_trait]
impl ShardLog for DirectLog {
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        let answer = {
            let mut index = self.index.lock();
            *index += 1;
            let entry = Applied {
                index: *index,
                term: 1,
                payload: &entry,
            };
            self.machine.apply(&[entry]).remove(0)
        };
        if self.machine.wants_flush() {
            self.flush();
        }
        Ok(answer)
    }
    async fn read_index(&self) -> Result<u64, ReadError> {
        Ok(*self.index.lock())
    }
    fn leader(&self) -> Option<NodeId> {
        Some(NodeId(7))
    }
    fn is_leader(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }
}

/// A node with one shard, a router to it, and a clock.
pub(crate) struct Node {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) log: Arc<DirectLog>,
    pub(crate) shards: Arc<Shards>,
    pub(crate) router: Arc<Router>,
    pub(crate) metrics: IngesterMetrics,
    _placement: watch::Sender<Arc<Placement>>,
}

struct Writers(Arc<Shards>);

impl ShardWriters for Writers {
    fn leader(&self, _: ShardId) -> Result<ShardWriter, ServiceError> {
        let client: Arc<dyn ShardWriteService> = self.0.clone();
        Ok(ShardWriter {
            node: NodeId(7),
            client,
            to: None,
        })
    }
}

pub(crate) const NOW: i64 = 1_700_000_000_000;

impl Node {
    pub(crate) fn new(options: WriteOptions) -> Self {
        let clock = Arc::new(ManualClock::at(TimestampMs(NOW)));
        let shared: Arc<dyn Clock> = clock.clone();
        let registry = prometheus::Registry::new();
        let metrics = IngesterMetrics::register(&registry).unwrap();
        let log = DirectLog::new(ShardId(0));
        let shards = Arc::new(Shards::new(options, shared.clone(), metrics.clone()));
        shards.add(Arc::new(Shard::new(log.machine.clone(), log.clone(), shared)));
        let epoch = PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: vec![0],
            by_labels: vec!["job".into(), "instance".into()],
            spreads: Vec::new(),
        };
        let placement = Arc::new(Placement::from_records(&[epoch]).unwrap());
        let (sender, receiver) = watch::channel(placement);
        let writers = Arc::new(Writers(shards.clone()));
        let router = Router::new(RouterOptions::default(), receiver, writers, &registry).unwrap();
        Self {
            clock,
            log,
            shards,
            router: Arc::new(router),
            metrics,
            _placement: sender,
        }
    }

    pub(crate) fn shard(&self) -> Arc<Shard> {
        self.shards.all().remove(0)
    }

    /// All samples of all series in a range, by labels in text form.
    pub(crate) async fn read(&self, view: View) -> Result<BTreeMap<String, Vec<(i64, f64)>>, ServiceError> {
        let request = SelectRequest {
            tenant: "anonymous".into(),
            start_ms: i64::MIN,
            end_ms: i64::MAX,
            view: Some(view),
            ..SelectRequest::default()
        };
        let mut stream = self.shards.select(request).await?;
        let mut all = BTreeMap::new();
        let mut last: Option<gnomon_model::Labels> = None;
        while let Some(batch) = stream.next().await {
            for series in batch?.series {
                let labels = gnomon_model::LabelsRef::checked(&series.labels).unwrap().to_owned();
                assert!(last.as_ref().is_none_or(|l| *l < labels), "not sorted");
                let mut samples = Vec::new();
                for page in series.pages {
                    match Page::parse(page.data).unwrap().decode().unwrap() {
                        PageSamples::Floats { timestamps, values } => {
                            samples.extend(timestamps.into_iter().zip(values))
                        }
                        PageSamples::Histograms(all) => {
                            samples.extend(all.into_iter().map(|h| (h.timestamp_ms, h.histogram.sum)));
                        }
                    }
                }
                assert!(samples.is_sorted_by(|a, b| a.0 < b.0), "pages overlap");
                all.insert(labels.to_string(), samples);
                last = Some(labels);
            }
        }
        Ok(all)
    }
}
