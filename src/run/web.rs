//! The HTTP listener: the API where a querier runs here, remote write where an ingester does, and what every process
//! has.

use super::Process;
use super::roles::Running;
use crate::cluster_api::{self, ClusterApi};
use crate::flags::Settings;
use crate::lifecycle::{self, Lifecycle};
use crate::status::build_info;
use crate::web::Web;
use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, options, post};
use gnomon_cluster::assign::Rules;
use gnomon_cluster::deletes::KnownDeletes;
use gnomon_cluster::layers::TraceContext;
use gnomon_cluster::node::NodeHandle;
use gnomon_ingester::otlp;
use gnomon_ingester::remote_write::{RemoteWrite, RemoteWriteOptions};
use gnomon_model::TenantId;
use gnomon_promql::ParseOptions;
use gnomon_proto::service::BlockReadService;
use gnomon_querier::{
    AdminOptions, ApiState, BlockReads, Fanout, MemoryLimits, NodeInfo as _, QueryOptions, RemoteReadLimits,
    ResultCache, SearchOptions, ServedBlocks, SpreadBlocks, StoredBlocks, TargetCounts, WebOptions, api_router,
    scrapers_of, with_cors,
};
use gnomon_tsdb::CachedStore;
use gnomon_tsdb::bucket::Bucket;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use std::sync::Arc;
use std::time::Duration;

/// Memory for open readers of blocks, bytes.
const BLOCK_READERS_BYTES: usize = 64 << 20;

/// How often certificates are looked at where nobody connects.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(30);

/// What the web configuration asks for; none where there is none.
///
/// # Errors
/// When it cannot be used.
pub(super) fn open(process: &Process) -> anyhow::Result<Option<Arc<Web>>> {
    let Some(file) = &process.settings.web_config_file else {
        return Ok(None);
    };
    let (clock, handshakes) = (Arc::clone(&process.clock), process.handshakes.clone());
    let web = Web::open(file.clone(), handshakes, &process.registry, clock).context("--web.config.file")?;
    for warning in web.warnings() {
        tracing::warn!(file = %file.display(), "{warning}");
    }
    tracing::info!(file = %file.display(), tls = web.is_secure(), "web configuration in force");
    Ok(Some(web))
}

/// Looks at the certificates now and then, also where nobody connects: what is wrong with new ones is in the log before it
/// is needed.
pub(super) fn watch_certificates(process: &Process, web: Option<&Arc<Web>>) {
    let (web, cluster, stop) = (web.cloned(), process.cluster_tls.clone(), process.stop.clone());
    if web.is_none() && cluster.is_none() {
        return;
    }
    process.tasks.spawn(async move {
        while tokio::time::timeout(CERTIFICATES_EVERY, stop.cancelled())
            .await
            .is_err()
        {
            if let Some(web) = &web {
                web.look().await;
            }
            if let Some(cluster) = &cluster {
                cluster.look().await;
            }
        }
    });
}

/// How this process reads blocks: itself, with what it has read kept in memory and on the disk.
pub(super) fn blocks(process: &Process, bucket: &Bucket) -> anyhow::Result<Arc<StoredBlocks>> {
    let (settings, registry) = (&process.settings, &process.registry);
    let clock = Arc::clone(&process.clock);
    // A folder of this machine is as near as a copy of it would be.
    let is_far = !bucket.url().starts_with("file:");
    if settings.roles.querier && is_far && settings.block_cache_bytes > 0 {
        let default = || settings.data_dir.join("block-cache");
        let folder = settings.block_cache_dir.clone().unwrap_or_else(default);
        let store = Arc::clone(bucket.store());
        match CachedStore::open(store, &folder, settings.block_cache_bytes, registry) {
            Ok(disk) => {
                return Ok(Arc::new(StoredBlocks::on_disk(
                    Arc::new(disk),
                    BLOCK_READERS_BYTES,
                    clock,
                    registry,
                )?));
            }
            Err(error) => {
                tracing::warn!(%error, "no disk cache of blocks: they are read from the object store each time")
            }
        }
    }
    let store = Arc::clone(bucket.store());
    Ok(Arc::new(StoredBlocks::new(
        store,
        BLOCK_READERS_BYTES,
        clock,
        registry,
    )?))
}

/// Results of range queries, shared by the queriers.
pub(super) fn results(process: &Process, node: &NodeHandle) -> Option<ResultCache> {
    let settings = &process.settings;
    let build = crate::status::build_info();
    let release = format!("{} {}", build.version, build.revision);
    let cache = ResultCache::new(settings.result_cache_bytes, &release).filter(|_| settings.roles.querier)?;
    Some(cache.shared(Arc::clone(&node.directory) as _, Arc::clone(&process.clock)))
}

/// What a querier reads of blocks for others; it may hold a quarter of what queries may.
pub(super) fn served_blocks(process: &Process, blocks: &Arc<StoredBlocks>) -> Option<Arc<dyn BlockReadService>> {
    let memory = query_memory(&process.settings).total_bytes / 4;
    let serves = process.settings.roles.querier;
    serves.then(|| Arc::new(ServedBlocks::new(Arc::clone(blocks) as _, memory)) as _)
}

/// Counts the targets of the whole cluster, for this node's metrics, until the process stops.
pub(super) fn count_targets(process: &Process, node: &NodeHandle) -> Result<(), prometheus::Error> {
    let counts = TargetCounts::register(&process.registry)?;
    let scrapers = scrapers_of(Arc::clone(&node.directory));
    process.tasks.spawn(counts.follow(scrapers, process.stop.clone()));
    Ok(())
}

/// All routes of the HTTP listener.
pub(super) fn routes(
    process: &Process,
    node: &NodeHandle,
    bucket: &Bucket,
    running: &Running,
    blocks: &Arc<StoredBlocks>,
    results: Option<ResultCache>,
    lifecycle: Lifecycle,
) -> anyhow::Result<Router> {
    let prefix = process.settings.route_prefix.trim_end_matches('/');
    let api = api_router(api_state(process, node, bucket, blocks, results)?)?;
    let write = with_cors(write_routes(process, running), &process.settings.cors_origin)?;
    let write = if prefix.is_empty() {
        write
    } else {
        Router::new().nest(prefix, write)
    };
    let cluster = cluster_api::routes(cluster(process, node), prefix);
    let all = api
        .merge(write)
        .merge(cluster)
        .merge(lifecycle::routes(lifecycle, prefix));
    Ok(all.layer(from_fn(traced)))
}

fn cluster(process: &Process, node: &NodeHandle) -> ClusterApi {
    let replace_after_ms = i64::try_from(process.settings.replace_after.as_millis()).unwrap_or(i64::MAX);
    ClusterApi {
        node: node.node_id,
        directory: Arc::clone(&node.directory),
        meta: Arc::clone(&node.meta),
        states: node.meta_watch.clone(),
        clock: Arc::clone(&process.clock),
        rules: Rules::after(replace_after_ms),
        may_change: process.settings.enable_admin_api,
        may_drain: process.settings.enable_lifecycle,
    }
}

fn write_routes(process: &Process, running: &Running) -> Router {
    let Some(ingester) = &running.ingester else {
        let why = "samples are taken by a process with --target=ingester\n";
        return no_write("/api/v1/write", why).merge(no_write(otlp::PATH, why));
    };
    let write = if process.settings.enable_remote_write {
        let clock = Arc::clone(&process.clock);
        let options = RemoteWriteOptions::default();
        RemoteWrite::new(Arc::clone(&running.intake), options, ingester.metrics(), clock).routes()
    } else {
        let why = "remote write receiver needs to be enabled with --web.enable-remote-write-receiver\n";
        no_write("/api/v1/write", why)
    };
    let otlp = running.otlp.as_ref().map_or_else(
        || {
            let why = "otlp write receiver needs to be enabled with --web.enable-otlp-receiver\n";
            no_write(otlp::PATH, why)
        },
        |otlp| otlp.routes().route(otlp::PATH, options(preflight)),
    );
    write.merge(otlp)
}

fn no_write(path: &'static str, why: &'static str) -> Router {
    let refuse = post(move || async move { (StatusCode::NOT_FOUND, why).into_response() });
    Router::new().route(path, refuse.options(preflight))
}

/// What a browser asks before it posts.
async fn preflight() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// What is served until the node has begun: that it lives, what it waits for, and its metrics.
pub(super) fn early_routes(process: &Process, lifecycle: Lifecycle) -> Router {
    let prefix = process.settings.route_prefix.trim_end_matches('/');
    let registry = process.registry.clone();
    let status = Arc::clone(&process.status);
    let waiting = move || {
        let why = status
            .readiness()
            .err()
            .unwrap_or_else(|| "the node is starting".into());
        async move { (StatusCode::SERVICE_UNAVAILABLE, format!("Service Unavailable: {why}\n")) }
    };
    Router::new()
        .route(&format!("{prefix}/-/healthy"), get(|| async { "gnomon is Healthy.\n" }))
        .route(
            &format!("{prefix}/metrics"),
            get(move || async move { metrics(&registry) }),
        )
        .merge(lifecycle::routes(lifecycle, prefix))
        .fallback(waiting)
}

fn metrics(registry: &prometheus::Registry) -> Response {
    match prometheus::TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics cannot be shown: {error}\n"),
        )
            .into_response(),
    }
}

/// Lets the work for a request be known as such on every node that does some of it.
async fn traced(request: Request, next: Next) -> Response {
    let context = TraceContext::of(request.headers()).map_or_else(TraceContext::begin, TraceContext::child);
    context.scope(next.run(request)).await
}

/// What queries may hold where neither a flag nor the system says how much memory there is.
const DEFAULT_QUERY_BYTES: u64 = 1 << 30;

pub(super) fn query_memory(settings: &Settings) -> MemoryLimits {
    // The C library keeps some of what threads have freed: at the worst the process was seen to hold three times as much
    // for queries as they may.
    let derived = || crate::memory::allowed_bytes().map_or(DEFAULT_QUERY_BYTES, |bytes| bytes / 8);
    let total_bytes = settings.query_max_total_bytes.unwrap_or_else(derived);
    MemoryLimits {
        total_bytes,
        query_bytes: settings.query_max_bytes.unwrap_or(total_bytes / 2),
    }
}

fn api_state(
    process: &Process,
    node: &NodeHandle,
    bucket: &Bucket,
    blocks: &Arc<StoredBlocks>,
    results: Option<ResultCache>,
) -> Result<ApiState, prometheus::Error> {
    let settings = &process.settings;
    let feature = |name: &str| settings.features.contains(name);
    let clock = Arc::clone(&process.clock);
    let (here, queriers) = (
        Arc::clone(blocks) as Arc<dyn BlockReads>,
        Arc::clone(&node.directory) as _,
    );
    let blocks = SpreadBlocks::new(
        here,
        queriers,
        settings.query_small_block_bytes,
        clock,
        &process.registry,
    )?;
    let fanout = Fanout {
        tenant: TenantId::anonymous(),
        shards: node.directory.shard_reads(),
        blocks: Arc::new(blocks),
        meta: Arc::clone(&node.meta),
        view: node.meta_watch.clone(),
        deletes: KnownDeletes::default(),
    };
    let directory = Arc::clone(&node.directory);
    Ok(ApiState {
        clock: Arc::clone(&process.clock),
        registry: process.registry.clone(),
        fanout: Arc::new(fanout),
        scrapers: scrapers_of(directory),
        node: process.status.clone(),
        notifications: process.status.notifications(),
        query: QueryOptions {
            max_concurrency: settings.query_max_concurrency,
            timeout: settings.query_timeout,
            max_samples: settings.query_max_samples,
            lookback_ms: settings.lookback_ms,
            language: ParseOptions {
                experimental_functions: feature("promql-experimental-functions"),
                extended_range_selectors: feature("promql-extended-range-selectors"),
                fill_modifiers: feature("promql-binop-fill-modifiers"),
            },
            delayed_name_removal: feature("promql-delayed-name-removal"),
            use_start_times: feature("use-start-timestamps"),
            per_step_stats: feature("promql-per-step-stats"),
            partial_response: settings.query_partial_response,
            memory: query_memory(settings),
            remote_read: RemoteReadLimits {
                samples: settings.read_sample_limit,
                concurrent: settings.read_concurrent_limit,
                frame_bytes: settings.read_max_bytes_in_frame,
            },
            search: SearchOptions {
                enabled: feature("search-api"),
                max_limit: settings.search_max_limit,
            },
            ..QueryOptions::default()
        },
        results,
        web: WebOptions {
            cors_origin: settings.cors_origin.clone(),
            route_prefix: settings.route_prefix.clone(),
            external_url: settings.external_url.clone(),
            queries: settings.roles.querier,
        },
        admin: AdminOptions {
            enabled: settings.enable_admin_api,
            bucket: Arc::clone(bucket.store()),
            snapshots: settings.data_dir.join("snapshots"),
        },
        build: build_info(),
        flags: process.flags.clone(),
    })
}
