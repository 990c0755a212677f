//! What senders outside of the cluster call over gRPC: on a listener of its own where a flag names one, else on the
//! cluster's.

use super::Process;
use super::roles::Running;
use anyhow::Context as _;
use gnomon_cluster::layers::{ServeLayer, ServeMetrics};
use gnomon_ingester::grpc::{OtlpService, WriteService};
use gnomon_proto::PUBLIC_DESCRIPTORS;
use std::sync::Arc;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tower::Layer;

/// Calls and streams of one service under way at a time.
const MAX_CALLS: usize = 1024;

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
