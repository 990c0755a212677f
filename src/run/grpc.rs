//! The gRPC listener: every service that has a body here, behind the layers of a server.

use super::Process;
use super::roles::Running;
use crate::http;
use anyhow::Context as _;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_cluster::clients::{meta_server, shard_read_server, shard_write_server, targets_server};
use gnomon_cluster::layers::{Members, Membership, ServeLayer, ServeMetrics};
use gnomon_cluster::node::NodeHandle;
use gnomon_cluster::raft::raft_server;
use gnomon_cluster::tls::{HandshakeLimits, Offer, accept};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
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
    listener: TcpListener,
    servers: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let metrics = ServeMetrics::register(&process.registry).context("metrics")?;
    let members = Members::new(Membership::of(node.cluster_id), node.node_id).among(node.meta_watch.clone());
    let layer = ServeLayer::new(MAX_CALLS, metrics, Arc::clone(&process.clock)).for_members(members);
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
    if let Some(scraper) = &running.scraper {
        routes = routes.add_service(layer.layer(targets_server(scraper.status())));
    }
    let stop = process.stop.clone();
    let Some(tls) = &process.cluster_tls else {
        say_if_open(&listener);
        servers.spawn(http::serve_grpc(TcpListenerStream::new(listener), routes, stop));
        return Ok(());
    };
    let offer: Arc<dyn Offer> = Arc::clone(tls) as _;
    let (limits, clock) = (HandshakeLimits::default(), Arc::clone(&process.clock));
    let accepted = accept(listener, "cluster", offer, limits, process.handshakes.clone(), clock);
    let incoming = ReceiverStream::new(accepted).map(|(stream, _)| Ok(stream));
    servers.spawn(http::serve_grpc(incoming, routes, stop));
    Ok(())
}

/// Whoever reaches a port without TLS can read and write everything.
fn say_if_open(listener: &TcpListener) {
    if let Ok(address) = listener.local_addr()
        && !address.ip().is_loopback()
    {
        tracing::warn!(
            %address,
            "nodes speak plain text, and whoever reaches this address is taken for one: set --cluster.tls.cert-file, \
             --cluster.tls.key-file and --cluster.tls.ca-file, or let only nodes reach it"
        );
    }
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
