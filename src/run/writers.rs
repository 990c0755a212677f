//! What senders outside of the cluster call over gRPC: on a listener of its own where a flag names one, else on the
//! cluster's.

use super::Process;
use super::roles::Running;
use crate::http as server;
use crate::web::Web;
use anyhow::Context as _;
use axum::Router;
use axum::response::Response;
use gnomon_cluster::layers::{ServeLayer, ServeMetrics};
use gnomon_ingester::grpc::{OtlpService, WriteService};
use gnomon_proto::PUBLIC_DESCRIPTORS;
use http::StatusCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tower::{Layer, ServiceExt as _};

/// Calls and streams of one service under way at a time: each may hold a message, of 16 MiB as it is sent and as much when
/// it is decompressed.
const MAX_CALLS: usize = 64;

/// Adds the services that are enabled, and with them health and reflection; none where no ingester runs here.
pub(super) async fn add(
    mut routes: Routes,
    process: &Process,
    running: &Running,
    metrics: &ServeMetrics,
) -> anyhow::Result<Routes> {
    let Some(ingester) = &running.ingester else {
        return Ok(routes);
    };
    let layer = ServeLayer::new(MAX_CALLS, metrics.clone(), Arc::clone(&process.clock));
    let mut names = Vec::new();
    if process.settings.enable_remote_write {
        let clock = Arc::clone(&process.clock);
        let write = WriteService::new(Arc::clone(&running.intake), ingester.metrics(), clock);
        routes = routes.add_service(layer.layer(write));
        names.push(WriteService::NAME);
    }
    if let Some(otlp) = &running.otlp {
        routes = routes.add_service(layer.layer(OtlpService::new(Arc::clone(otlp))));
        names.push(OtlpService::NAME);
    }
    if names.is_empty() {
        return Ok(routes);
    }
    let (health, service) = tonic_health::server::health_reporter();
    for name in &names {
        health.set_service_status(*name, ServingStatus::Serving).await;
    }
    routes = routes.add_service(service);
    names.push("grpc.health.v1.Health");
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        names
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    // Clients of both versions are about.
    let v1 = reflection().build_v1().context("gRPC reflection")?;
    let v1alpha = reflection().build_v1alpha().context("gRPC reflection")?;
    Ok(routes.add_service(v1).add_service(v1alpha))
}

/// Behind the passwords and the rate limit of the web configuration, where there is one.
pub(super) fn guarded(routes: Router, web: Option<&Web>) -> server::Routes {
    let routes = server::Routes::new(routes);
    let Some(web) = web else { return routes };
    let guarded = web.guarded(routes).map_response(in_grpc);
    server::Routes::new(Router::new().fallback_service(guarded))
}

/// A refusal as clients of gRPC understand it; what services answer is always 200.
fn in_grpc(answer: Response) -> Response {
    let refusal = match answer.status() {
        StatusCode::UNAUTHORIZED => Status::unauthenticated("name and password (basic) are asked for"),
        StatusCode::TOO_MANY_REQUESTS => Status::unavailable("over the rate limit"),
        StatusCode::SERVICE_UNAVAILABLE => Status::unavailable("too many passwords are being checked"),
        _ => return answer,
    };
    refusal.into_http()
}

/// Whoever reaches it can write, or read the passwords of those who do.
pub(super) fn say_if_open(listener: &TcpListener, web: Option<&Web>) {
    if let Ok(address) = listener.local_addr()
        && !address.ip().is_loopback()
        && !web.is_some_and(Web::is_secure)
    {
        tracing::warn!(
            %address,
            "senders speak plain text here: set --web.config.file with TLS and passwords, or let only senders reach it"
        );
    }
}
