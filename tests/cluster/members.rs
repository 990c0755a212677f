//! The processes of the cluster: one on each host.

use crate::clocks::Clocks;
use crate::harness::disk::Disk;
use crate::harness::{Http, Process, binary, eventually};
use crate::incidents::{Incidents, Place};
use crate::net::Net;
use crate::store::Store;
use crate::store::weed::proxy::Proxy;
use crate::wire::{Relay, Trouble};
use gnomon_cluster::clients::MetaClient;
use gnomon_cluster::layers::{CallMetrics, ChannelOptions};
use gnomon_cluster::meta::{Beginning, Reshard, reshard};
use gnomon_model::{ManualClock, SystemClock, TimestampMs};
use gnomon_proto::service::MetaService;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const HTTP: u16 = 9090;
/// Where a node listens, and where others reach it: at the relay before it.
const OWN: u16 = 9095;
const GRPC: u16 = 9096;
/// What an ingester's disk has.
const ROOM: u64 = 2 << 30;

const RESTARTING: &str = "restarting";

/// A host and its process, if it runs.
pub(crate) struct Member {
    pub(crate) host: usize,
    pub(crate) role: &'static str,
    pub(crate) http: Http,
    pub(crate) process: Option<Process>,
    /// An ingester's data folder, where FUSE can be used. It goes after its process.
    pub(crate) disk: Option<Disk>,
    pub(crate) relay: Relay,
    /// What its clock is read from.
    pub(crate) clock: PathBuf,
    /// It was drained, and does not come back.
    pub(crate) is_gone: bool,
    folder: PathBuf,
}

/// What all processes have in common.
pub(crate) struct Surroundings {
    pub(crate) net: Net,
    pub(crate) clocks: Clocks,
    pub(crate) store: Store,
    pub(crate) folder: PathBuf,
    pub(crate) seed: u64,
}

pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) net: Net,
    pub(crate) clocks: Clocks,
    pub(crate) store: Store,
    pub(crate) incidents: Arc<Incidents>,
    /// Flags of all processes besides.
    flags: Vec<String>,
    folder: PathBuf,
    seed: u64,
    peers: String,
    expect: usize,
}

impl Cluster {
    /// Ingesters first, then the others; returns when all are ready.
    pub(crate) async fn start(around: Surroundings, config: &str, roles: &[&'static str], flags: &[&str]) -> Self {
        let Surroundings {
            net,
            clocks,
            store,
            folder,
            seed,
        } = around;
        let ingesters = roles.iter().filter(|role| **role == "ingester").count();
        let peers: Vec<_> = (0..ingesters)
            .map(|host| format!("{}:{GRPC}", net.address(host)))
            .collect();
        std::fs::write(folder.join("prometheus.yml"), config).expect("configuration");
        let mut cluster = Self {
            members: Vec::new(),
            net,
            clocks,
            store,
            incidents: Arc::default(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            folder,
            seed,
            peers: peers.join(","),
            expect: ingesters,
        };
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
        let folder = self.folder.join(format!("{role}-{host}"));
        let data = folder.join("data");
        let disk = (role == "ingester").then(|| Disk::mount(&data, ROOM)).flatten();
        std::fs::create_dir_all(&folder).expect("folder");
        self.members.push(Member {
            host,
            role,
            http: Http::new(&format!("http://{}:{HTTP}", self.net.address(host))),
            process: None,
            disk,
            relay: Relay::start(&self.net, host, &folder, GRPC, OWN, self.seed),
            clock: folder.join("clock"),
            is_gone: false,
            folder,
        });
        self.launch(host);
        host
    }

    pub(crate) fn launch(&mut self, at: usize) {
        let member = &mut self.members[at];
        let mut command = self.net.on(member.host);
        self.clocks.run_by(&mut command, &member.clock);
        command
            .arg(binary())
            .arg(format!("--target={}", member.role))
            .arg(format!(
                "--config.file={}",
                self.folder.join("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", member.folder.join("data").display()))
            .arg(format!("--storage.object-store={}", self.store.url))
            .arg(format!("--web.listen-address=0.0.0.0:{HTTP}"))
            .arg(format!("--cluster.listen-address=0.0.0.0:{OWN}"))
            .arg(format!(
                "--cluster.advertise-address={}:{GRPC}",
                self.net.address(member.host)
            ))
            .arg(format!("--cluster.peers={}", self.peers))
            .arg(format!("--cluster.expect={}", self.expect))
            .args([
                "--ingest.shards=4",
                "--ingest.seal-quiet=500ms",
                "--query.small-block-size=0",
                "--ingest.flush-bytes=256KiB",
            ])
            // Shorter than the nemesis lets a process stand still.
            .args([
                "--compactor.interval=2s",
                "--compactor.lease=15s",
                "--compactor.grace=10s",
            ])
            .arg("--web.enable-remote-write-receiver")
            .args([
                "--web.enable-lifecycle",
                "--web.enable-admin-api",
                "--log.format=logfmt",
            ])
            .args(&self.flags)
            .envs(self.store.environment.iter().map(|(name, value)| (name, value)));
        let name = format!("{} {at}", member.role);
        member.process = Some(Process::start(&name, &mut command, member.folder.join("log")));
    }

    pub(crate) async fn until_ready(&self, at: usize) {
        let member = &self.members[at];
        let what = format!("{} {at} to be ready", member.role);
        eventually(&what, async || member.http.is_ready().await.then_some(())).await;
    }

    /// Those that are not gone for good.
    pub(crate) fn of(&self, role: &str) -> Vec<usize> {
        let all = self.members.iter().enumerate();
        all.filter(|(_, m)| m.role == role && !m.is_gone)
            .map(|(at, _)| at)
            .collect()
    }

    pub(crate) fn https(&self, role: &str) -> Vec<Http> {
        let all = self.of(role);
        all.into_iter().map(|at| self.members[at].http.clone()).collect()
    }

    pub(crate) fn process(&self, at: usize) -> &Process {
        self.members[at].process.as_ref().expect("it runs")
    }

    /// Something goes wrong at a member: reads may fail by it until all is in order.
    fn note(&self, at: usize, what: &'static str) {
        match self.members[at].role {
            "querier" => self.incidents.begin(Place::Querier(at), what),
            "ingester" => self.incidents.begin(Place::Shards, what),
            // What ends in good order hands on what it has.
            "scraper" if what != RESTARTING => self.incidents.begin(Place::Scrapers, what),
            _ => {}
        }
    }

    pub(crate) fn kill(&mut self, at: usize) {
        self.note(at, "killed");
        if let Some(mut process) = self.members[at].process.take() {
            process.kill();
            self.clocks.forget(process.id());
        }
    }

    /// It stands still, until it is resumed.
    pub(crate) fn pause(&self, at: usize) {
        self.note(at, "stopped");
        self.process(at).signal("-STOP");
    }

    pub(crate) fn resume(&self, at: usize) {
        self.process(at).signal("-CONT");
    }

    /// Nobody reaches its host, and it reaches nobody.
    pub(crate) fn cut(&self, at: usize) {
        self.note(at, "cut off");
        self.net.cut(at);
    }

    /// What `from` sends to `to` is lost.
    pub(crate) fn lose(&self, from: usize, to: usize) {
        for at in [from, to] {
            self.note(at, "packets lost");
        }
        self.net.lose(from, to);
    }

    pub(crate) fn disturb_wire(&self, at: usize, trouble: Trouble) {
        self.note(at, "bad connections");
        self.members[at].relay.make(trouble);
    }

    /// Its clock is so far from the cluster's.
    pub(crate) fn set_clock(&self, at: usize, off_s: i64) {
        if off_s != 0 {
            self.note(at, "wrong clock");
        }
        self.clocks.set(&self.members[at].clock, off_s);
    }

    /// So many bytes are left on its disk. Whether that is possible here.
    pub(crate) fn fill_disk(&self, at: usize, left_bytes: u64) -> bool {
        let Some(disk) = &self.members[at].disk else {
            return false;
        };
        self.note(at, "full disk");
        disk.set_capacity(disk.used_bytes() + left_bytes);
        true
    }

    /// A sync of its disk takes so long. Whether that is possible here.
    pub(crate) fn slow_disk(&self, at: usize, takes: Duration) -> bool {
        let Some(disk) = &self.members[at].disk else {
            return false;
        };
        self.note(at, "slow disk");
        disk.set_sync_takes(takes);
        true
    }

    /// What makes the object store go wrong; none where that is not possible here.
    pub(crate) fn disturb_store(&self) -> Option<&Proxy> {
        let proxy = self.store.proxy.as_ref()?;
        self.incidents.begin(Place::Store, "store");
        Some(proxy)
    }

    /// It ends in good order.
    pub(crate) async fn end(&mut self, at: usize) {
        self.note(at, RESTARTING);
        if let Some(mut process) = self.members[at].process.take() {
            process.signal("-TERM");
            // It may stand still.
            process.signal("-CONT");
            process.ended().await;
            self.clocks.forget(process.id());
        }
    }

    /// As an operator restarts a node.
    pub(crate) async fn restart(&mut self, at: usize) {
        self.end(at).await;
        self.launch(at);
        self.until_ready(at).await;
    }

    /// All networks, disks and clocks are in order, and whoever stands still goes on.
    pub(crate) fn ease(&self) {
        self.net.heal();
        self.store.heal();
        for (at, member) in self.members.iter().enumerate().filter(|(_, member)| !member.is_gone) {
            if let Some(disk) = &member.disk {
                disk.set_capacity(ROOM);
                disk.set_sync_takes(Duration::ZERO);
            }
            member.relay.make(Trouble::default());
            if self.clocks.can_be_set() {
                self.set_clock(at, 0);
            }
            if let Some(process) = &member.process {
                process.signal("-CONT");
            }
        }
    }

    /// The same, and all processes run and are ready.
    pub(crate) async fn heal(&mut self) {
        self.ease();
        let all: Vec<usize> = (0..self.members.len())
            .filter(|at| !self.members[*at].is_gone)
            .collect();
        for at in &all {
            if self.members[*at].process.is_none() {
                self.launch(*at);
            }
        }
        for at in &all {
            self.until_ready(*at).await;
        }
        self.incidents.end_all();
    }

    /// `data` of an answer about the cluster, from whoever can give it soon.
    pub(crate) async fn told(&self, what: &str) -> Option<Value> {
        for at in self.of("querier").into_iter().chain(self.of("ingester")) {
            let http = &self.members[at].http;
            let asked = async {
                let url = http.url(&format!("/api/v1/cluster/{what}"));
                let text = http.client().get(url).send().await.ok()?.text().await.ok()?;
                serde_json::from_str::<Value>(&text).ok()
            };
            if let Ok(Some(mut shown)) = tokio::time::timeout(Duration::from_secs(3), asked).await {
                return Some(shown["data"].take());
            }
        }
        None
    }

    /// How many range queries queriers found something of in the result cache, since they started.
    pub(crate) async fn kept_results(&self) -> u64 {
        let mut kept = 0;
        for http in self.https("querier") {
            let (_, text) = http.get("/metrics").await;
            let lines = text.lines().filter_map(|line| {
                let (labels, count) = line
                    .strip_prefix("gnomon_result_cache_lookups_total")?
                    .rsplit_once(' ')?;
                (!labels.contains("none")).then(|| count.parse::<u64>().ok())?
            });
            kept += lines.sum::<u64>();
        }
        kept
    }

    /// The ingester that leads a shard, as the cluster says itself.
    pub(crate) async fn leader(&self, shard: usize) -> Option<usize> {
        self.member(self.told("shards").await?["shards"][shard]["leader"].as_u64()?)
            .await
    }

    /// The ingester that leads the metadata group.
    pub(crate) async fn metadata_leader(&self) -> Option<usize> {
        self.member(self.told("shards").await?["metadata"]["leader"].as_u64()?)
            .await
    }

    /// What the cluster knows by a number.
    async fn member(&self, id: u64) -> Option<usize> {
        let nodes = self.told("nodes").await?;
        let mut nodes = nodes["nodes"].as_array()?.iter();
        let address = nodes.find(|n| n["id"] == id)?["address"].as_str()?.to_owned();
        (0..self.members.len()).find(|at| address == format!("{}:{GRPC}", self.net.address(*at)))
    }

    /// The number that the cluster knows a member by.
    pub(crate) async fn number(&self, at: usize) -> Option<u64> {
        let address = format!("{}:{GRPC}", self.net.address(at));
        let nodes = self.told("nodes").await?;
        let mut nodes = nodes["nodes"].as_array()?.iter();
        nodes.find(|n| n["address"] == address.as_str())?["id"].as_u64()
    }

    /// From `from_ms` on there are so many shards; nothing may have come from then on.
    pub(crate) async fn reshard(&self, shards: u32, from_ms: i64) -> Result<(), String> {
        let peers: Vec<String> = self.peers.split(',').map(str::to_owned).collect();
        let metrics = CallMetrics::register(&prometheus::Registry::new()).map_err(|e| e.to_string())?;
        let channel = ChannelOptions::default();
        let membership = channel.membership.clone();
        let client = MetaClient::new(None, &peers, channel, metrics, SystemClock::shared());
        let client = client.map_err(|e| e.to_string())?;
        let state = client.read().await.map_err(|e| e.to_string())?;
        membership.learn(state.cluster_id.parse().map_err(|_| "no cluster id")?);
        let now = ManualClock::at(TimestampMs(self.clocks.now_ms()));
        let wanted = Reshard {
            shards,
            spreads: None,
            beginning: Beginning::At(from_ms),
        };
        let done = reshard(&client, &wanted, &now).await;
        done.map(drop).map_err(|e| e.to_string())
    }

    pub(crate) async fn stop(mut self) {
        for at in (0..self.members.len()).rev() {
            self.end(at).await;
        }
    }
}
