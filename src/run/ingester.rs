//! The shards that this node has a replica of.

use super::Process;
use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use gnomon_cluster::node::{IngesterNode, NodeHandle};
use gnomon_cluster::raft::{Group, ProposeError, ReadError};
use gnomon_ingester::{IngesterMetrics, Shard, ShardLog, ShardMachine, Shards, WriteOptions};
use gnomon_model::{GroupId, NodeId, ShardId};
use std::sync::Arc;

struct GroupLog(Group);

#[async_trait]
impl ShardLog for GroupLog {
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        self.0.propose(entry).await
    }
    async fn read_index(&self) -> Result<u64, ReadError> {
        self.0.read_index().await
    }
    fn leader(&self) -> Option<NodeId> {
        self.0.leader()
    }
    fn is_leader(&self) -> bool {
        self.0.is_leader()
    }
}

pub(super) struct Ingester {
    pub(super) shards: Arc<Shards>,
    pub(super) metrics: IngesterMetrics,
}

impl Ingester {
    pub(super) async fn start(
        process: &Process,
        node: &NodeHandle,
        own: &IngesterNode,
        options: WriteOptions,
    ) -> anyhow::Result<Self> {
        let metrics = IngesterMetrics::register(&process.registry).context("metrics")?;
        let shards = Arc::new(Shards::new(options, Arc::clone(&process.clock), metrics.clone()));
        let state = Arc::clone(&node.meta_watch.borrow());
        for replicas in state.shards.iter().filter(|s| s.nodes.contains(&node.node_id.0)) {
            let machine = Arc::new(ShardMachine::new(ShardId(replicas.shard)));
            let group = own
                .host
                .open(GroupId::of_shard(ShardId(replicas.shard)), machine.clone())
                .await?;
            if !group.is_initialized().await? && replicas.nodes.first() == Some(&node.node_id.0) {
                let voters: Vec<_> = replicas.nodes.iter().copied().map(NodeId).collect();
                group.initialize(&voters).await?;
            }
            shards.add(Arc::new(Shard::new(
                machine,
                Arc::new(GroupLog(group)),
                Arc::clone(&process.clock),
            )));
        }
        Ok(Self { shards, metrics })
    }

    pub(super) async fn stop(&self) {}
}
