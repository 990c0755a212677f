//! The metadata group and the shard's log with the injector before them.

use crate::injector::{Class, Injector};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use gnomon_cluster::raft::{Group, ProposeError, ReadError};
use gnomon_ingester::ShardLog;
use gnomon_model::NodeId;
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState};
use gnomon_tsdb::bucket::faults::Fate;
use std::sync::Arc;

const REFUSED: &str = "injected: refused";
const LOST: &str = "injected: the answer was lost";

pub struct CountedMeta {
    pub inner: Arc<dyn MetaService>,
    pub injector: Arc<Injector>,
}

#[async_trait]
impl MetaService for CountedMeta {
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        match self.injector.next(Class::Commit) {
            Fate::Sound => self.inner.propose(command).await,
            Fate::Refused => Err(ServiceError::Unavailable(REFUSED.into())),
            Fate::LostResponse | Fate::Torn => {
                let done = self.inner.propose(command).await;
                self.injector.done();
                done.and(Err(ServiceError::Unknown(LOST.into())))
            }
        }
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        match self.injector.next(Class::Look) {
            Fate::Sound => self.inner.read().await,
            _ => Err(ServiceError::Unavailable(REFUSED.into())),
        }
    }

    async fn watch(
        &self,
        after_revision: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        self.inner.watch(after_revision).await
    }
}

pub struct CountedLog {
    pub inner: Group,
    pub injector: Arc<Injector>,
}

#[async_trait]
impl ShardLog for CountedLog {
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        match self.injector.next(Class::Entry) {
            Fate::Sound => self.inner.propose(entry).await,
            Fate::Refused => Err(ProposeError::Unavailable(REFUSED.into())),
            Fate::LostResponse | Fate::Torn => {
                let done = self.inner.propose(entry).await;
                self.injector.done();
                done.and(Err(ProposeError::Unknown(LOST.into())))
            }
        }
    }

    async fn read_index(&self) -> Result<u64, ReadError> {
        self.inner.read_index().await
    }

    fn leader(&self) -> Option<NodeId> {
        self.inner.leader()
    }

    fn is_leader(&self) -> bool {
        self.inner.is_leader()
    }
}
