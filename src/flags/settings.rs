//! Values of flags, read into their types.

use super::block::{Block, Export, Import};
use super::bucket::BucketCheck;
use super::cluster::{Cluster, Recover};
use super::cluster_tls;
use super::external_url::{external_url, path_of};
use super::ha::ha_options;
use super::number::whole_number;
use crate::config::StorageConfig;
use clap::{Arg, ArgAction, ArgMatches};
use gnomon_cluster::meta::MAX_LEASE_MS;
use gnomon_cluster::retention::Retention;
use gnomon_cluster::tls::TlsFiles;
use gnomon_ingester::{HaOptions, SeriesLimits};
use gnomon_model::FeatureLevel;
use gnomon_model::duration::parse_duration_ms;
use gnomon_model::ids::{BASE_FEATURE_LEVEL, CURRENT_FEATURE_LEVEL};
use gnomon_model::size::parse_size_bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Of `--ingest.shards`: each is a Raft group, with files' worth of state in every node.
const MOST_SHARDS: u32 = 1024;

/// What to do.
#[derive(Debug)]
pub enum Command {
    Run(Box<Settings>),
    CheckConfig(CheckConfig),
    CheckMetrics(CheckMetrics),
    CheckWebConfig(CheckWebConfig),
    Query(Box<Query>),
    Block(Block),
    BucketCheck(BucketCheck),
    Cluster(Cluster),
    Recover(Recover),
    Import(Import),
    Export(Box<Export>),
}

/// `gnomon query EXPR`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `http://host:port`, with the route prefix if there is one.
    pub server: String,
    pub expr: String,
    /// Seconds since the epoch, or RFC 3339; as the HTTP API takes them.
    pub time: Option<String>,
    pub start: Option<String>,
    pub end: Option<String>,
    pub step: Option<String>,
    /// Show the plan.
    pub explain: bool,
    /// Show the plan, and what each part took.
    pub analyze: bool,
    /// The server's answer as it is.
    pub json: bool,
    /// How long the answer is waited for.
    pub timeout: Duration,
}

impl Query {
    #[must_use]
    pub const fn is_range(&self) -> bool {
        self.start.is_some()
    }
}

/// `gnomon check config [--strict] [--syntax-only] FILE…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckConfig {
    pub files: Vec<PathBuf>,
    /// Sections that are not supported yet are errors.
    pub strict: bool,
    /// Files that these files name are not looked at.
    pub syntax_only: bool,
}

/// `gnomon check metrics [--strict] [FILE…]`; standard input without a file or for `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckMetrics {
    pub files: Vec<PathBuf>,
    /// OpenMetrics 1.0 by the letter.
    pub strict: bool,
}

/// `gnomon check web-config FILE…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckWebConfig {
    pub files: Vec<PathBuf>,
}

/// Roles that run in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub scraper: bool,
    pub ingester: bool,
    pub querier: bool,
    pub compactor: bool,
}

impl Roles {
    pub const ALL: Self = Self {
        scraper: true,
        ingester: true,
        querier: true,
        compactor: true,
    };

    /// Names, in a fixed order.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        [
            ("scraper", self.scraper),
            ("ingester", self.ingester),
            ("querier", self.querier),
            ("compactor", self.compactor),
        ]
        .into_iter()
        .filter(|(_, runs)| *runs)
        .map(|(name, _)| name.to_owned())
        .collect()
    }

    fn read(text: &str) -> Result<Self, String> {
        let mut roles = Self::default();
        for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match name {
                "all" => roles = Self::ALL,
                "scraper" => roles.scraper = true,
                "ingester" => roles.ingester = true,
                "querier" => roles.querier = true,
                "compactor" => roles.compactor = true,
                other => {
                    return Err(format!(
                        "--target: {other:?} is no role: all, scraper, ingester, querier and compactor are"
                    ));
                }
            }
        }
        if roles == Self::default() {
            Ok(Self::ALL)
        } else {
            Ok(roles)
        }
    }
}

/// All flags of a running node.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub config_file: PathBuf,
    pub config_strict: bool,
    /// How often the configuration is looked at for changes; none: it is reloaded when that is asked for.
    pub auto_reload: Option<Duration>,
    pub roles: Roles,
    pub data_dir: PathBuf,
    /// Milliseconds, where a flag gives it; what is in force is [`Settings::retention`].
    pub retention_ms: Option<i64>,
    pub retention_bytes: Option<u64>,
    pub object_store: Option<String>,
    pub series_limits: SeriesLimits,
    /// A window that is over is sealed once nothing came for so long.
    pub seal_quiet: Duration,
    pub compactor_interval: Duration,
    pub compactor_grace: Duration,
    pub compactor_lease: Duration,
    /// A shard's state is flushed after so many bytes of log.
    pub flush_bytes: u64,
    pub listen_addresses: Vec<String>,
    pub web_config_file: Option<PathBuf>,
    /// Of idle connections, and of the heads of requests; none is no limit.
    pub read_timeout: Option<Duration>,
    /// Of all HTTP listeners together.
    pub max_connections: usize,
    /// A path alone where only that is known; empty is unset.
    pub external_url: String,
    pub route_prefix: String,
    pub enable_lifecycle: bool,
    pub enable_admin_api: bool,
    pub enable_remote_write: bool,
    pub enable_otlp: bool,
    /// OTLP's points of delta temporality are taken as they are.
    pub otlp_deltas: bool,
    /// For gRPC of senders outside of the cluster; none: the cluster's.
    pub writers_listen_address: Option<String>,
    /// None where HA pairs are not looked for.
    pub ha: Option<HaOptions>,
    pub cors_origin: String,
    /// For scrapes that wait for their shards; 0 is none.
    pub scrape_buffer_memory: u64,
    pub scrape_buffer_disk: u64,
    pub lookback_ms: i64,
    pub query_timeout: Duration,
    pub query_max_concurrency: usize,
    pub query_max_samples: u64,
    /// What one query may hold; none is half of the next.
    pub query_max_bytes: Option<u64>,
    /// What all queries may hold; none is an eighth of the memory that the process may use.
    pub query_max_total_bytes: Option<u64>,
    /// What could not be read is a warning; else an error.
    pub query_partial_response: bool,
    /// None: below the data folder.
    pub block_cache_dir: Option<PathBuf>,
    /// 0 is none.
    pub block_cache_bytes: u64,
    /// Blocks up to this are read by whoever needs them; 0 is none.
    pub query_small_block_bytes: u64,
    /// 0 is none.
    pub result_cache_bytes: u64,
    /// 0 is no limit.
    pub read_sample_limit: u64,
    /// 0 is no limit.
    pub read_concurrent_limit: usize,
    pub read_max_bytes_in_frame: usize,
    /// 0 is no limit.
    pub search_max_limit: usize,
    pub max_notifications_subscribers: usize,
    pub features: BTreeSet<String>,
    /// Features that were asked for and mean nothing here.
    pub ignored_features: Vec<String>,
    pub grpc_listen_address: String,
    pub advertise_address: Option<String>,
    pub peers: Vec<String>,
    /// None: nodes speak plain text.
    pub cluster_tls: Option<TlsFiles>,
    pub zone: String,
    /// None: as many as there are processors.
    pub shards: Option<u32>,
    /// None: three where so many ingesters are expected, else one.
    pub replicas: Option<u32>,
    /// Ingesters to wait for at the very first start.
    pub expect: u32,
    /// After what silence a node's replicas are made anew elsewhere.
    pub replace_after: Duration,
    /// How long a node that nothing is needed of is remembered.
    pub forget_after: Duration,
    /// How long a node that is told to stop by SIGTERM gives its replicas away first; none: it stops.
    pub drain_on_stop: Option<Duration>,
    /// How long a shard's preferred leader has to have been there before it leads.
    pub prefer_after: Duration,
    /// What this node understands.
    pub feature_level: FeatureLevel,
    pub log_level: String,
    pub log_json: bool,
}

/// 15 days, as in Prometheus, where neither time nor size is set.
const DEFAULT_RETENTION_MS: i64 = 15 * 86_400_000;

/// Features of Prometheus that are here.
const FEATURES: &[&str] = &[
    "promql-experimental-functions",
    "promql-extended-range-selectors",
    "promql-binop-fill-modifiers",
    "promql-delayed-name-removal",
    "use-start-timestamps",
    CREATED_ZERO,
    "search-api",
    "promql-per-step-stats",
    AUTO_RELOAD,
    // Always on.
    "promql-duration-expr",
    "exemplar-storage",
    REMOTE_WRITE,
    OTLP_WRITE,
    OTLP_DELTAS,
];

/// Why a feature that was asked for changes nothing.
pub(super) fn why_ignored(feature: &str) -> &'static str {
    match feature {
        // As in Prometheus from 3.9 on.
        "native-histograms" => "set scrape_native_histograms in the configuration file",
        "extra-scrape-metrics" => "set extra_scrape_metrics in the configuration file",
        _ => "it has no meaning here",
    }
}

/// What `--web.enable-remote-write-receiver` was before it was a flag.
const REMOTE_WRITE: &str = "remote-write-receiver";
/// The same of `--web.enable-otlp-receiver`.
const OTLP_WRITE: &str = "otlp-write-receiver";
/// The configuration is read again every so often, and reloaded where it is another.
const AUTO_RELOAD: &str = "auto-reload-config";
/// As in Prometheus.
const SHORTEST_AUTO_RELOAD: Duration = Duration::from_secs(1);
/// A sample of 0 where a scraped series says that it began.
pub(crate) const CREATED_ZERO: &str = "created-timestamp-zero-ingestion";
const OTLP_DELTAS: &str = "otlp-native-delta-ingestion";

pub(super) struct Values<'a>(&'a BTreeMap<String, String>);

impl Values<'_> {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn set(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|t| !t.is_empty()).map(str::to_owned)
    }

    pub(super) fn switch(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    fn duration_ms(&self, name: &str) -> Result<Option<i64>, String> {
        let parse = |t: String| parse_duration_ms(&t).map_err(|e| format!("--{name}: {e}"));
        self.set(name).map(parse).transpose()
    }

    /// Of a flag that has a default; no time at all is an error.
    pub(super) fn duration(&self, name: &str) -> Result<Duration, String> {
        let ms = self.duration_ms(name)?.and_then(|ms| u64::try_from(ms).ok());
        let ms = ms.filter(|ms| *ms > 0);
        ms.map(Duration::from_millis)
            .ok_or_else(|| format!("--{name}: it must be longer than nothing"))
    }

    /// What the metadata group gives a lease for.
    fn lease(&self, name: &str) -> Result<Duration, String> {
        let lease = self.duration(name)?;
        let most = Duration::from_millis(MAX_LEASE_MS.unsigned_abs());
        if !(Duration::from_secs(5)..=most).contains(&lease) {
            return Err(format!("--{name}: from 5s to {}s are possible", most.as_secs()));
        }
        Ok(lease)
    }

    /// None for one of 0.
    fn timeout(&self, name: &str) -> Result<Option<Duration>, String> {
        let ms = self.duration_ms(name)?.and_then(|ms| u64::try_from(ms).ok());
        Ok(ms.filter(|ms| *ms > 0).map(Duration::from_millis))
    }

    pub(super) fn number<T>(&self, name: &str, least: T) -> Result<Option<T>, String>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.set(name) else { return Ok(None) };
        let number = whole_number::<T>(&text).filter(|n| *n >= least);
        number
            .map(Some)
            .ok_or_else(|| format!("--{name}: {text:?} is not a whole number of at least {least}"))
    }

    /// Nothing too.
    pub(super) fn size_or_none(&self, name: &str) -> Result<u64, String> {
        let text = self.set(name).unwrap_or_default();
        parse_size_bytes(&text).map_err(|error| format!("--{name}: {error}"))
    }

    /// More than nothing.
    fn size(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.set(name) else { return Ok(None) };
        match parse_size_bytes(&text) {
            Ok(0) => Err(format!("--{name}: it must be more than nothing")),
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(format!("--{name}: {error}")),
        }
    }

    /// It cannot be changed after the first start, so that a slip must not found a cluster that cannot work.
    fn shards(&self) -> Result<Option<u32>, String> {
        match self.number("ingest.shards", 1)? {
            Some(shards) if shards > MOST_SHARDS => Err(format!(
                "--ingest.shards: {shards} is more than {MOST_SHARDS}; about one for each processor is right"
            )),
            shards => Ok(shards),
        }
    }

    fn feature_level(&self) -> Result<FeatureLevel, String> {
        let Some(text) = self.set("cluster.feature-level") else {
            return Ok(CURRENT_FEATURE_LEVEL);
        };
        let level = text.parse::<u32>().ok().map(FeatureLevel);
        level
            .filter(|level| (BASE_FEATURE_LEVEL..=CURRENT_FEATURE_LEVEL).contains(level))
            .ok_or_else(|| {
                format!(
                    "--cluster.feature-level: this build understands {BASE_FEATURE_LEVEL} to {CURRENT_FEATURE_LEVEL}, not {text:?}"
                )
            })
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.text(name)
            .split(',')
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn one_of(&self, name: &str, accepted: &[&str]) -> Result<String, String> {
        let text = self.text(name);
        if accepted.contains(&text) {
            return Ok(text.to_owned());
        }
        Err(format!("--{name}: {text:?} is not one of {}", accepted.join(", ")))
    }
}

impl Settings {
    /// # Errors
    /// The flag at fault and what it takes.
    pub fn read(values: &BTreeMap<String, String>) -> Result<Self, String> {
        let v = Values(values);
        let (retention_ms, retention_bytes) = retention(&v)?;
        let (features, ignored_features) = features(&v)?;
        let auto_reload = v.duration("config.auto-reload-interval")?.max(SHORTEST_AUTO_RELOAD);
        let peers = v.list("cluster.peers");
        let external_url = external_url(v.text("web.external-url"))?;
        for address in v.list("web.listen-address") {
            check_address("web.listen-address", &address)?;
        }
        for flag in [
            "cluster.listen-address",
            "cluster.advertise-address",
            "cluster.peers",
            "ingest.grpc-listen-address",
        ] {
            for address in v.list(flag) {
                check_address(flag, &address)?;
            }
        }
        let roles = Roles::read(v.text("target"))?;
        let (replicas, expect) = several(&v, &peers)?;
        check_shared_store(&v, roles, &peers)?;
        let default_grpc = if peers.is_empty() {
            "127.0.0.1:9095"
        } else {
            "0.0.0.0:9095"
        };
        Ok(Self {
            config_file: v.text("config.file").into(),
            config_strict: v.switch("config.strict"),
            auto_reload: features.contains(AUTO_RELOAD).then_some(auto_reload),
            roles,
            data_dir: v.text("storage.tsdb.path").into(),
            retention_ms,
            retention_bytes,
            object_store: v.set("storage.object-store"),
            series_limits: SeriesLimits {
                of_node: v.number("ingest.max-series", 0)?.unwrap_or(0),
                of_shard: v.number("ingest.max-series-per-shard", 0)?.unwrap_or(0),
                of_metric: v.number("ingest.max-series-per-metric", 0)?.unwrap_or(0),
            },
            seal_quiet: v.duration("ingest.seal-quiet")?,
            compactor_interval: v.duration("compactor.interval")?,
            compactor_grace: v.duration("compactor.grace")?,
            compactor_lease: v.lease("compactor.lease")?,
            flush_bytes: parse_size_bytes(v.text("ingest.flush-bytes"))
                .map_err(|e| format!("--ingest.flush-bytes: {e}"))?,
            listen_addresses: v.list("web.listen-address"),
            web_config_file: v.set("web.config.file").map(PathBuf::from),
            route_prefix: v.set("web.route-prefix").map_or_else(
                || path_of(&external_url),
                |prefix| format!("/{}", prefix.trim_matches('/')),
            ),
            external_url,
            read_timeout: v.timeout("web.read-timeout")?,
            max_connections: v.number("web.max-connections", 1)?.unwrap_or(512),
            enable_lifecycle: v.switch("web.enable-lifecycle"),
            enable_admin_api: v.switch("web.enable-admin-api"),
            enable_remote_write: v.switch("web.enable-remote-write-receiver") || features.contains(REMOTE_WRITE),
            enable_otlp: v.switch("web.enable-otlp-receiver") || features.contains(OTLP_WRITE),
            otlp_deltas: features.contains(OTLP_DELTAS),
            writers_listen_address: v.set("ingest.grpc-listen-address"),
            ha: ha_options(&v)?,
            cors_origin: v.text("web.cors.origin").to_owned(),
            scrape_buffer_memory: parse_size_bytes(v.text("scrape.buffer-memory"))
                .map_err(|e| format!("--scrape.buffer-memory: {e}"))?,
            scrape_buffer_disk: parse_size_bytes(v.text("scrape.buffer-disk"))
                .map_err(|e| format!("--scrape.buffer-disk: {e}"))?,
            lookback_ms: v.duration_ms("query.lookback-delta")?.unwrap_or(300_000),
            query_timeout: Duration::from_millis(
                v.duration_ms("query.timeout")?
                    .and_then(|ms| u64::try_from(ms).ok())
                    .unwrap_or(120_000),
            ),
            query_max_concurrency: v.number("query.max-concurrency", 1)?.unwrap_or(20),
            query_max_samples: v.number("query.max-samples", 1)?.unwrap_or(50_000_000),
            query_max_bytes: v.size("query.max-bytes")?,
            query_max_total_bytes: v.size("query.max-total-bytes")?,
            query_partial_response: v.switch("query.partial-response"),
            block_cache_dir: v.set("query.block-cache-dir").map(PathBuf::from),
            block_cache_bytes: parse_size_bytes(v.text("query.block-cache-size"))
                .map_err(|e| format!("--query.block-cache-size: {e}"))?,
            query_small_block_bytes: parse_size_bytes(v.text("query.small-block-size"))
                .map_err(|e| format!("--query.small-block-size: {e}"))?,
            result_cache_bytes: parse_size_bytes(v.text("query.result-cache-size"))
                .map_err(|e| format!("--query.result-cache-size: {e}"))?,
            read_sample_limit: v.number("storage.remote.read-sample-limit", 0)?.unwrap_or(50_000_000),
            read_concurrent_limit: v.number("storage.remote.read-concurrent-limit", 0)?.unwrap_or(10),
            read_max_bytes_in_frame: v
                .number("storage.remote.read-max-bytes-in-frame", 1)?
                .unwrap_or(1 << 20),
            search_max_limit: v.number("web.search.max-limit", 0)?.unwrap_or(10_000),
            max_notifications_subscribers: v.number("web.max-notifications-subscribers", 0)?.unwrap_or(16),
            features,
            ignored_features,
            grpc_listen_address: v
                .set("cluster.listen-address")
                .unwrap_or_else(|| default_grpc.to_owned()),
            advertise_address: v.set("cluster.advertise-address"),
            peers,
            cluster_tls: cluster_tls::all_or_none(|name| v.set(name))?,
            zone: v.text("cluster.zone").to_owned(),
            shards: v.shards()?,
            replicas,
            expect,
            replace_after: v.duration("cluster.replace-after")?,
            forget_after: v.duration("cluster.forget-after")?,
            drain_on_stop: v.timeout("cluster.drain-on-stop")?,
            prefer_after: v.duration("cluster.prefer-after")?,
            feature_level: v.feature_level()?,
            log_level: v.one_of("log.level", &crate::logging::LEVELS)?,
            log_json: v.one_of("log.format", &["logfmt", "json"])? == "json",
        })
    }

    /// What is kept: what the file says goes before the flags, as in Prometheus.
    #[must_use]
    pub fn retention(&self, storage: &StorageConfig) -> Retention {
        let file_ms = storage
            .retention_time
            .and_then(|time| i64::try_from(time.as_millis()).ok());
        let size_bytes = storage.retention_size_bytes.or(self.retention_bytes);
        Retention {
            time_ms: file_ms.or(self.retention_ms).or(default_retention(size_bytes)),
            size_bytes,
        }
    }
}

/// As Prometheus shows it: `15d`, `10GiB`, `15d or 10GiB`.
#[must_use]
pub fn retention_text(retention: Retention) -> String {
    let time = retention.time_ms.map(gnomon_model::duration::format_duration_ms);
    let size = retention.size_bytes.map(gnomon_model::size::format_size_bytes);
    time.into_iter().chain(size).collect::<Vec<_>>().join(" or ")
}

/// `host:port`, `:port` or `[v6]:port`; whether the host exists is for the listener to find out.
fn check_address(flag: &str, address: &str) -> Result<(), String> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(()),
        None => Err(format!("--{flag}: {address:?} is not HOST:PORT")),
    }
}

/// Nodes of one cluster read each other's blocks: a folder of one of them is not where the others look. A scraper has
/// nothing to do with blocks.
fn check_shared_store(v: &Values<'_>, roles: Roles, peers: &[String]) -> Result<(), String> {
    let uses_blocks = roles.ingester || roles.querier || roles.compactor;
    let own = [v.text("cluster.advertise-address"), v.text("cluster.listen-address")];
    let is_alone = peers.iter().all(|peer| own.contains(&peer.as_str()));
    if is_alone || !uses_blocks || v.set("storage.object-store").is_some() {
        return Ok(());
    }
    Err(format!(
        "--cluster.peers={}: a cluster needs an object store that all of its nodes reach, and --storage.object-store names \
         none: give every node the same s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX (or file:///FOLDER \
         where all of them have mounted the same folder)",
        peers.join(",")
    ))
}

/// How many replicas, and how many nodes to begin with, fit together.
fn several(v: &Values<'_>, peers: &[String]) -> Result<(Option<u32>, u32), String> {
    let expect = v.number("cluster.expect", 1)?.unwrap_or(1);
    let replicas = match v.set("ingest.replicas") {
        None => None,
        Some(_) => v.one_of("ingest.replicas", &["1", "3", "5"])?.parse::<u32>().ok(),
    };
    if peers.is_empty() && (expect > 1 || replicas.is_some_and(|n| n > 1)) {
        let flag = if expect > 1 {
            "cluster.expect"
        } else {
            "ingest.replicas"
        };
        return Err(format!(
            "--{flag}={}: several ingesters have to find one another: name them in --cluster.peers",
            v.text(flag)
        ));
    }
    if expect > 1 && replicas.is_some_and(|n| n > expect) {
        return Err(format!(
            "--ingest.replicas={}: --cluster.expect={expect} ingesters cannot have so many; expect as many at least",
            v.text("ingest.replicas")
        ));
    }
    Ok((replicas, expect))
}

fn retention(v: &Values<'_>) -> Result<(Option<i64>, Option<u64>), String> {
    let deprecated = v.duration_ms("storage.tsdb.retention")?;
    let time = v
        .duration_ms("storage.tsdb.retention.time")?
        .or(deprecated)
        .filter(|ms| *ms > 0);
    let size = match v.set("storage.tsdb.retention.size") {
        Some(text) => Some(parse_size_bytes(&text).map_err(|e| format!("--storage.tsdb.retention.size: {e}"))?),
        None => None,
    };
    Ok((time, size.filter(|bytes| *bytes > 0)))
}

pub(super) fn default_retention(size: Option<u64>) -> Option<i64> {
    size.is_none().then_some(DEFAULT_RETENTION_MS)
}

fn features(v: &Values<'_>) -> Result<(BTreeSet<String>, Vec<String>), String> {
    let (mut known, mut ignored) = (BTreeSet::new(), Vec::new());
    for name in v.list("enable-feature") {
        if name == "agent" {
            return Err(
                "--enable-feature=agent is not supported: run gnomon as it is; it has no mode without storage".into(),
            );
        }
        if name == "otlp-deltatocumulative" {
            return Err(
                "--enable-feature=otlp-deltatocumulative is not supported: let senders export cumulative values, or put \
                 the OpenTelemetry collector's deltatocumulative processor between"
                    .into(),
            );
        }
        if FEATURES.contains(&name.as_str()) {
            known.insert(name);
        } else {
            ignored.push(name);
        }
    }
    Ok((known, ignored))
}

/// The `check` subcommand.
pub(super) fn check() -> clap::Command {
    let files = || {
        Arg::new("files")
            .value_name("FILE")
            .action(ArgAction::Append)
            .value_parser(clap::value_parser!(PathBuf))
    };
    let strict = |help: &'static str| Arg::new("strict").long("strict").action(ArgAction::SetTrue).help(help);
    clap::Command::new("check")
        .about("Say what is wrong with a file, without starting anything")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            clap::Command::new("config")
                .about("Check configuration files, and the certificates, keys, secrets and target files that they name")
                .arg(files().required(true))
                .arg(strict("Sections that are not supported yet are errors"))
                .arg(
                    Arg::new("syntax-only")
                        .long("syntax-only")
                        .action(ArgAction::SetTrue)
                        .help("Do not look at the files that they name"),
                ),
        )
        .subcommand(
            clap::Command::new("web-config")
                .about("Check files for --web.config.file, and the certificates that they name")
                .arg(files().required(true)),
        )
        .subcommand(
            clap::Command::new("metrics")
                .about("Check an exposition (a file, or standard input)")
                .arg(files())
                .arg(strict("As OpenMetrics 1.0 text, by the letter")),
        )
}

pub(super) fn check_command(check: &ArgMatches) -> Command {
    let files = |m: &ArgMatches| m.get_many::<PathBuf>("files").into_iter().flatten().cloned().collect();
    match check.subcommand() {
        Some(("config", m)) => Command::CheckConfig(CheckConfig {
            files: files(m),
            strict: m.get_flag("strict"),
            syntax_only: m.get_flag("syntax-only"),
        }),
        Some(("web-config", m)) => Command::CheckWebConfig(CheckWebConfig { files: files(m) }),
        Some((_, m)) => Command::CheckMetrics(CheckMetrics {
            files: files(m),
            strict: m.get_flag("strict"),
        }),
        None => Command::CheckMetrics(CheckMetrics {
            files: Vec::new(),
            strict: false,
        }),
    }
}

/// `gnomon query`, as clap knows it.
pub(super) fn query() -> clap::Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    clap::Command::new("query")
        .about("Evaluate an expression on a server, and show the result, or how it comes about.")
        .arg(
            Arg::new("expr")
                .value_name("EXPR")
                .required(true)
                .help("The expression."),
        )
        .arg(text("server", "URL", "The server to ask.").default_value("http://127.0.0.1:9090"))
        .arg(
            text(
                "time",
                "TIME",
                "When to evaluate: seconds since the epoch, or RFC 3339. Now, if not given.",
            )
            .conflicts_with("start"),
        )
        .arg(
            text("start", "TIME", "First step of a range.")
                .requires("end")
                .requires("step"),
        )
        .arg(text("end", "TIME", "Last step of a range.").requires("start"))
        .arg(text("step", "DURATION", "Between steps of a range.").requires("start"))
        .arg(flag("explain", "Show the plan."))
        .arg(flag(
            "analyze",
            "Show the plan with what each part took: time, series, samples, bytes, pages.",
        ))
        .arg(flag("json", "Print the server's answer as it is."))
        .arg(
            text(
                "timeout",
                "DURATION",
                "How long to wait for the answer. The server ends a query after its own --query.timeout.",
            )
            .default_value("2m30s")
            .value_parser(|text: &str| parse_duration_ms(text).map_err(|e| e.to_string())),
        )
}

pub(super) fn query_command(query: &ArgMatches) -> Command {
    let text = |name: &str| query.get_one::<String>(name).cloned();
    Command::Query(Box::new(Query {
        server: text("server").unwrap_or_default(),
        expr: text("expr").unwrap_or_default(),
        time: text("time"),
        start: text("start"),
        end: text("end"),
        step: text("step"),
        explain: query.get_flag("explain"),
        analyze: query.get_flag("analyze"),
        json: query.get_flag("json"),
        timeout: Duration::from_millis(query.get_one::<i64>("timeout").map_or(0, |ms| ms.unsigned_abs())),
    }))
}
