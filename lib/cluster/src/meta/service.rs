//! The metadata group as a service: the body that runs where the group does.

use super::MetaMachine;
use crate::others::OtherNodes;
use crate::raft::{ProposeError, ReadError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::{Clock, NodeId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState};
use prost::Message;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_stream::wrappers::WatchStream;

/// The replicated log below the service: a Raft group.
#[async_trait]
pub trait MetaLog: Send + Sync + 'static {
    /// Commits an entry; the answer is what applying it gave.
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError>;
    /// Returns once everything committed before the call is applied here, whoever leads.
    async fn read_index(&self) -> Result<(), ReadError>;
}

/// The metadata service of a node that hosts a replica of the group.
pub struct MetaNode {
    log: Arc<dyn MetaLog>,
    machine: Arc<MetaMachine>,
    clock: Arc<dyn Clock>,
    others: OnceLock<Arc<dyn OtherNodes>>,
}

/// How long a leader may take for what is passed on to it.
const PASS_WITHIN: Duration = Duration::from_secs(4);

impl MetaNode {
    #[must_use]
    pub fn new(log: Arc<dyn MetaLog>, machine: Arc<MetaMachine>, clock: Arc<dyn Clock>) -> Self {
        Self {
            log,
            machine,
            clock,
            others: OnceLock::new(),
        }
    }

    /// From now on what another leads is passed on to it, where somebody asks for that.
    pub(crate) fn pass_on_to(&self, others: Arc<dyn OtherNodes>) {
        let _ = self.others.set(others);
    }

    /// Asks the leader for somebody who does not reach it. Only it: where it leads no more, whoever asks hears of it.
    async fn pass_on(&self, leader: NodeId, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        let unreached = ServiceError::NotLeader { leader: None };
        let Some(peer) = self.others.get().and_then(|others| others.meta(leader).ok()) else {
            return Err(unreached);
        };
        match tokio::time::timeout(PASS_WITHIN, peer.propose(command)).await {
            // It was not done there, and the way from here is no better.
            Ok(Err(ServiceError::Unavailable(_))) => Err(unreached),
            Ok(answer) => answer,
            Err(_) => Err(ServiceError::Unknown(format!(
                "passed on to node {leader}, which did not answer within {PASS_WITHIN:?}"
            ))),
        }
    }
}

#[async_trait]
impl MetaService for MetaNode {
    async fn propose(&self, mut command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        // Only a leader's proposal is committed, so that this is the leader's time.
        command.proposed_at_ms = self.clock.now().0;
        let answer = self.log.propose(command.encode_to_vec().into()).await?;
        MetaResponse::decode(answer)
            .map_err(|e| ServiceError::Internal(format!("answer of the metadata group does not decode: {e}")))
    }

    async fn propose_through(&self, command: MetaCommand, leader: u64) -> Result<MetaResponse, ServiceError> {
        match self.propose(command.clone()).await {
            Err(ServiceError::NotLeader { leader: known }) if known == Some(leader) => {
                self.pass_on(NodeId(leader), command).await
            }
            answer => answer,
        }
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        self.log.read_index().await?;
        Ok(self.machine.state())
    }

    async fn watch(
        &self,
        after_revision: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        // A replica that is no member (yet) would never show anything.
        if self.machine.state().epochs.is_empty() {
            return Err(ServiceError::Unavailable(
                "no replica of the metadata group is here".into(),
            ));
        }
        let newer = move |state: Arc<MetaState>| {
            let newer = state.revision > after_revision;
            std::future::ready(newer.then_some(Ok(state)))
        };
        Ok(WatchStream::new(self.machine.watch()).filter_map(newer).boxed())
    }
}
