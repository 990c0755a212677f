//! Four processes, and something to scrape.

use crate::harness::{Http, Node, free_port};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

pub(super) fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

pub(super) fn now() -> f64 {
    now_ms() as f64 / 1000.0
}

/// A configuration of jobs with their targets.
pub(super) fn config(interval: &str, jobs: &[(&str, &[&str])]) -> String {
    let mut yaml = format!("global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\nscrape_configs:\n");
    for (job, targets) in jobs {
        let _ = writeln!(
            yaml,
            "- {{job_name: {job}, static_configs: [{{targets: {targets:?}}}]}}"
        );
    }
    yaml
}

/// The processes by role; each has its own folder, ports, and copy of the configuration.
pub(super) struct Four {
    folder: PathBuf,
    nodes: BTreeMap<String, Node>,
    yaml: String,
    ingester: u16,
    /// For gRPC, by name.
    ports: BTreeMap<String, u16>,
    /// Flags that every process is given besides.
    flags: Vec<String>,
}

impl Four {
    pub(super) const ROLES: [&str; 4] = ["scraper", "ingester", "querier", "compactor"];

    pub(super) fn new(folder: &Path, yaml: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            nodes: BTreeMap::new(),
            yaml: yaml.to_owned(),
            ingester: free_port(),
            ports: BTreeMap::new(),
            flags: Vec::new(),
        }
    }

    pub(super) fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    /// Starts the process of a role, and does not wait.
    pub(super) fn launch(&mut self, role: &str) {
        self.launch_as(role, role);
    }

    /// The same under a name of its own, for a second process of one role.
    pub(super) fn launch_as(&mut self, name: &str, role: &str) {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).expect("folder");
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, &self.yaml).expect("configuration");
        let port = if name == "ingester" { self.ingester } else { free_port() };
        self.ports.insert(name.to_owned(), port);
        let mut args = vec![
            format!("--target={role}"),
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--storage.object-store=file://{}", self.folder.join("blocks").display()),
            format!("--web.listen-address=127.0.0.1:{}", free_port()),
            format!("--cluster.listen-address=127.0.0.1:{port}"),
            format!("--cluster.peers=127.0.0.1:{}", self.ingester),
            "--web.enable-remote-write-receiver".to_owned(),
            "--log.level=debug".to_owned(),
        ];
        if role == "ingester" {
            args.push("--ingest.shards=2".to_owned());
        }
        args.extend(self.flags.iter().cloned());
        self.nodes.insert(name.to_owned(), Node::launch(&folder, args));
    }

    /// Starts all four, the ingester last, and waits.
    pub(super) async fn start(&mut self) {
        for role in ["scraper", "querier", "compactor", "ingester"] {
            self.launch(role);
        }
        self.until_ready().await;
    }

    pub(super) async fn until_ready(&mut self) {
        self.until_ready_except("").await;
    }

    /// All but one that has ended.
    pub(super) async fn until_ready_except(&mut self, ended: &str) {
        for (_, node) in self.nodes.iter_mut().filter(|(name, _)| *name != ended) {
            node.until_ready().await;
        }
    }

    pub(super) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).expect("a process of this name")
    }

    /// One that has ended and is of no interest any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Where others reach a node.
    pub(super) fn address(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.ports[name])
    }

    /// The ingester's gRPC port.
    pub(super) fn peer(&self) -> u16 {
        self.ingester
    }

    pub(super) fn http(&self, name: &str) -> &Http {
        &self.nodes[name].http
    }

    pub(super) fn log(&self, name: &str) -> String {
        self.nodes[name].process.log()
    }

    /// None while it does not answer.
    pub(super) async fn try_get(&self, name: &str, path: &str) -> Option<(u16, String)> {
        let http = self.http(name);
        let response = http.client().get(http.url(path)).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// Starts one again that has ended, and waits.
    pub(super) async fn restart(&mut self, name: &str) {
        let node = self.nodes.remove(name).expect("a process of this name");
        let (node, _) = node.restart().await;
        self.nodes.insert(name.to_owned(), node);
    }

    /// SIGINT to one: it ends with code 0 and in good order.
    pub(super) async fn interrupt(&mut self, name: &str) {
        let node = self.node(name);
        assert_eq!(node.process.interrupt().await, Some(0), "{name}");
        let log = node.process.log();
        assert!(!log.contains("stopping took too long"), "{name}");
        assert!(log.lines().any(|line| line.contains("msg=stopped")), "{name}");
    }

    pub(super) async fn stop(mut self) {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        for name in names {
            self.interrupt(&name).await;
        }
    }
}
