//! A network within the process, for tests and simulation: it drops, delays and cuts as told.

use super::transport::{AppendAnswers, RaftService, RaftTransport, RpcError};
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use gnomon_model::NodeId;
use gnomon_proto::v1::{
    RaftAppendRequest, RaftAppendResponse, RaftReadIndexRequest, RaftReadIndexResponse, RaftSnapshotChunk,
    RaftSnapshotResponse, RaftTransferRequest, RaftTransferResponse, RaftVoteRequest, RaftVoteResponse,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What is wrong with the way from one node to another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkFault {
    /// Nothing passes.
    pub cut: bool,
    /// Share of messages that are lost, 0 to 1; a lost message breaks an append stream.
    pub lose: f64,
    /// Each message takes this long.
    pub delay: Duration,
}

/// Nodes of one process that reach each other.
#[derive(Clone)]
pub struct LocalNetwork {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    nodes: HashMap<NodeId, Arc<dyn RaftService>>,
    faults: HashMap<(NodeId, NodeId), LinkFault>,
    random: StdRng,
}

impl LocalNetwork {
    /// Losses are drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                nodes: HashMap::new(),
                faults: HashMap::new(),
                random: StdRng::seed_from_u64(seed),
            })),
        }
    }

    /// What `from` sends through.
    #[must_use]
    pub fn transport(&self, from: NodeId) -> Arc<dyn RaftTransport> {
        Arc::new(LocalTransport {
            network: self.clone(),
            from,
        })
    }

    pub fn join(&self, node: NodeId, service: Arc<dyn RaftService>) {
        self.inner.lock().nodes.insert(node, service);
    }

    pub fn leave(&self, node: NodeId) {
        self.inner.lock().nodes.remove(&node);
    }

    /// Sets the fault of one direction.
    pub fn set_fault(&self, from: NodeId, to: NodeId, fault: LinkFault) {
        self.inner.lock().faults.insert((from, to), fault);
    }

    /// Cuts every way between the two sides.
    pub fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        let cut = LinkFault {
            cut: true,
            ..LinkFault::default()
        };
        for a in one {
            for b in other {
                self.set_fault(*a, *b, cut);
                self.set_fault(*b, *a, cut);
            }
        }
    }

    /// Mends every way.
    pub fn heal(&self) {
        self.inner.lock().faults.clear();
    }

    /// Whether a message passes now, after its delay.
    async fn pass(&self, from: NodeId, to: NodeId) -> Result<(), RpcError> {
        let (fault, lost) = {
            let mut inner = self.inner.lock();
            let fault = inner.faults.get(&(from, to)).copied().unwrap_or_default();
            let lost = fault.cut || (fault.lose > 0.0 && inner.random.random_bool(fault.lose.clamp(0.0, 1.0)));
            (fault, lost)
        };
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        if lost {
            return Err(RpcError::Broken(format!(
                "the message from node {from} to node {to} was lost"
            )));
        }
        Ok(())
    }

    fn service(&self, node: NodeId) -> Result<Arc<dyn RaftService>, RpcError> {
        let service = self.inner.lock().nodes.get(&node).cloned();
        service.ok_or_else(|| RpcError::Unreachable {
            node,
            why: "it is not running".into(),
        })
    }
}

struct LocalTransport {
    network: LocalNetwork,
    from: NodeId,
}

impl LocalTransport {
    /// One call there and back.
    async fn call<T, F>(&self, to: NodeId, call: impl FnOnce(Arc<dyn RaftService>) -> F) -> Result<T, RpcError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        self.network.pass(self.from, to).await?;
        let answer = call(self.network.service(to)?).await?;
        self.network.pass(to, self.from).await?;
        Ok(answer)
    }

    /// Messages one way, until one is lost.
    fn way<T: Send + 'static>(
        &self,
        from: NodeId,
        to: NodeId,
        messages: BoxStream<'static, T>,
    ) -> BoxStream<'static, Result<T, RpcError>> {
        let network = self.network.clone();
        let passed = messages.then(move |message| {
            let network = network.clone();
            async move { network.pass(from, to).await.map(|()| message) }
        });
        let until_lost = passed.scan(false, |ended, message| {
            let go = !*ended;
            *ended = message.is_err();
            std::future::ready(go.then_some(message))
        });
        until_lost.boxed()
    }

    fn there<T: Send + 'static>(&self, to: NodeId, messages: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let arrived = self.way(self.from, to, messages);
        arrived.filter_map(|message| std::future::ready(message.ok())).boxed()
    }
}

#[async_trait]
impl RaftTransport for LocalTransport {
    async fn append(
        &self,
        to: NodeId,
        requests: BoxStream<'static, RaftAppendRequest>,
    ) -> Result<AppendAnswers, RpcError> {
        self.network.pass(self.from, to).await?;
        let service = self.network.service(to)?;
        let answers = service.append(self.there(to, requests)).await?;
        let back = self.way(to, self.from, answers);
        Ok(back.map(|answer| answer.and_then(|inner| inner)).boxed())
    }

    async fn heartbeat(&self, to: NodeId, request: RaftAppendRequest) -> Result<RaftAppendResponse, RpcError> {
        self.call(to, |service| async move { service.heartbeat(request).await })
            .await
    }

    async fn vote(&self, to: NodeId, request: RaftVoteRequest) -> Result<RaftVoteResponse, RpcError> {
        self.call(to, |service| async move { service.vote(request).await })
            .await
    }

    async fn snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, RaftSnapshotChunk>,
    ) -> Result<RaftSnapshotResponse, RpcError> {
        let chunks = self.there(to, chunks);
        self.call(to, |service| async move { service.snapshot(chunks).await })
            .await
    }

    async fn transfer_leader(
        &self,
        to: NodeId,
        request: RaftTransferRequest,
    ) -> Result<RaftTransferResponse, RpcError> {
        self.call(to, |service| async move { service.transfer_leader(request).await })
            .await
    }

    async fn read_index(&self, to: NodeId, request: RaftReadIndexRequest) -> Result<RaftReadIndexResponse, RpcError> {
        self.call(to, |service| async move { service.read_index(request).await })
            .await
    }
}
