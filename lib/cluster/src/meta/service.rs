//! The metadata group as a service: the body that runs where the group does.

use super::MetaMachine;
use crate::raft::{ProposeError, ReadError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::Clock;
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState};
use prost::Message;
use std::sync::Arc;
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
}

impl MetaNode {
    #[must_use]
    pub fn new(log: Arc<dyn MetaLog>, machine: Arc<MetaMachine>, clock: Arc<dyn Clock>) -> Self {
        Self { log, machine, clock }
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
