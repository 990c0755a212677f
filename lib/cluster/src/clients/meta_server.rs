//! The metadata group behind a gRPC listener. Its state goes to those who ask as what differs from what they have.

use super::MAX_MESSAGE_BYTES;
use crate::blocking::blocking;
use crate::meta::changes::{History, Pieces};
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_server::{Meta, MetaServer};
use gnomon_proto::v1::{
    MetaChangesRequest, MetaCommand, MetaReadRequest, MetaResponse, MetaState, MetaUpdate, MetaWatchRequest,
    ProposeThroughRequest,
};
use parking_lot::Mutex;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// A state of so many records is compared with another on a thread that may block.
const MANY_RECORDS: usize = 4096;

/// The metadata group, where this node has a replica of it.
#[must_use]
pub fn meta_server(service: Arc<dyn MetaService>) -> MetaServer<ServedMeta> {
    let served = ServedMeta {
        service,
        history: Arc::default(),
    };
    MetaServer::new(served)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// See [`meta_server`].
pub struct ServedMeta {
    service: Arc<dyn MetaService>,
    /// One for all who watch: what differs is found once.
    history: Arc<Mutex<History>>,
}

/// What leads from `have_revision` to a state, or a later one that was shown to another; and to which.
async fn pieces(
    history: Arc<Mutex<History>>,
    state: Arc<MetaState>,
    have_revision: u64,
) -> Result<(Pieces, u64), Status> {
    let many = state.blocks.len() + state.jobs.len() + state.nodes.len() > MANY_RECORDS;
    let find = move || {
        let mut history = history.lock();
        history.observe(&state);
        (history.since(have_revision), history.revision())
    };
    if !many {
        return Ok(find());
    }
    let found = blocking(find).await;
    found.map_err(|error| ServiceError::Internal(format!("comparing metadata states: {error}")).into())
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

#[async_trait]
impl Meta for ServedMeta {
    type WatchStream = Stream<MetaState>;
    type ReadChangesStream = Stream<MetaUpdate>;
    type WatchChangesStream = Stream<MetaUpdate>;

    async fn propose(&self, request: Request<MetaCommand>) -> Result<Response<MetaResponse>, Status> {
        Ok(Response::new(self.service.propose(request.into_inner()).await?))
    }

    async fn propose_through(&self, request: Request<ProposeThroughRequest>) -> Result<Response<MetaResponse>, Status> {
        let ProposeThroughRequest { command, leader } = request.into_inner();
        let command = command.ok_or_else(|| ServiceError::Invalid("no command".into()))?;
        Ok(Response::new(self.service.propose_through(command, leader).await?))
    }

    async fn read(&self, _: Request<MetaReadRequest>) -> Result<Response<MetaState>, Status> {
        Ok(Response::new(Arc::unwrap_or_clone(self.service.read().await?)))
    }

    async fn watch(&self, request: Request<MetaWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let stream = self.service.watch(request.into_inner().after_revision).await?;
        let states = stream.map(|item| item.map(Arc::unwrap_or_clone).map_err(Status::from));
        Ok(Response::new(states.boxed()))
    }

    async fn read_changes(
        &self,
        request: Request<MetaChangesRequest>,
    ) -> Result<Response<Self::ReadChangesStream>, Status> {
        let have_revision = request.into_inner().have_revision;
        let state = self.service.read().await?;
        let (pieces, _) = pieces(self.history.clone(), state, have_revision).await?;
        Ok(Response::new(stream::iter(pieces.map(Ok)).boxed()))
    }

    async fn watch_changes(
        &self,
        request: Request<MetaChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        let have_revision = request.into_inner().have_revision;
        let states = self.service.watch(have_revision).await?;
        let history = self.history.clone();
        let following = (states, have_revision);
        let updates = stream::unfold(following, move |(mut states, had)| {
            let history = history.clone();
            async move {
                let found = match states.next().await? {
                    Ok(state) => pieces(history, state, had).await,
                    Err(error) => Err(error.into()),
                };
                Some(match found {
                    // What was shown meanwhile was told with what was before it.
                    Ok((_, reached)) if reached == had => (stream::empty().boxed(), (states, had)),
                    Ok((pieces, reached)) => (stream::iter(pieces.map(Ok)).boxed(), (states, reached)),
                    Err(status) => (stream::once(async move { Err(status) }).boxed(), (states, had)),
                })
            }
        });
        Ok(Response::new(updates.flatten().boxed()))
    }
}
