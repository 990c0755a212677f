//! Every flag there is.

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// `--x` or `--no-x`.
    Nothing,
    /// One value, by the name that `--help` gives it.
    One(&'static str),
    /// A value each time it is given.
    Many(&'static str),
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Here,
    /// Has its effect, and is not in `--help`: for tests, as some of Prometheus' are.
    Hidden,
    /// Accepted with a warning that gives this reason.
    None(&'static str),
    /// Its promise cannot be kept: an error that names the alternative.
    Refused(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub takes: Takes,
    pub default: &'static str,
    pub heading: &'static str,
    pub help: &'static str,
    pub effect: Effect,
    pub environment: Option<&'static str>,
}

const CONFIG: &str = "Configuration";
const WEB: &str = "Web";
const STORAGE: &str = "Storage";
const SCRAPE: &str = "Scraping";
const QUERY: &str = "Queries";
const CLUSTER: &str = "Cluster (none of these is needed on one node)";
const LOG: &str = "Log";

const fn here(
    heading: &'static str,
    name: &'static str,
    takes: Takes,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        takes,
        default,
        heading,
        help,
        effect: Effect::Here,
        environment: None,
    }
}

const fn own(
    heading: &'static str,
    name: &'static str,
    environment: &'static str,
    takes: Takes,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        takes,
        default,
        heading,
        help,
        effect: Effect::Here,
        environment: Some(environment),
    }
}

const fn hidden(
    name: &'static str,
    environment: &'static str,
    takes: Takes,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        effect: Effect::Hidden,
        ..own(STORAGE, name, environment, takes, default, help)
    }
}

const fn cluster_tls(n: usize) -> Flag {
    let (name, environment, help) = super::cluster_tls::FLAGS[n];
    own(CLUSTER, name, environment, One("FILE"), "", help)
}

const fn idle(name: &'static str, takes: Takes, default: &'static str, why: &'static str) -> Flag {
    Flag {
        name,
        takes,
        default,
        heading: CONFIG,
        help: "",
        effect: Effect::None(why),
        environment: None,
    }
}

const fn refused(name: &'static str, takes: Takes, alternative: &'static str) -> Flag {
    Flag {
        name,
        takes,
        default: "",
        heading: CONFIG,
        help: "",
        effect: Effect::Refused(alternative),
        environment: None,
    }
}

use Takes::{Many, Nothing, One};

const CONSOLES: &str = "console templates are not served";
const GO: &str = "it tunes the Go runtime";
const WAL: &str = "the log is gnomon's own and tunes itself";
const BLOCKS: &str = "blocks span two hours and are merged as retention allows";
const AGENT: &str = "it belongs to Prometheus' agent mode";
const RULES: &str = "rules are not evaluated yet";
const ALERTS: &str = "alerts are not sent yet";
const REMOTE: &str = "remote write senders are not supported yet";

/// Prometheus' flags (2.42 to 3.x) and gnomon's own, by theme.
#[must_use]
pub const fn flags() -> &'static [Flag] {
    FLAGS
}

const FLAGS: &[Flag] = &[
    here(
        CONFIG,
        "config.file",
        One("FILE"),
        "prometheus.yml",
        "The configuration file, as Prometheus has it.",
    ),
    own(
        CONFIG,
        "config.strict",
        "GNOMON_CONFIG_STRICT",
        Nothing,
        "false",
        "Refuse a configuration with sections that are not supported yet, instead of warning.",
    ),
    here(
        CONFIG,
        "enable-feature",
        Many("NAME,…"),
        "",
        "Prometheus' feature flags; those without a meaning here are warned about.",
    ),
    here(
        CONFIG,
        "config.auto-reload-interval",
        One("DURATION"),
        "30s",
        "How often the configuration is looked at for changes, at least 1s, with --enable-feature=auto-reload-config.",
    ),
    here(
        WEB,
        "web.listen-address",
        Many("HOST:PORT"),
        "0.0.0.0:9090",
        "Where to serve the HTTP API and the page.",
    ),
    here(
        WEB,
        "web.config.file",
        One("FILE"),
        "",
        "TLS, client certificates, passwords, headers and a rate limit of the HTTP port; followed while running. See docs/securing.md.",
    ),
    here(
        WEB,
        "web.external-url",
        One("URL"),
        "",
        "The URL under which users reach this node, or a path alone; the path is the default route prefix.",
    ),
    here(WEB, "web.route-prefix", One("PATH"), "", "Prefix of all routes."),
    here(
        WEB,
        "web.enable-lifecycle",
        Nothing,
        "false",
        "Allow reload and shutdown by HTTP.",
    ),
    here(
        WEB,
        "web.enable-admin-api",
        Nothing,
        "false",
        "Allow deletes and snapshots by HTTP (/api/v1/admin/tsdb/...).",
    ),
    here(
        WEB,
        "web.enable-remote-write-receiver",
        Nothing,
        "false",
        "Take remote write on /api/v1/write, and over gRPC (gnomon.v1.Write).",
    ),
    here(
        WEB,
        "web.cors.origin",
        One("REGEX"),
        ".*",
        "Origins (RE2, matched as a whole) that may call the API from a browser.",
    ),
    here(
        WEB,
        "web.search.max-limit",
        One("N"),
        "10000",
        "Names that one request of the search endpoints may ask for; 0 is no limit.",
    ),
    here(
        WEB,
        "web.read-timeout",
        One("DURATION"),
        "5m",
        "How long the head of a request may take to come, and a connection may be idle; 0s is no limit.",
    ),
    here(
        WEB,
        "web.max-connections",
        One("N"),
        "512",
        "HTTP connections at the same time; further ones wait.",
    ),
    here(
        WEB,
        "web.max-notifications-subscribers",
        One("N"),
        "16",
        "Who may watch /api/v1/notifications/live at the same time.",
    ),
    idle("web.page-title", One("TEXT"), "", "the page has its own title"),
    idle("web.user-assets", One("PATH"), "", CONSOLES),
    // Debian's package adds this one, and the two lockfile flags below.
    idle("web.local-assets", One("PATH"), "", "the page is part of the binary"),
    idle("web.console.templates", One("PATH"), "consoles", CONSOLES),
    idle("web.console.libraries", One("PATH"), "console_libraries", CONSOLES),
    here(
        WEB,
        "web.enable-otlp-receiver",
        Nothing,
        "false",
        "Take OTLP metrics on /api/v1/otlp/v1/metrics, and over gRPC.",
    ),
    idle(
        "web.remote-write-receiver.accepted-protobuf-messages",
        Many("NAME"),
        "",
        "remote write 1.0 and 2.0 are both taken",
    ),
    here(STORAGE, "storage.tsdb.path", One("DIR"), "data/", "The data folder."),
    here(
        STORAGE,
        "storage.tsdb.retention.time",
        One("DURATION"),
        "",
        "How long to keep samples (15d if neither time nor size is set).",
    ),
    here(
        STORAGE,
        "storage.tsdb.retention.size",
        One("BYTES"),
        "",
        "How much storage to use at most, e.g. 512MB, 10GB.",
    ),
    here(
        STORAGE,
        "storage.tsdb.retention",
        One("DURATION"),
        "",
        "Deprecated: use --storage.tsdb.retention.time.",
    ),
    own(
        STORAGE,
        "storage.object-store",
        "GNOMON_STORAGE_OBJECT_STORE",
        One("URL"),
        "",
        "Where blocks go: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX (credentials from \
         AWS_*, GOOGLE_*, AZURE_*). Default: a folder of the data folder, for one node alone.",
    ),
    hidden(
        "ingest.seal-quiet",
        "GNOMON_INGEST_SEAL_QUIET",
        One("DURATION"),
        "1m",
        "A window that is over is sealed once nothing came for so long.",
    ),
    hidden(
        "compactor.interval",
        "GNOMON_COMPACTOR_INTERVAL",
        One("DURATION"),
        "1m",
        "Between two cycles of the compactor.",
    ),
    hidden(
        "compactor.grace",
        "GNOMON_COMPACTOR_GRACE",
        One("DURATION"),
        "5m",
        "How long the object of a block that was replaced or let go is kept for queries that have begun.",
    ),
    hidden(
        "compactor.lease",
        "GNOMON_COMPACTOR_LEASE",
        One("DURATION"),
        "2m",
        "How long a compactor that says nothing keeps its work from the others.",
    ),
    idle("storage.tsdb.min-block-duration", One("DURATION"), "2h", BLOCKS),
    idle("storage.tsdb.max-block-duration", One("DURATION"), "", BLOCKS),
    idle(
        "storage.tsdb.max-block-chunk-segment-size",
        One("BYTES"),
        "512MB",
        BLOCKS,
    ),
    idle(
        "storage.tsdb.allow-overlapping-blocks",
        Nothing,
        "true",
        "overlaps are always merged",
    ),
    idle(
        "storage.tsdb.allow-overlapping-compaction",
        Nothing,
        "true",
        "overlaps are always merged",
    ),
    idle(
        "storage.tsdb.no-lockfile",
        Nothing,
        "false",
        "the store keeps its own lock",
    ),
    idle(
        "storage.tsdb.use-lockfile",
        Nothing,
        "false",
        "the store keeps its own lock",
    ),
    idle("storage.tsdb.wal-segment-size", One("BYTES"), "", WAL),
    idle("storage.tsdb.wal-compression", Nothing, "true", WAL),
    idle("storage.tsdb.wal-compression-type", One("NAME"), "snappy", WAL),
    idle("storage.tsdb.head-chunks-write-queue-size", One("N"), "0", WAL),
    idle("storage.tsdb.samples-per-chunk", One("N"), "120", BLOCKS),
    idle("storage.tsdb.block-reload-interval", One("DURATION"), "1m", BLOCKS),
    idle("storage.tsdb.delayed-compaction.max-percent", One("N"), "10", BLOCKS),
    idle(
        "storage.tsdb.delay-compact-file.path",
        One("PATH"),
        "",
        "no sidecar uploads blocks here",
    ),
    idle("storage.agent.path", One("PATH"), "data-agent/", AGENT),
    idle("storage.agent.wal-segment-size", One("BYTES"), "", AGENT),
    idle("storage.agent.wal-compression", Nothing, "true", AGENT),
    idle("storage.agent.wal-compression-type", One("NAME"), "snappy", AGENT),
    idle("storage.agent.wal-truncate-frequency", One("DURATION"), "", AGENT),
    idle("storage.agent.retention.min-time", One("DURATION"), "", AGENT),
    idle("storage.agent.retention.max-time", One("DURATION"), "", AGENT),
    idle("storage.agent.no-lockfile", Nothing, "false", AGENT),
    idle("storage.agent.use-lockfile", Nothing, "false", AGENT),
    idle("storage.remote.flush-deadline", One("DURATION"), "1m", REMOTE),
    here(
        STORAGE,
        "storage.remote.read-sample-limit",
        One("N"),
        "50000000",
        "Samples that one remote read may answer with as samples; 0 is no limit. Streamed chunks are not limited.",
    ),
    here(
        STORAGE,
        "storage.remote.read-concurrent-limit",
        One("N"),
        "10",
        "Remote reads that run at the same time; 0 is no limit.",
    ),
    here(
        STORAGE,
        "storage.remote.read-max-bytes-in-frame",
        One("N"),
        "1048576",
        "Bytes of chunks after which a frame of a streamed remote read is closed.",
    ),
    idle("rules.alert.for-outage-tolerance", One("DURATION"), "1h", RULES),
    idle("rules.alert.for-grace-period", One("DURATION"), "10m", RULES),
    idle("rules.alert.resend-delay", One("DURATION"), "1m", RULES),
    idle("rules.max-concurrent-evals", One("N"), "4", RULES),
    idle("alertmanager.notification-queue-capacity", One("N"), "10000", ALERTS),
    idle("alertmanager.notification-batch-size", One("N"), "256", ALERTS),
    idle(
        "alertmanager.drain-notification-queue-on-shutdown",
        Nothing,
        "true",
        ALERTS,
    ),
    idle("alertmanager.timeout", One("DURATION"), "", ALERTS),
    idle(
        "scrape.adjust-timestamps",
        Nothing,
        "true",
        "timestamps within the tolerance are always aligned",
    ),
    idle(
        "scrape.timestamp-tolerance",
        One("DURATION"),
        "2ms",
        "the tolerance is Prometheus' default",
    ),
    idle(
        "scrape.discovery-reload-interval",
        One("DURATION"),
        "5s",
        "changes of targets are taken at once",
    ),
    idle(
        "scrape.name-escaping-scheme",
        One("NAME"),
        "values",
        "set metric_name_escaping_scheme in the file",
    ),
    own(
        SCRAPE,
        "scrape.buffer-memory",
        "GNOMON_SCRAPE_BUFFER_MEMORY",
        One("BYTES"),
        "64MB",
        "Memory for scrapes whose shards are slow or away; 0: what cannot be pushed at once is lost.",
    ),
    own(
        SCRAPE,
        "scrape.buffer-disk",
        "GNOMON_SCRAPE_BUFFER_DISK",
        One("BYTES"),
        "1GB",
        "Disk below the data folder for those that do not fit there, and for what waits when the process stops; 0 for none.",
    ),
    here(
        QUERY,
        "query.lookback-delta",
        One("DURATION"),
        "5m",
        "How far back an instant selector looks for a sample.",
    ),
    here(
        QUERY,
        "query.timeout",
        One("DURATION"),
        "2m",
        "How long a query may take.",
    ),
    here(
        QUERY,
        "query.max-concurrency",
        One("N"),
        "20",
        "Queries that run at the same time; range queries take three quarters of the places at most.",
    ),
    here(
        QUERY,
        "query.max-samples",
        One("N"),
        "50000000",
        "Samples that one query may hold in memory.",
    ),
    own(
        QUERY,
        "query.max-bytes",
        "GNOMON_QUERY_MAX_BYTES",
        One("BYTES"),
        "",
        "Memory that one query may hold, e.g. 512MB; half of what all may if empty.",
    ),
    own(
        QUERY,
        "query.max-total-bytes",
        "GNOMON_QUERY_MAX_TOTAL_BYTES",
        One("BYTES"),
        "",
        "Memory that all queries together may hold; an eighth of what the process may use if empty.",
    ),
    own(
        QUERY,
        "query.block-cache-dir",
        "GNOMON_QUERY_BLOCK_CACHE_DIR",
        One("PATH"),
        "",
        "Folder for what was read of blocks in an object store; below the data folder if empty.",
    ),
    own(
        QUERY,
        "query.block-cache-size",
        "GNOMON_QUERY_BLOCK_CACHE_SIZE",
        One("BYTES"),
        "2GiB",
        "Disk that it may take; 0 for none. There is none where the object store is a folder.",
    ),
    own(
        QUERY,
        "query.small-block-size",
        "GNOMON_QUERY_SMALL_BLOCK_SIZE",
        One("BYTES"),
        "4MiB",
        "Blocks up to this size are read by every querier that needs them, larger ones by the one each belongs to; 0 for all by that.",
    ),
    own(
        QUERY,
        "query.result-cache-size",
        "GNOMON_QUERY_RESULT_CACHE_SIZE",
        One("BYTES"),
        "64MiB",
        "Memory for results of range queries whose samples are all in blocks; 0 for none.",
    ),
    own(
        QUERY,
        "query.partial-response",
        "GNOMON_QUERY_PARTIAL_RESPONSE",
        Nothing,
        "true",
        "Answer with a warning where something cannot be read; --no-query.partial-response makes it an error. A request says \
         for itself with partial=true or partial=false.",
    ),
    own(
        CLUSTER,
        "target",
        "GNOMON_TARGET",
        Many("ROLE,…"),
        "all",
        "Roles to run: all, or some of scraper, ingester, querier, compactor.",
    ),
    own(
        CLUSTER,
        "cluster.listen-address",
        "GNOMON_CLUSTER_LISTEN_ADDRESS",
        One("HOST:PORT"),
        "",
        "Where to serve gRPC: 127.0.0.1:9095, or 0.0.0.0:9095 once there are peers.",
    ),
    own(
        CLUSTER,
        "cluster.advertise-address",
        "GNOMON_CLUSTER_ADVERTISE_ADDRESS",
        One("HOST:PORT"),
        "",
        "Where other nodes reach this one's gRPC; the listen address if empty.",
    ),
    cluster_tls(0),
    cluster_tls(1),
    cluster_tls(2),
    own(
        CLUSTER,
        "cluster.peers",
        "GNOMON_CLUSTER_PEERS",
        Many("HOST:PORT,…"),
        "",
        "Ingesters to join, or a DNS name that resolves to them.",
    ),
    own(
        CLUSTER,
        "cluster.expect",
        "GNOMON_CLUSTER_EXPECT",
        One("N"),
        "1",
        "Ingesters to wait for at the very first start, before shards are placed.",
    ),
    own(
        CLUSTER,
        "cluster.zone",
        "GNOMON_CLUSTER_ZONE",
        One("NAME"),
        "",
        "Failure zone of this node: a shard's replicas are spread over zones.",
    ),
    own(
        CLUSTER,
        "cluster.replace-after",
        "GNOMON_CLUSTER_REPLACE_AFTER",
        One("DURATION"),
        "10m",
        "A node that is silent for so long is given up, and its replicas are made anew elsewhere.",
    ),
    own(
        CLUSTER,
        "cluster.forget-after",
        "GNOMON_CLUSTER_FORGET_AFTER",
        One("DURATION"),
        "1d",
        "A node without replicas that is silent for so long is forgotten: it does not come back as itself.",
    ),
    own(
        CLUSTER,
        "cluster.drain-on-stop",
        "GNOMON_CLUSTER_DRAIN_ON_STOP",
        One("DURATION"),
        "0s",
        "On SIGTERM the node's replicas go elsewhere first, for so long at most; a second signal ends that. 0: it stops at once.",
    ),
    hidden(
        "cluster.prefer-after",
        "GNOMON_CLUSTER_PREFER_AFTER",
        One("DURATION"),
        "5s",
        "A shard's preferred leader leads once it has been there for so long.",
    ),
    hidden(
        "cluster.feature-level",
        "GNOMON_CLUSTER_FEATURE_LEVEL",
        One("N"),
        "",
        "Understand no more than this, as an older build: the cluster's feature level stays there.",
    ),
    own(
        CLUSTER,
        "ingest.shards",
        "GNOMON_INGEST_SHARDS",
        One("N"),
        "",
        "Ingest shards at the very first start; one for each processor of the expected ingesters and replica if empty.",
    ),
    own(
        CLUSTER,
        "ingest.grpc-listen-address",
        "GNOMON_INGEST_GRPC_LISTEN_ADDRESS",
        One("HOST:PORT"),
        "",
        "Where to take samples over gRPC, e.g. 0.0.0.0:4317; on the cluster's address if empty.",
    ),
    own(
        CLUSTER,
        "ingest.ha-tracker",
        "GNOMON_INGEST_HA_TRACKER",
        Nothing,
        "false",
        "Of servers that write the same data (HA pairs of Prometheus servers), take one at a time.",
    ),
    own(
        CLUSTER,
        "ingest.ha-cluster-label",
        "GNOMON_INGEST_HA_CLUSTER_LABEL",
        One("NAME"),
        "cluster",
        "The label that servers of an HA pair have in common.",
    ),
    own(
        CLUSTER,
        "ingest.ha-replica-label",
        "GNOMON_INGEST_HA_REPLICA_LABEL",
        One("NAME"),
        "__replica__",
        "The label by which they differ (prometheus_replica with the Prometheus operator); it is dropped.",
    ),
    own(
        CLUSTER,
        "ingest.ha-update-timeout",
        "GNOMON_INGEST_HA_UPDATE_TIMEOUT",
        One("DURATION"),
        "15s",
        "How often it is noted that a server of an HA pair lives.",
    ),
    own(
        CLUSTER,
        "ingest.ha-failover-timeout",
        "GNOMON_INGEST_HA_FAILOVER_TIMEOUT",
        One("DURATION"),
        "2m",
        "How long one must be silent, or lag behind, before the other is taken; longer than the longest scrape interval and \
         the wait for a batch together.",
    ),
    own(
        CLUSTER,
        "ingest.ha-max-clusters",
        "GNOMON_INGEST_HA_MAX_CLUSTERS",
        One("N"),
        "100",
        "HA pairs that there may be.",
    ),
    own(
        CLUSTER,
        "ingest.ha-max-held",
        "GNOMON_INGEST_HA_MAX_HELD",
        One("BYTES"),
        "64MiB",
        "Memory for what the waiting servers of HA pairs sent last, so that nothing is missing when the other one dies; 0 keeps \
         nothing.",
    ),
    own(
        CLUSTER,
        "ingest.max-series",
        "GNOMON_INGEST_MAX_SERIES",
        One("N"),
        "0",
        "Series that the shards of this node may have in memory; further ones are refused, those there go on. 0 is no limit.",
    ),
    own(
        CLUSTER,
        "ingest.max-series-per-shard",
        "GNOMON_INGEST_MAX_SERIES_PER_SHARD",
        One("N"),
        "0",
        "The same for each shard.",
    ),
    own(
        CLUSTER,
        "ingest.max-series-per-metric",
        "GNOMON_INGEST_MAX_SERIES_PER_METRIC",
        One("N"),
        "0",
        "The same for each metric name of a tenant in each shard; in force once all nodes understand it.",
    ),
    hidden(
        "ingest.flush-bytes",
        "GNOMON_INGEST_FLUSH_BYTES",
        One("BYTES"),
        "32MiB",
        "A shard's state is flushed after so many bytes of log; a restart replays the rest.",
    ),
    own(
        CLUSTER,
        "ingest.replicas",
        "GNOMON_INGEST_REPLICAS",
        One("1|3|5"),
        "",
        "Replicas of each shard at the very first start; 3 where at least 3 ingesters are expected, else 1, if empty.",
    ),
    idle("auto-gomaxprocs", Nothing, "true", GO),
    idle("auto-gomemlimit", Nothing, "true", GO),
    idle("auto-gomemlimit.ratio", One("RATIO"), "0.9", GO),
    refused("agent", Nothing, "run gnomon as it is; it has no mode without storage"),
    here(LOG, "log.level", One("LEVEL"), "info", "debug, info, warn or error."),
    here(LOG, "log.format", One("FORMAT"), "logfmt", "logfmt or json."),
];
