//! What the process says of itself: readiness, the configuration in force, run-time facts.

use gnomon_model::TimestampMs;
use gnomon_querier::{
    BuildInfo, CONFIG_DIFFERS, ConfigInfo, NodeInfo, Notifications, RELOAD_FAILED, RuntimeInfo, STARTING, STOPPING,
};
use parking_lot::RwLock;
use std::sync::Arc;

/// Facts that do not change, and the few that do.
pub struct Status {
    started_at: TimestampMs,
    storage_retention: RwLock<String>,
    roles: Vec<String>,
    /// What is waited for; none once requests can be served.
    waiting_for: RwLock<Option<String>>,
    config: RwLock<ConfigInfo>,
    notifications: Arc<Notifications>,
}

impl Status {
    #[must_use]
    pub fn new(started_at: TimestampMs, roles: Vec<String>, notifications: Arc<Notifications>) -> Self {
        notifications.add(STARTING);
        Self {
            started_at,
            storage_retention: RwLock::default(),
            roles,
            waiting_for: RwLock::new(Some("the node is starting".into())),
            config: RwLock::default(),
            notifications,
        }
    }

    #[must_use]
    pub fn notifications(&self) -> Arc<Notifications> {
        Arc::clone(&self.notifications)
    }

    pub fn set_waiting_for(&self, what: &str) {
        *self.waiting_for.write() = Some(what.to_owned());
    }

    pub fn set_ready(&self) {
        *self.waiting_for.write() = None;
        self.notifications.remove(STARTING);
    }

    /// No request is served any more; who watches notifications is told, and let go.
    pub fn set_stopping(&self) {
        self.set_waiting_for("the node is stopping");
        self.notifications.add(STOPPING);
        self.notifications.close();
    }

    pub fn set_storage_retention(&self, text: String) {
        *self.storage_retention.write() = text;
    }

    pub fn set_config(&self, config: ConfigInfo) {
        *self.config.write() = config;
        self.notifications.remove(RELOAD_FAILED);
    }

    /// Whether the cluster goes by another configuration.
    pub fn config_differs(&self, differs: bool) {
        match differs {
            true => self.notifications.add(CONFIG_DIFFERS),
            false => self.notifications.remove(CONFIG_DIFFERS),
        }
    }

    /// Notes that a reload was refused; the configuration in force stays.
    pub fn reload_failed(&self) {
        self.config.write().reload_successful = false;
        self.notifications.add(RELOAD_FAILED);
    }
}

impl NodeInfo for Status {
    fn readiness(&self) -> Result<(), String> {
        self.waiting_for.read().clone().map_or(Ok(()), Err)
    }

    fn config(&self) -> ConfigInfo {
        self.config.read().clone()
    }

    fn runtime(&self) -> RuntimeInfo {
        RuntimeInfo {
            started_at_ms: self.started_at.0,
            working_directory: std::env::current_dir()
                .map(|d| d.display().to_string())
                .unwrap_or_default(),
            hostname: hostname(),
            storage_retention: self.storage_retention.read().clone(),
            roles: self.roles.clone(),
            corruptions: 0,
            threads: threads(),
            processors: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        }
    }
}

/// The name of this machine; empty where the system does not tell.
#[must_use]
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn threads() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Threads:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// What was known when this binary was compiled.
#[must_use]
pub fn build_info() -> BuildInfo {
    let known = |value: Option<&str>| value.filter(|v| !v.is_empty()).unwrap_or("unknown").to_owned();
    BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: known(option_env!("GNOMON_REVISION")),
        branch: known(option_env!("GNOMON_BRANCH")),
        build_user: known(option_env!("GNOMON_BUILD_USER")),
        build_date: known(option_env!("GNOMON_BUILD_DATE")),
        rust_version: env!("CARGO_PKG_RUST_VERSION").to_owned(),
    }
}
