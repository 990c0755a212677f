//! The HTTP listener: the API where a querier runs here, remote write where an ingester does, and what every process
//! has.

use super::Process;
use super::roles::Running;
use crate::flags::Settings;
use crate::lifecycle::{self, Lifecycle};
use crate::status::build_info;
use anyhow::Context as _;
use axum::Router;
use axum::response::IntoResponse;
use axum::routing::post;
use gnomon_cluster::clients::Directory;
use gnomon_cluster::node::NodeHandle;
use gnomon_ingester::remote_write::{RemoteWrite, RemoteWriteOptions};
use gnomon_model::{NodeId, TenantId};
use gnomon_promql::ParseOptions;
use gnomon_proto::service::TargetsService;
use gnomon_querier::{ApiState, Fanout, QueryOptions, StoredBlocks, WebOptions, api_router};
use gnomon_tsdb::bucket::Bucket;
use http::StatusCode;
use std::sync::Arc;

/// Memory for open readers of blocks, bytes.
const BLOCK_READERS_BYTES: usize = 64 << 20;

/// Refuses a web configuration that asks for protection which is not given.
///
/// # Errors
/// When the file cannot be read, or asks for TLS or passwords.
pub(super) fn check_web_config(settings: &Settings) -> anyhow::Result<()> {
    let Some(file) = &settings.web_config_file else {
        return Ok(());
    };
    for warning in crate::config::check_web(file).context("--web.config.file")? {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// All routes of the HTTP listener.
pub(super) fn routes(
    process: &Process,
    node: &NodeHandle,
    bucket: &Bucket,
    running: &Running,
    lifecycle: Lifecycle,
) -> anyhow::Result<Router> {
    let prefix = process.settings.route_prefix.trim_end_matches('/');
    let api = api_router(api_state(process, node, bucket))?;
    let write = write_routes(process, running);
    let write = if prefix.is_empty() {
        write
    } else {
        Router::new().nest(prefix, write)
    };
    Ok(api.merge(write).merge(lifecycle::routes(lifecycle, prefix)))
}

fn write_routes(process: &Process, running: &Running) -> Router {
    match &running.ingester {
        Some(ingester) if process.settings.enable_remote_write => {
            let options = RemoteWriteOptions::default();
            let clock = Arc::clone(&process.clock);
            RemoteWrite::new(Arc::clone(&running.router), options, ingester.metrics(), clock).routes()
        }
        Some(_) => {
            let off = "remote write receiver needs to be enabled with --web.enable-remote-write-receiver\n";
            Router::new().route(
                "/api/v1/write",
                post(move || async move { (StatusCode::NOT_FOUND, off).into_response() }),
            )
        }
        None => Router::new(),
    }
}

fn api_state(process: &Process, node: &NodeHandle, bucket: &Bucket) -> ApiState {
    let settings = &process.settings;
    let feature = |name: &str| settings.features.contains(name);
    let fanout = Fanout {
        tenant: TenantId::anonymous(),
        shards: node.directory.shard_reads(),
        blocks: Arc::new(StoredBlocks::new(Arc::clone(bucket.store()), BLOCK_READERS_BYTES)),
        meta: Arc::clone(&node.meta),
        view: node.meta_watch.clone(),
    };
    let directory = Arc::clone(&node.directory);
    ApiState {
        clock: Arc::clone(&process.clock),
        registry: process.registry.clone(),
        fanout: Arc::new(fanout),
        scrapers: Arc::new(move || scrapers(&directory)),
        node: process.status.clone(),
        query: QueryOptions {
            max_concurrency: settings.query_max_concurrency,
            timeout: settings.query_timeout,
            max_samples: settings.query_max_samples,
            lookback_ms: settings.lookback_ms,
            language: ParseOptions {
                experimental_functions: feature("promql-experimental-functions"),
                duration_expressions: feature("promql-duration-expr"),
                extended_range_selectors: feature("promql-extended-range-selectors"),
                fill_modifiers: feature("promql-binop-fill-modifiers"),
            },
            delayed_name_removal: feature("promql-delayed-name-removal"),
            ..QueryOptions::default()
        },
        web: WebOptions {
            cors_origin: settings.cors_origin.clone(),
            route_prefix: settings.route_prefix.clone(),
        },
        build: build_info(),
        flags: process.flags.clone(),
    }
}

fn scrapers(directory: &Directory) -> Vec<(String, Arc<dyn TargetsService>)> {
    let mut found = Vec::new();
    for scraper in directory.live_nodes("scraper") {
        match directory.targets(NodeId(scraper.id)) {
            Ok(service) => found.push((format!("node {} ({})", scraper.id, scraper.address), service)),
            Err(error) => tracing::warn!(node = scraper.id, %error, "cannot ask a scraper for its targets"),
        }
    }
    found
}
