//! The gRPC listener: every service that has a body here, behind the layers of a server.

use super::Process;
use super::roles::Running;
use crate::http;
use anyhow::Context as _;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_cluster::clients::{block_read_server, meta_server, shard_read_server, shard_write_server, targets_server};
use gnomon_cluster::layers::{ServeLayer, ServeMetrics};
use gnomon_cluster::node::NodeHandle;
use gnomon_cluster::raft::raft_server;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{BlockReadService, MetaService};
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::Layer;

/// Calls of one service under way at a time; what is beyond is turned away, and callers try again within their budget.
const MAX_CALLS: usize = 1024;

/// Serves until told to stop.
pub(super) fn serve(
    process: &Process,
    node: &NodeHandle,
    running: &Running,
    blocks: Option<Arc<dyn BlockReadService>>,
    listener: TcpListener,
    servers: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let metrics = ServeMetrics::register(&process.registry).context("metrics")?;
    let layer = ServeLayer::new(MAX_CALLS, metrics, Arc::clone(&process.clock));
    let mut routes = Routes::default();
    if let Some(own) = &node.ingester {
        let meta = Arc::new(UntilStop {
            meta: Arc::clone(&own.meta_replica),
            stop: process.stop.clone(),
        });
        routes = routes
            .add_service(layer.layer(meta_server(meta)))
            // Raft's own messages are bounded by its groups, and must get through when all else is too much.
            .add_service(raft_server(own.raft_service()));
    }
    if let Some(ingester) = &running.ingester {
        routes = routes
            .add_service(layer.layer(shard_write_server(ingester.shards())))
            .add_service(layer.layer(shard_read_server(ingester.shards())));
    }
    if let Some(blocks) = blocks {
        routes = routes.add_service(layer.layer(block_read_server(blocks)));
    }
    if let Some(scraper) = &running.scraper {
        routes = routes.add_service(layer.layer(targets_server(scraper.status())));
    }
    servers.spawn(http::serve_grpc(listener, routes, process.stop.clone()));
    Ok(())
}

/// The metadata group as it is served: its watches, which have no end of their own, end with the process.
struct UntilStop {
    meta: Arc<dyn MetaService>,
    stop: CancellationToken,
}

#[async_trait]
impl MetaService for UntilStop {
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        self.meta.propose(command).await
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        self.meta.read().await
    }

    async fn watch(
        &self,
        after_revision: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        let states = self.meta.watch(after_revision).await?;
        Ok(states.take_until(self.stop.clone().cancelled_owned()).boxed())
    }
}
