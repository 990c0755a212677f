//! The processes of the cluster: one on each host.

use crate::harness::{Http, Process, binary, eventually};
use crate::net::Net;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HTTP: u16 = 9090;
const GRPC: u16 = 9095;

/// A host and its process, if it runs.
pub(crate) struct Member {
    pub(crate) host: usize,
    pub(crate) role: &'static str,
    pub(crate) http: Http,
    pub(crate) process: Option<Process>,
    folder: PathBuf,
}

pub(crate) struct Cluster {
    pub(crate) net: Net,
    pub(crate) members: Vec<Member>,
    folder: PathBuf,
    peers: String,
    expect: usize,
}

impl Cluster {
    /// Ingesters first, then queriers, then a compactor; returns when all are ready.
    pub(crate) async fn start(net: Net, folder: &Path, ingesters: usize, queriers: usize) -> Self {
        let peers: Vec<_> = (0..ingesters)
            .map(|host| format!("{}:{GRPC}", net.address(host)))
            .collect();
        std::fs::write(folder.join("prometheus.yml"), "").expect("configuration");
        let mut cluster = Self {
            net,
            members: Vec::new(),
            folder: folder.to_owned(),
            peers: peers.join(","),
            expect: ingesters,
        };
        let roles = std::iter::repeat_n("ingester", ingesters)
            .chain(std::iter::repeat_n("querier", queriers))
            .chain(["compactor"]);
        for role in roles {
            cluster.add(role);
        }
        for at in 0..cluster.members.len() {
            cluster.until_ready(at).await;
        }
        cluster
    }

    /// Starts a process on the next host that has none.
    pub(crate) fn add(&mut self, role: &'static str) -> usize {
        let host = self.members.len();
        self.members.push(Member {
            host,
            role,
            http: Http::new(&format!("http://{}:{HTTP}", self.net.address(host))),
            process: None,
            folder: self.folder.join(format!("{role}-{host}")),
        });
        self.launch(host);
        host
    }

    pub(crate) fn launch(&mut self, at: usize) {
        let member = &mut self.members[at];
        std::fs::create_dir_all(&member.folder).expect("folder");
        let mut command = self.net.on(member.host);
        command
            .arg(binary())
            .arg(format!("--target={}", member.role))
            .arg(format!(
                "--config.file={}",
                self.folder.join("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", member.folder.join("data").display()))
            .arg(format!(
                "--storage.object-store=file://{}",
                self.folder.join("bucket").display()
            ))
            .arg(format!("--web.listen-address=0.0.0.0:{HTTP}"))
            .arg(format!("--cluster.listen-address=0.0.0.0:{GRPC}"))
            .arg(format!(
                "--cluster.advertise-address={}:{GRPC}",
                self.net.address(member.host)
            ))
            .arg(format!("--cluster.peers={}", self.peers))
            .arg(format!("--cluster.expect={}", self.expect))
            .args([
                "--ingest.shards=2",
                "--ingest.seal-quiet=500ms",
                "--ingest.flush-bytes=256KiB",
            ])
            .args(["--compactor.interval=2s", "--web.enable-remote-write-receiver"])
            .args([
                "--web.enable-lifecycle",
                "--web.enable-admin-api",
                "--log.format=logfmt",
            ]);
        let name = format!("{} {at}", member.role);
        member.process = Some(Process::start(&name, &mut command, member.folder.join("log")));
    }

    pub(crate) async fn until_ready(&self, at: usize) {
        let member = &self.members[at];
        let what = format!("{} {at} to be ready", member.role);
        eventually(&what, async || member.http.is_ready().await.then_some(())).await;
    }

    pub(crate) fn of(&self, role: &str) -> Vec<usize> {
        let all = self.members.iter().enumerate();
        all.filter(|(_, m)| m.role == role).map(|(at, _)| at).collect()
    }

    pub(crate) fn process(&self, at: usize) -> &Process {
        self.members[at].process.as_ref().expect("it runs")
    }

    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.members[at].process.take() {
            process.kill();
        }
    }

    /// As an operator restarts a node.
    pub(crate) async fn restart(&mut self, at: usize) {
        if let Some(mut process) = self.members[at].process.take() {
            process.signal("-TERM");
            process.ended().await;
        }
        self.launch(at);
        self.until_ready(at).await;
    }

    /// All networks are whole, all processes run.
    pub(crate) async fn heal(&mut self) {
        self.net.heal();
        for at in 0..self.members.len() {
            match &self.members[at].process {
                Some(process) => process.signal("-CONT"),
                None => self.launch(at),
            }
        }
        for at in 0..self.members.len() {
            self.until_ready(at).await;
        }
    }

    /// The ingester that leads a shard, as the cluster says itself.
    pub(crate) async fn leader(&self, shard: usize) -> Option<usize> {
        for at in self.of("querier") {
            let asked = tokio::time::timeout(
                Duration::from_secs(3),
                self.members[at]
                    .http
                    .client()
                    .get(self.members[at].http.url("/api/v1/cluster/shards"))
                    .send(),
            );
            let Ok(Ok(answer)) = asked.await else { continue };
            let Ok(text) = answer.text().await else { continue };
            let shown: serde_json::Value = serde_json::from_str(&text).ok()?;
            let id = shown["data"]["shards"][shard]["leader"].as_u64()?;
            let asked = self.members[at]
                .http
                .client()
                .get(self.members[at].http.url("/api/v1/cluster/nodes"));
            let text = asked.send().await.ok()?.text().await.ok()?;
            let shown: serde_json::Value = serde_json::from_str(&text).ok()?;
            let nodes = shown["data"]["nodes"].as_array()?;
            let address = nodes.iter().find(|n| n["id"] == id)?["address"].as_str()?.to_owned();
            return (0..self.members.len()).find(|at| address == format!("{}:{GRPC}", self.net.address(*at)));
        }
        None
    }

    pub(crate) async fn stop(mut self) {
        for member in self.members.iter_mut().rev() {
            if let Some(process) = &mut member.process {
                process.signal("-TERM");
                process.ended().await;
            }
        }
    }
}
