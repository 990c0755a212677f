//! The three processes; each takes samples and answers queries.

use crate::harness::{Http, Node, binary, eventually, free_port};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) const NODES: usize = 3;

pub(crate) fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

/// Three processes (or as many as a test says), of which some run.
pub(crate) struct Trio {
    folder: PathBuf,
    http_ports: Vec<u16>,
    /// Where each listens for the others.
    listens: Vec<String>,
    /// Where the others reach each.
    peers: Vec<String>,
    /// One name that resolves to all of them, and where it stands.
    name: Option<(String, PathBuf)>,
    flags: Vec<String>,
    /// What each scrapes; none scrapes where nothing is said.
    scrapes: Option<String>,
    nodes: Vec<Option<Node>>,
}

/// The level that the build before this one comes to.
pub(crate) const OLDER: u32 = CURRENT_FEATURE_LEVEL.0 - 1;

fn older(folder: &Path, mut args: Vec<String>) -> Node {
    if let Some(program) = std::env::var_os("GNOMON_OLDER") {
        return Node::launch_build(Path::new(&program), folder, args);
    }
    args.push(format!("--cluster.feature-level={OLDER}"));
    Node::launch(folder, args)
}

impl Trio {
    /// None runs yet; all are to be started with these flags.
    pub(crate) fn new(folder: &Path, flags: &[&str]) -> Self {
        Self::of_many(NODES, folder, flags)
    }

    /// The same with so many, where three are not enough.
    pub(crate) fn of_many(nodes: usize, folder: &Path, flags: &[&str]) -> Self {
        let listens: Vec<_> = (0..nodes).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        Self {
            folder: folder.to_owned(),
            http_ports: (0..nodes).map(|_| free_port()).collect(),
            peers: listens.clone(),
            listens,
            name: None,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            scrapes: None,
            nodes: (0..nodes).map(|_| None).collect(),
        }
    }

    /// From their next start on all scrape too, by this configuration.
    pub(crate) fn scrape(&mut self, yaml: String) {
        self.scrapes = Some(yaml);
    }

    /// The configuration of one, for its next reload; its next start writes its own again.
    pub(crate) fn write_config(&self, at: usize, yaml: &str) {
        let file = self.folder.join(format!("node-{at}/prometheus.yml"));
        std::fs::write(file, yaml).expect("configuration");
    }

    /// From its next start on the others reach one here, from where it goes on to where it listens.
    pub(crate) fn is_behind(&mut self, at: usize, address: String) {
        self.peers[at] = address;
    }

    /// Where one listens for the others.
    pub(crate) fn port(&self, at: usize) -> u16 {
        let port = self.listens[at].rsplit(':').next().and_then(|port| port.parse().ok());
        port.expect("a port")
    }

    /// The same where each listens at an address of its own, and all are told one name for all of them.
    pub(crate) fn by_one_name(folder: &Path, flags: &[&str]) -> Self {
        let mut trio = Self::new(folder, flags);
        let (port, hosts) = (free_port(), folder.join("hosts"));
        let addresses: Vec<_> = (1..=NODES).map(|n| format!("127.0.0.{n}")).collect();
        let lines = addresses.iter().map(|address| format!("{address} ingesters.test\n"));
        std::fs::write(&hosts, lines.collect::<String>()).expect("hosts");
        trio.peers = addresses.iter().map(|address| format!("{address}:{port}")).collect();
        trio.listens.clone_from(&trio.peers);
        trio.name = Some((format!("ingesters.test:{port}"), hosts));
        trio
    }

    /// Starts all, each with one flag more, and waits until they are ready and every shard is led.
    pub(crate) async fn start(&mut self, flag: Option<&str>) {
        self.start_all(flag).await;
        self.until_whole().await;
    }

    /// Starts all of the build before, and waits until they are whole.
    pub(crate) async fn start_older(&mut self) {
        for at in 0..self.nodes.len() {
            self.launch_older(at);
        }
        self.until_all_ready().await;
        self.until_whole().await;
    }

    /// Starts all, and waits until they are ready.
    pub(crate) async fn start_all(&mut self, flag: Option<&str>) {
        for at in 0..self.nodes.len() {
            self.launch(at, flag);
        }
        self.until_all_ready().await;
    }

    pub(crate) async fn until_all_ready(&mut self) {
        for at in 0..self.nodes.len() {
            self.until_ready(at).await;
        }
    }

    fn arguments(&self, folder: &Path, http_port: u16, (listens, reached): (&str, &str)) -> Vec<String> {
        std::fs::create_dir_all(folder).expect("folder");
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, self.scrapes.as_deref().unwrap_or_default()).expect("configuration");
        let target = match self.scrapes {
            Some(_) => "ingester,querier,scraper",
            None => "ingester,querier",
        };
        let peers = self
            .name
            .as_ref()
            .map_or_else(|| self.peers.join(","), |(name, _)| name.clone());
        let mut args = vec![
            format!("--target={target}"),
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--storage.object-store=file://{}", self.folder.join("bucket").display()),
            format!("--web.listen-address=127.0.0.1:{http_port}"),
            format!("--cluster.listen-address={listens}"),
            format!("--cluster.peers={peers}"),
            format!("--cluster.expect={}", self.nodes.len()),
            "--web.enable-remote-write-receiver".to_owned(),
        ];
        if !self.flags.iter().any(|flag| flag.starts_with("--ingest.shards=")) {
            args.push("--ingest.shards=2".to_owned());
        }
        if listens != reached {
            args.push(format!("--cluster.advertise-address={reached}"));
        }
        args.extend(self.flags.iter().cloned());
        args
    }

    /// Starts one, with one flag more, and does not wait.
    pub(crate) fn launch(&mut self, at: usize, flag: Option<&str>) {
        let folder = self.folder.join(format!("node-{at}"));
        let mut args = self.arguments(&folder, self.http_ports[at], (&self.listens[at], &self.peers[at]));
        args.extend(flag.map(str::to_owned));
        self.nodes[at] = Some(match &self.name {
            Some((_, hosts)) => Node::launch_among(hosts, &folder, args),
            None => Node::launch(&folder, args),
        });
    }

    /// Starts one of the build before, and does not wait: the one that `GNOMON_OLDER` names, or this build told to understand
    /// no more than the level before.
    pub(crate) fn launch_older(&mut self, at: usize) {
        let folder = self.folder.join(format!("node-{at}"));
        let args = self.arguments(&folder, self.http_ports[at], (&self.listens[at], &self.peers[at]));
        self.nodes[at] = Some(older(&folder, args));
    }

    /// A fourth one of the build before, with a data folder of its own.
    pub(crate) fn launch_another_older(&self) -> Node {
        let folder = self.folder.join("another");
        let grpc = format!("127.0.0.1:{}", free_port());
        let args = self.arguments(&folder, free_port(), (&grpc, &grpc));
        older(&folder, args)
    }

    /// A fourth one, with a data folder of its own.
    pub(crate) fn launch_another(&self, flag: &str) -> Node {
        let folder = self.folder.join("another");
        let grpc = format!("127.0.0.1:{}", free_port());
        let mut args = self.arguments(&folder, free_port(), (&grpc, &grpc));
        args.push(flag.to_owned());
        Node::launch(&folder, args)
    }

    pub(crate) fn node(&mut self, at: usize) -> &mut Node {
        self.nodes[at].as_mut().expect("it runs")
    }

    /// Of the node that others reach so.
    pub(crate) fn place_of(&self, address: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer == address)
    }

    pub(crate) fn http(&self, at: usize) -> Http {
        Http::new(&format!("http://127.0.0.1:{}", self.http_ports[at]))
    }

    pub(crate) async fn until_ready(&mut self, at: usize) {
        self.node(at).until_ready().await;
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut node) = self.nodes[at].take() {
            node.process.kill();
        }
    }

    /// In good order; it is over when this returns.
    pub(crate) async fn stop(&mut self, at: usize) {
        if let Some(mut node) = self.nodes[at].take() {
            node.process.signal("-TERM");
            node.process.ended().await;
        }
    }

    async fn cluster(&self, path: &str) -> Option<Value> {
        let asked = (0..self.nodes.len()).find(|at| self.nodes[*at].is_some())?;
        self.told_by(asked, path).await
    }

    /// What a node's API answers; none where it does not.
    pub(crate) async fn told_by(&self, asked: usize, path: &str) -> Option<Value> {
        let http = self.http(asked);
        let asked = async { http.client().get(http.url(path)).send().await.ok()?.text().await.ok() };
        let text = tokio::time::timeout(Duration::from_secs(5), asked).await.ok()??;
        let answer: Value = serde_json::from_str(&text).ok()?;
        Some(answer["data"].clone())
    }

    /// What `gnomon cluster` says, asked of one node, where it was done; else what is wrong.
    pub(crate) async fn command(&self, at: usize, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(binary());
        let server = self.http(at).url("");
        command.arg("cluster").args(args).arg(format!("--server={server}"));
        let out = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("no panic")
            .expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match out.status.success() {
            true => Ok(text(out.stdout)),
            false => Err(text(out.stderr)),
        }
    }

    /// Who leads the metadata group, by place, once all vote in it.
    pub(crate) async fn metadata_leader(&self) -> usize {
        eventually("a leader of the metadata group", async || {
            let shown = self.cluster("/api/v1/cluster/shards").await?;
            let voters = shown["metadata"]["voters"].as_array().map_or(0, Vec::len);
            let leader = shown["metadata"]["leader"].as_u64()?;
            let nodes = self.cluster("/api/v1/cluster/nodes").await?;
            let node = nodes["nodes"]
                .as_array()?
                .iter()
                .find(|node| node["id"] == leader)?
                .clone();
            (voters == self.nodes.len()).then(|| self.place_of(node["address"].as_str()?))?
        })
        .await
    }

    /// The feature level that the cluster has come to.
    pub(crate) async fn level(&self) -> Option<u64> {
        self.cluster("/api/v1/cluster/nodes").await?["featureLevel"].as_u64()
    }

    /// Every replica that there is to be votes, and each group is led.
    async fn is_whole(&self) -> Option<()> {
        let shown = self.cluster("/api/v1/cluster/shards").await?;
        let shards = shown["shards"].as_array()?;
        let mut groups = shards.iter().chain([&shown["metadata"]]);
        let is_whole = |group: &Value| {
            let there = group["members"].as_array().map_or(0, Vec::len);
            there == NODES && group["leader"].is_u64() && group["voters"].as_array().is_some_and(|v| v.len() == NODES)
        };
        (!shards.is_empty() && groups.all(is_whole)).then_some(())
    }

    pub(crate) async fn until_whole(&self) {
        eventually("every group to have three voters and a leader", async || {
            self.is_whole().await
        })
        .await;
    }
}
