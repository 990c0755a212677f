//! What the process that runs a querier hands to it.

use crate::fanout::{Fanout, FetchLimits};
use crate::notifications::Notifications;
use crate::results::ResultCache;
use gnomon_model::relabel::RelabelConfig;
use gnomon_model::{Clock, Labels};
use gnomon_promql::{DEFAULT_LOOKBACK_MS, ParseOptions};
use gnomon_proto::service::TargetsService;
use object_store::ObjectStore;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// All that [`crate::api_router`] needs.
pub struct ApiState {
    pub clock: Arc<dyn Clock>,
    /// Gets the querier's own metrics and those of the process, and is what `/metrics` shows.
    pub registry: prometheus::Registry,
    pub fanout: Arc<Fanout>,
    /// Every scraper there is, by name (for messages).
    pub scrapers: Scrapers,
    pub node: Arc<dyn NodeInfo>,
    pub notifications: Arc<Notifications>,
    pub query: QueryOptions,
    /// Of range queries; none where none are kept.
    pub results: Option<ResultCache>,
    pub web: WebOptions,
    pub admin: AdminOptions,
    pub build: BuildInfo,
    /// `/api/v1/status/flags`: names without dashes.
    pub flags: BTreeMap<String, String>,
}

/// Lists the scrapers that are alive, asked at each request.
pub type Scrapers = Arc<dyn Fn() -> Vec<(String, Arc<dyn TargetsService>)> + Send + Sync>;

/// What changes while the process runs.
pub trait NodeInfo: Send + Sync + 'static {
    /// Whether requests can be served; if not, what is waited for.
    ///
    /// # Errors
    /// The reason, in words.
    fn readiness(&self) -> Result<(), String>;
    fn config(&self) -> ConfigInfo;
    fn runtime(&self) -> RuntimeInfo;
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigInfo {
    /// Secrets are redacted.
    pub yaml: String,
    /// Whether the last reload was taken.
    pub reload_successful: bool,
    /// When it was taken, milliseconds since the epoch.
    pub reloaded_at_ms: i64,
    /// For what leaves the cluster: federation, remote read. Never stored.
    pub external_labels: Labels,
    /// The default step of subqueries, milliseconds; 0 is a minute.
    pub evaluation_interval_ms: i64,
    /// The rules for targets, by scrape pool.
    pub relabelling: Arc<BTreeMap<String, Arc<[RelabelConfig]>>>,
}

impl Default for ConfigInfo {
    fn default() -> Self {
        Self {
            yaml: String::new(),
            reload_successful: false,
            reloaded_at_ms: 0,
            external_labels: Labels::empty(),
            evaluation_interval_ms: 0,
            relabelling: Arc::default(),
        }
    }
}

/// `/api/v1/status/runtimeinfo` and the page at `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Milliseconds since the epoch.
    pub started_at_ms: i64,
    pub working_directory: String,
    pub hostname: String,
    /// As Prometheus shows it: `15d`, `15d or 10GiB`.
    pub storage_retention: String,
    /// Roles that run in this process.
    pub roles: Vec<String>,
    /// Damaged files or blocks that were found since the start.
    pub corruptions: u64,
    /// Threads of the process.
    pub threads: u64,
    /// Processors that it may use.
    pub processors: u64,
}

/// `/api/v1/status/buildinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// gnomon's own version.
    pub version: String,
    pub revision: String,
    pub branch: String,
    pub build_user: String,
    pub build_date: String,
    /// Of the compiler.
    pub rust_version: String,
}

/// The version of Prometheus whose API is spoken. `buildinfo.version` is this one: Grafana and others decide by it which
/// parameters and endpoints to use. gnomon's own version is beside it as `gnomonVersion`.
pub const PROMETHEUS_API_VERSION: &str = "3.14.0";

/// The `--query.*` flags.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryOptions {
    pub max_concurrency: usize,
    pub timeout: Duration,
    /// Samples that one query may hold in memory at once.
    pub max_samples: u64,
    /// Milliseconds.
    pub lookback_ms: i64,
    pub language: ParseOptions,
    /// Prometheus' feature `promql-delayed-name-removal`.
    pub delayed_name_removal: bool,
    /// Prometheus' feature `promql-per-step-stats`.
    pub per_step_stats: bool,
    /// Whether shards evaluate parts of queries, and several threads what is not in shards.
    pub push_down: bool,
    /// Samples that one of those threads takes at a time.
    pub apart_samples: u64,
    /// Prometheus' feature `use-start-timestamps`.
    pub use_start_times: bool,
    /// `--query.partial-response`: what could not be read is a warning unless a request says otherwise; else an error.
    pub partial_response: bool,
    pub fetch: FetchLimits,
    pub memory: MemoryLimits,
    pub remote_read: RemoteReadLimits,
    pub search: SearchOptions,
}

/// The search endpoints, which are an experiment of Prometheus'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchOptions {
    /// Prometheus' feature `search-api`.
    pub enabled: bool,
    /// `--web.search.max-limit`; 0 is none.
    pub max_limit: usize,
}

/// Bytes that queries may hold in memory; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// `--query.max-total-bytes`.
    pub total_bytes: u64,
    /// `--query.max-bytes`.
    pub query_bytes: u64,
}

/// The `--storage.remote.read-*` flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteReadLimits {
    /// Of an answer that is not streamed; 0 is no limit.
    pub samples: u64,
    /// Reads at the same time; 0 is no limit.
    pub concurrent: usize,
    /// A frame is closed once its chunks have so many bytes.
    pub frame_bytes: usize,
}

impl Default for RemoteReadLimits {
    fn default() -> Self {
        Self {
            samples: 50_000_000,
            concurrent: 10,
            frame_bytes: 1 << 20,
        }
    }
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            max_concurrency: 20,
            timeout: Duration::from_secs(120),
            max_samples: 50_000_000,
            lookback_ms: DEFAULT_LOOKBACK_MS,
            language: ParseOptions::default(),
            delayed_name_removal: false,
            per_step_stats: false,
            push_down: true,
            apart_samples: 128 << 10,
            use_start_times: false,
            partial_response: true,
            fetch: FetchLimits::default(),
            memory: MemoryLimits {
                total_bytes: 0,
                query_bytes: 0,
            },
            remote_read: RemoteReadLimits::default(),
            search: SearchOptions {
                enabled: false,
                max_limit: 10_000,
            },
        }
    }
}

/// What changes and copies data by HTTP.
#[derive(Clone, Debug)]
pub struct AdminOptions {
    /// `--web.enable-admin-api`.
    pub enabled: bool,
    /// Where the cluster's blocks are.
    pub bucket: Arc<dyn ObjectStore>,
    /// Where snapshots are made: a folder of this node.
    pub snapshots: PathBuf,
}

/// The `--web.*` flags that concern reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOptions {
    /// `--web.cors.origin`, an RE2 expression matched as a whole.
    pub cors_origin: String,
    /// `--web.route-prefix`: empty or `/` for none.
    pub route_prefix: String,
    /// `--web.external-url`; empty where it is not known.
    pub external_url: String,
    /// Whether the querier role runs here. Else there is what every process has: health, metrics, its own status,
    /// the cluster's targets, shards and blocks.
    pub queries: bool,
}

impl Default for WebOptions {
    fn default() -> Self {
        Self {
            cors_origin: ".*".to_owned(),
            route_prefix: "/".to_owned(),
            external_url: String::new(),
            queries: true,
        }
    }
}
