//! The gRPC listener: every service that has a body here, behind the layers of a server.

use super::roles::Running;
use super::{Process, writers};
use crate::http as server;
use crate::web::Web;
use anyhow::Context as _;
use async_trait::async_trait;
use axum::Router;
use axum::response::IntoResponse;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use gnomon_cluster::clients::{
    block_read_server, meta_server, nodes_server, results_server, shard_read_server, shard_write_server, targets_server,
};
use gnomon_cluster::layers::{Members, Membership, ServeLayer, ServeMetrics};
use gnomon_cluster::node::{IngesterNode, NodeHandle};
use gnomon_cluster::raft::raft_server;
use gnomon_cluster::tls::{HandshakeLimits, Offer, Secured, accept};
use gnomon_model::Clock;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{BlockReadService, MetaService, ResultsService};
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState};
use rustls::ServerConfig;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tower::Layer;

/// Calls of one service under way at a time; what is beyond is turned away, and callers try again within their budget.
const MAX_CALLS: usize = 1024;

async fn too_early() -> impl IntoResponse {
    Status::unavailable("this node is starting").into_http::<axum::body::Body>()
}

/// What is served on the gRPC listener: it grows as the node starts.
pub(super) struct Services {
    routes: server::Routes,
    metrics: ServeMetrics,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
}

impl Services {
    /// Serves until told to stop; to begin with, that it is too early.
    pub(super) fn listen(
        process: &Process,
        listener: TcpListener,
        servers: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<Arc<Self>> {
        let metrics = ServeMetrics::register(&process.registry).context("metrics")?;
        let routes = server::Routes::new(Router::new().fallback(too_early));
        let stop = process.stop.clone();
        let offer: Arc<dyn Offer> = match &process.cluster_tls {
            None => {
                say_if_open(&listener);
                Arc::new(PlainText)
            }
            Some(tls) => Arc::clone(tls) as _,
        };
        let incoming = incoming(process, listener, "cluster", offer);
        servers.spawn(server::serve_grpc(incoming, routes.clone(), stop));
        Ok(Arc::new(Self {
            routes,
            metrics,
            clock: Arc::clone(&process.clock),
            stop: process.stop.clone(),
        }))
    }

    /// What stands before the services of nodes.
    fn layer(&self, members: Members) -> ServeLayer {
        ServeLayer::new(MAX_CALLS, self.metrics.clone(), Arc::clone(&self.clock)).for_members(members)
    }

    /// What a node cannot begin without: after a common end, ingesters need one another's votes before any of them is a
    /// member again.
    pub(super) fn serve_groups(&self, own: &IngesterNode) {
        // What else there will be is not there yet, rather than unknown.
        let identity = own.host.identity();
        let members = Members::new(Membership::of(identity.cluster), identity.node);
        let routes = self.of_groups(own, &self.layer(members));
        let routes = routes.into_axum_router().fallback(too_early);
        self.routes.replace(routes);
    }

    fn of_groups(&self, own: &IngesterNode, layer: &ServeLayer) -> Routes {
        let meta = Arc::new(UntilStop {
            meta: own.meta_replica.clone(),
            stop: self.stop.clone(),
        });
        Routes::default()
            .add_service(layer.layer(meta_server(meta)))
            // Raft's own messages are bounded by its groups, and must get through when all else is too much.
            .add_service(raft_server(own.raft_service()))
            .add_service(layer.layer(nodes_server(Arc::new(own.host.clone()))))
    }

    /// Everything that has a body here.
    pub(super) async fn serve_all(
        &self,
        process: &Process,
        node: &NodeHandle,
        running: &Running,
        outside: Outside,
        servers: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let members = Members::new(Membership::of(node.cluster_id), node.node_id).among(node.meta_watch.clone());
        let layer = self.layer(members);
        let mut routes = match &node.ingester {
            Some(own) => self.of_groups(own, &layer),
            None => Routes::default(),
        };
        if let Some(ingester) = &running.ingester {
            routes = routes
                .add_service(layer.layer(shard_write_server(ingester.shards())))
                .add_service(layer.layer(shard_read_server(ingester.shards())));
        }
        if let Some(scraper) = &running.scraper {
            routes = routes.add_service(layer.layer(targets_server(scraper.status())));
        }
        if let Some(blocks) = outside.blocks {
            routes = routes.add_service(layer.layer(block_read_server(blocks)));
        }
        if let Some(results) = outside.results {
            routes = routes.add_service(layer.layer(results_server(results)));
        }
        match outside.writers {
            None => routes = writers::add(routes, process, running, &self.metrics).await?,
            Some(own) => {
                let web = outside.web;
                writers::say_if_open(&own, web.as_deref());
                let routes = writers::add(Routes::default(), process, running, &self.metrics).await?;
                let routes = writers::guarded(routes.into_axum_router(), web.as_deref());
                let offer: Arc<dyn Offer> = web.map_or_else(|| Arc::new(PlainText) as _, |web| web as _);
                let incoming = incoming(process, own, "writers", offer);
                servers.spawn(server::serve_grpc(incoming, routes, process.stop.clone()));
            }
        }
        self.routes.replace(routes.into_axum_router());
        Ok(())
    }
}

/// No handshake.
struct PlainText;

#[async_trait]
impl Offer for PlainText {
    async fn tls(&self) -> Option<Arc<ServerConfig>> {
        None
    }
}

/// The connections of a listener, which waits a little where it cannot accept any.
fn incoming(
    process: &Process,
    listener: TcpListener,
    name: &'static str,
    offer: Arc<dyn Offer>,
) -> impl Stream<Item = std::io::Result<Secured>> + use<> {
    let (limits, clock) = (HandshakeLimits::default(), Arc::clone(&process.clock));
    let accepted = accept(listener, name, offer, limits, process.handshakes.clone(), clock);
    ReceiverStream::new(accepted).map(|(stream, _)| Ok(stream))
}

/// What is served besides the roles.
pub(super) struct Outside {
    /// Blocks, read for other queriers.
    pub(super) blocks: Option<Arc<dyn BlockReadService>>,
    /// Results of queries, kept for other queriers.
    pub(super) results: Option<Arc<dyn ResultsService>>,
    /// Where senders outside of the cluster call, if not where nodes do.
    pub(super) writers: Option<TcpListener>,
    /// What the web configuration asks of them, as of those who come over HTTP.
    pub(super) web: Option<Arc<Web>>,
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

    async fn propose_through(&self, command: MetaCommand, leader: u64) -> Result<MetaResponse, ServiceError> {
        self.meta.propose_through(command, leader).await
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
