//! The gRPC listener: every service that has a body here.

use super::Process;
use super::roles::Running;
use crate::http;
use gnomon_cluster::clients::{meta_server, shard_read_server, shard_write_server, targets_server};
use gnomon_cluster::node::NodeHandle;
use gnomon_cluster::raft::raft_server;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::service::Routes;

/// Serves until told to stop.
pub(super) fn serve(
    process: &Process,
    node: &NodeHandle,
    running: &Running,
    listener: TcpListener,
) -> JoinSet<anyhow::Result<()>> {
    let mut routes = Routes::default();
    if let Some(own) = &node.ingester {
        routes = routes
            .add_service(meta_server(own.meta_replica.clone()))
            .add_service(raft_server(own.raft_service()));
    }
    if let Some(ingester) = &running.ingester {
        routes = routes
            .add_service(shard_write_server(ingester.shards()))
            .add_service(shard_read_server(ingester.shards()));
    }
    if let Some(scraper) = &running.scraper {
        routes = routes.add_service(targets_server(scraper.status()));
    }
    let mut servers = JoinSet::new();
    servers.spawn(http::serve_grpc(listener, routes, process.stop.clone()));
    servers
}
