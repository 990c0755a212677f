//! The processes of a cluster, each on a host of its own: a network namespace, whose interface counts what goes over the
//! wire.

use crate::harness::{Http, Process, eventually};
use crate::net::Net;
use crate::side_by_side::measure::{cpu_seconds, status_kib};
use crate::side_by_side::setting;
use crate::store::Store;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HTTP: u16 = 9090;
const GRPC: u16 = 9095;
/// An answer of the cluster's API that takes longer is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Entries that a replica may be behind its leader while there are writes, and count as caught up.
const BEHIND: u64 = 300;

/// How many processes of which role, and what data are split into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) ingesters: usize,
    pub(crate) queriers: usize,
    pub(crate) scrapers: usize,
    pub(crate) compactors: usize,
    pub(crate) shards: usize,
    pub(crate) replicas: usize,
}

impl Shape {
    /// Ingesters only.
    pub(crate) const fn ingesters(ingesters: usize, shards: usize, replicas: usize) -> Self {
        Self {
            ingesters,
            queriers: 0,
            scrapers: 0,
            compactors: 0,
            shards,
            replicas,
        }
    }

    const fn hosts(&self) -> usize {
        self.ingesters + self.queriers + self.scrapers + self.compactors
    }
}

/// A host and its process, if it runs.
pub(crate) struct Member {
    pub(crate) role: &'static str,
    pub(crate) http: Http,
    process: Option<Process>,
    folder: PathBuf,
}

impl Member {
    fn id(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }
}

/// Who leads, by index of the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaders {
    pub(crate) metadata: usize,
    pub(crate) shards: Vec<usize>,
}

/// What the processes have used so far, all of them together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) cpu_seconds: f64,
    /// Received by the hosts' interfaces: each byte that was sent to a host counts once.
    pub(crate) received_bytes: f64,
    /// Of these, from outside of the cluster.
    pub(crate) from_outside_bytes: f64,
    pub(crate) log_bytes: f64,
    pub(crate) uploaded_bytes: f64,
    pub(crate) fsyncs: f64,
    /// Index of the metadata group's log, the most advanced replica's.
    pub(crate) metadata_entries: f64,
}

impl Used {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            received_bytes: self.received_bytes - before.received_bytes,
            from_outside_bytes: self.from_outside_bytes - before.from_outside_bytes,
            log_bytes: self.log_bytes - before.log_bytes,
            uploaded_bytes: self.uploaded_bytes - before.uploaded_bytes,
            fsyncs: self.fsyncs - before.fsyncs,
            metadata_entries: self.metadata_entries - before.metadata_entries,
        }
    }
}

pub(crate) struct Cluster {
    net: Net,
    pub(crate) members: Vec<Member>,
    pub(crate) shape: Shape,
    folder: tempfile::TempDir,
    /// A folder where there is none.
    pub(crate) store: Option<Store>,
    program: PathBuf,
    bridge: String,
}

/// The sum of a metric's samples, over all its labels; `labels` is a part of the text between the braces.
pub(crate) fn metric(text: &str, name: &str, labels: &str) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_it = rest.starts_with([' ', '{']) && rest.contains(labels);
        is_it.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    samples.sum()
}

/// A column of /proc/net/dev: received bytes are the first, sent ones the ninth.
fn interface_bytes(file: &str, interface: &str, column: usize) -> f64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let field = line.and_then(|l| l.split_whitespace().nth(column)?.parse().ok());
    field.unwrap_or(0.0)
}

impl Cluster {
    /// Starts all of it and waits until everything is there; none, with a word, where namespaces cannot be made.
    pub(crate) async fn start(shape: Shape) -> Option<Self> {
        Self::start_on(shape, false).await
    }

    /// As [`Self::start`], with a server of S3 whose requests are counted; none, with a word, where there is no server.
    pub(crate) async fn start_on_s3(shape: Shape) -> Option<Self> {
        Self::start_on(shape, true).await
    }

    async fn start_on(shape: Shape, s3: bool) -> Option<Self> {
        let net = Net::make(shape.hosts())?;
        let folder = tempfile::tempdir().expect("temp folder");
        let store = s3.then(|| Store::start(folder.path(), &net.outside(), 0));
        if store.as_ref().is_some_and(|store| store.proxy.is_none()) {
            return None;
        }
        std::fs::write(folder.path().join("prometheus.yml"), "").expect("configuration");
        let built = || PathBuf::from(env!("CARGO_BIN_EXE_gnomon"));
        let mut cluster = Self {
            bridge: bridge_of(&net),
            net,
            members: Vec::new(),
            shape,
            folder,
            store,
            program: std::env::var_os("GNOMON").map_or_else(built, PathBuf::from),
        };
        let roles = std::iter::repeat_n("ingester", shape.ingesters)
            .chain(std::iter::repeat_n("querier", shape.queriers))
            .chain(std::iter::repeat_n("scraper", shape.scrapers))
            .chain(std::iter::repeat_n("compactor", shape.compactors));
        for (host, role) in roles.enumerate() {
            let folder = cluster.folder.path().join(format!("{role}-{host}"));
            std::fs::create_dir_all(&folder).expect("folder");
            cluster.members.push(Member {
                role,
                http: Http::new(&format!("http://{}:{HTTP}", cluster.net.address(host))),
                process: None,
                folder,
            });
        }
        for host in 0..shape.hosts() {
            cluster.launch(host);
        }
        for host in 0..shape.hosts() {
            cluster.until_ready(host).await;
        }
        cluster.until_healthy().await;
        Some(cluster)
    }

    /// Where members reach what this process plays.
    pub(crate) fn outside(&self) -> String {
        self.net.outside()
    }

    /// Gives all members another configuration.
    pub(crate) async fn configure(&self, text: &str) {
        std::fs::write(self.folder().join("prometheus.yml"), text).expect("configuration");
        for member in &self.members {
            let (code, answer) = member.http.post("/-/reload", "", Vec::new()).await;
            assert_eq!(code, 200, "{answer}");
        }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn launch(&mut self, host: usize) {
        let peers: Vec<_> = (0..self.shape.ingesters)
            .map(|host| format!("{}:{GRPC}", self.net.address(host)))
            .collect();
        let config = self.folder().join("prometheus.yml");
        let folder = || format!("file://{}", self.folder().join("bucket").display());
        let bucket = self.store.as_ref().map_or_else(folder, |store| store.url.clone());
        let environment = self.store.iter().flat_map(|store| store.environment.clone());
        let environment: Vec<_> = environment.collect();
        let mut command = self.net.on(host);
        let member = &mut self.members[host];
        command
            .arg(&self.program)
            .arg(format!("--target={}", member.role))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", member.folder.join("data").display()))
            .arg(format!("--storage.object-store={bucket}"))
            .arg(format!("--web.listen-address=0.0.0.0:{HTTP}"))
            .arg(format!("--cluster.listen-address=0.0.0.0:{GRPC}"))
            .arg(format!("--cluster.advertise-address={}:{GRPC}", self.net.address(host)))
            .arg(format!("--cluster.peers={}", peers.join(",")))
            .arg(format!("--cluster.expect={}", self.shape.ingesters))
            .arg(format!("--ingest.shards={}", self.shape.shards))
            .arg(format!("--ingest.replicas={}", self.shape.replicas))
            .args(["--ingest.seal-quiet=3s", "--compactor.grace=5s"])
            .args(["--web.enable-remote-write-receiver", "--web.enable-lifecycle"])
            .args(setting("FLAGS", "").split_whitespace())
            .envs(environment);
        let name = format!("{} {host}", member.role);
        member.process = Some(Process::start(&name, &mut command, member.folder.join("log")));
    }

    pub(crate) async fn until_ready(&self, host: usize) {
        let member = &self.members[host];
        eventually(&format!("{} {host} to be ready", member.role), async || {
            member.http.is_ready().await.then_some(())
        })
        .await;
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, host: usize) {
        if let Some(mut process) = self.members[host].process.take() {
            process.kill();
        }
    }

    pub(crate) fn of(&self, role: &str) -> Vec<usize> {
        let all = self.members.iter().enumerate();
        all.filter(|(_, m)| m.role == role).map(|(at, _)| at).collect()
    }

    pub(crate) fn servers(&self, role: &str) -> Vec<Http> {
        let of = self.of(role).into_iter();
        of.map(|at| self.members[at].http.clone()).collect()
    }

    async fn api(&self, host: usize, path: &str) -> Option<Value> {
        let http = &self.members[host].http;
        let asked = async { http.client().get(http.url(path)).send().await.ok()?.text().await.ok() };
        let text = tokio::time::timeout(ANSWER_WITHIN, asked).await.ok()??;
        let answer: Value = serde_json::from_str(&text).ok()?;
        Some(answer["data"].clone())
    }

    /// Who leads; none while a replica is missing, learns, or is behind, or a shard is led by another than is wished.
    async fn healthy(&self) -> Option<Leaders> {
        let asked = (0..self.members.len()).find(|at| self.members[*at].process.is_some())?;
        let nodes = self.api(asked, "/api/v1/cluster/nodes").await?;
        let nodes = nodes["nodes"].as_array()?;
        if nodes.len() != self.members.len() || nodes.iter().any(|n| n["state"] != "live") {
            return None;
        }
        let host_of = |id: u64| {
            let node = nodes.iter().find(|n| n["id"] == id)?;
            let address = node["address"].as_str()?;
            (0..self.members.len()).find(|at| address == format!("{}:{GRPC}", self.net.address(*at)))
        };
        let shown = self.api(asked, "/api/v1/cluster/shards").await?;
        let leader_of = |group: &Value, replicas: usize| {
            let members = group["members"].as_array()?;
            let is_well = |m: &Value| m["role"] != "learner" && m["behind"].as_u64().is_some_and(|n| n <= BEHIND);
            let all_there = members.len() == replicas && members.iter().all(is_well);
            (all_there && group["settled"] == true).then(|| group["leader"].as_u64())?
        };
        let voters = self.shape.ingesters.min(3);
        let metadata = host_of(leader_of(&shown["metadata"], voters)?)?;
        let shards = shown["shards"].as_array()?.iter().map(|group| {
            let leader = leader_of(group, self.shape.replicas)?;
            (group["wished"][0] == leader).then(|| host_of(leader))?
        });
        let shards: Vec<usize> = shards.collect::<Option<_>>()?;
        (shards.len() == self.shape.shards).then_some(Leaders { metadata, shards })
    }

    /// Waits until all replicas are there, have caught up, and are led by whom they are to be.
    pub(crate) async fn until_healthy(&self) -> Leaders {
        eventually("all replicas to be there and led as is wished", async || {
            let found = self.healthy().await;
            if found.is_none() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            found
        })
        .await
    }

    pub(crate) async fn metrics(&self, host: usize) -> String {
        let http = &self.members[host].http;
        match http.client().get(http.url("/metrics")).send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    pub(crate) async fn used(&self) -> Used {
        let mut all = Used {
            from_outside_bytes: interface_bytes("/proc/net/dev", &self.bridge, 8),
            ..Used::default()
        };
        for (host, member) in self.members.iter().enumerate() {
            let id = member.id();
            all.cpu_seconds += cpu_seconds(id);
            all.received_bytes += interface_bytes(&format!("/proc/{id}/net/dev"), "eth0", 0);
            let text = self.metrics(host).await;
            all.log_bytes += metric(&text, "gnomon_store_log_bytes_total", "");
            all.uploaded_bytes += metric(&text, "gnomon_ingester_uploaded_bytes_total", "");
            all.fsyncs += metric(&text, "gnomon_store_fsyncs_total", "");
            let entries = metric(&text, "gnomon_raft_applied_index", "group=\"0\"");
            all.metadata_entries = all.metadata_entries.max(entries);
        }
        all
    }

    /// Anonymous memory of the processes of a role, KiB, all of them together.
    pub(crate) fn anonymous_kib(&self, role: &str) -> f64 {
        self.sum_kib(role, "RssAnon")
    }

    pub(crate) fn resident_kib(&self, role: &str) -> f64 {
        self.sum_kib(role, "VmRSS")
    }

    fn sum_kib(&self, role: &str, field: &str) -> f64 {
        let of = self.of(role).into_iter();
        of.map(|at| status_kib(self.members[at].id(), field) as f64).sum()
    }

    /// CPU seconds of one role's processes so far.
    pub(crate) fn cpu_of(&self, role: &str) -> f64 {
        let of = self.of(role).into_iter();
        of.map(|at| cpu_seconds(self.members[at].id())).sum()
    }
}

/// The interface of the bridge, found by its address: what it sends is what comes to the hosts from outside.
fn bridge_of(net: &Net) -> String {
    let first = net.address(0);
    let prefix = first.rsplit_once('.').map_or("", |(prefix, _)| prefix);
    let shown = std::process::Command::new("ip")
        .args(["-o", "-4", "addr", "show"])
        .output();
    let text = shown
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let line = text.lines().find(|line| line.contains(&format!(" {prefix}.254/")));
    line.and_then(|line| line.split_whitespace().nth(1))
        .unwrap_or_default()
        .to_owned()
}
