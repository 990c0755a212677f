//! Three nodes in one process, as replicas of the same shards: three data folders, gRPC on loopback, each started
//! through the function that the binary starts through.

#[path = "three_nodes/blocks.rs"]
mod blocks;
mod harness;
#[path = "three_nodes/moves.rs"]
mod moves;
#[path = "three_nodes/reads.rs"]
mod reads;
#[path = "three_nodes/recovery.rs"]
mod recovery;

use gnomon::flags::{self, Command, Settings};
use gnomon::lifecycle::Lifecycle;
use gnomon::run::Node;
use gnomon_cluster::meta::{Beginning, Reshard, reshard};
use gnomon_cluster::placement::EPOCH_STEP_MS;
use gnomon_cluster::raft::{Group, GroupStatus};
use gnomon_model::{GroupId, NodeId, ShardId, SystemClock};
use harness::{Http, client, eventually, free_port, remote};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

const SHARDS: u32 = 2;
const NODES: usize = 3;
/// Small, so that a follower that is away for a while needs a snapshot.
const FLUSH_LOG_BYTES: u64 = 32 << 10;

/// Where a node is, whether or not it runs.
#[derive(Clone)]
struct Place {
    folder: PathBuf,
    bucket: PathBuf,
    http: u16,
    grpc: u16,
    peers: String,
    /// Besides those that all have.
    flags: Vec<String>,
}

/// A node that runs, on threads of its own.
struct Running {
    place: Place,
    id: NodeId,
    node: Node,
    threads: Threads,
    http: Http,
}

/// A runtime that may go out of scope within another.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Self {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        Self(Some(threads.expect("threads")))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("not ended yet")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

fn places(folder: &Path) -> Vec<Place> {
    let ports: Vec<_> = (0..NODES).map(|_| (free_port(), free_port())).collect();
    let peers: Vec<_> = ports.iter().map(|(_, grpc)| format!("127.0.0.1:{grpc}")).collect();
    let place = |(i, (http, grpc)): (usize, &(u16, u16))| Place {
        folder: folder.join(format!("node{i}")),
        bucket: folder.join("bucket"),
        http: *http,
        grpc: *grpc,
        peers: peers.join(","),
        flags: Vec::new(),
    };
    ports.iter().enumerate().map(place).collect()
}

fn settings(place: &Place) -> (Settings, BTreeMap<String, String>) {
    std::fs::create_dir_all(&place.folder).expect("folder");
    let config = place.folder.join("prometheus.yml");
    std::fs::write(&config, "").expect("configuration");
    let mut args = vec![
        "gnomon".to_owned(),
        "--target=ingester,querier".to_owned(),
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", place.folder.join("data").display()),
        format!("--storage.object-store=file://{}", place.bucket.display()),
        format!("--web.listen-address=127.0.0.1:{}", place.http),
        format!("--cluster.listen-address=127.0.0.1:{}", place.grpc),
        format!("--cluster.peers={}", place.peers),
        format!("--ingest.shards={SHARDS}"),
        format!("--cluster.expect={NODES}"),
        // Tests say who leads.
        "--cluster.prefer-after=1h".to_owned(),
        "--web.enable-remote-write-receiver".to_owned(),
        "--web.enable-admin-api".to_owned(),
    ];
    args.extend(place.flags.iter().cloned());
    let parsed = flags::parse(args).expect("flags");
    let Command::Run(mut settings) = parsed.command else {
        panic!("not a command to run");
    };
    settings.flush_bytes = FLUSH_LOG_BYTES;
    (*settings, parsed.values)
}

impl Running {
    async fn start(place: Place) -> Self {
        let threads = Threads::start();
        let (settings, values) = settings(&place);
        let (lifecycle, wishes) = Lifecycle::new(false);
        let starting = Node::start(settings, values, lifecycle, wishes);
        let started = threads.runtime().spawn(starting).await;
        let node = started.expect("no panic").expect("a node");
        Self {
            id: node.handle().node_id,
            http: Http::new(&format!("http://127.0.0.1:{}", place.http)),
            place,
            node,
            threads,
        }
    }

    fn group(&self, id: GroupId) -> Option<Group> {
        self.node.handle().ingester.as_ref()?.host.group(id)
    }

    fn shard(&self, shard: u32) -> Group {
        self.group(GroupId::of_shard(ShardId(shard)))
            .expect("the shard is open")
    }

    fn status(&self, shard: u32) -> GroupStatus {
        self.shard(shard).status()
    }

    /// Ends all its threads at once: connections are cut, nothing is said, flushed or handed over.
    async fn kill(self) -> Place {
        let Self {
            mut threads,
            node,
            place,
            ..
        } = self;
        let threads = threads.0.take().expect("not ended yet");
        let ended = tokio::task::spawn_blocking(move || threads.shutdown_timeout(harness::PATIENCE));
        ended.await.expect("its threads have ended");
        // A process would let go of its folder by that.
        if let Some(ingester) = &node.handle().ingester {
            ingester.host.shutdown().await;
        }
        place
    }

    async fn stop(self) {
        let Self { threads, node, .. } = self;
        threads.runtime().spawn(node.stop()).await.expect("stopped");
    }
}

/// Three nodes that have found one another, each with a replica of every shard.
async fn replicas(folder: &Path) -> Vec<Running> {
    replicas_at(places(folder)).await
}

async fn replicas_at(places: Vec<Place>) -> Vec<Running> {
    // None is ready before all are there.
    let nodes = futures::future::join_all(places.into_iter().map(Running::start)).await;
    let groups = (0..SHARDS).map(|shard| GroupId::of_shard(ShardId(shard)));
    for id in std::iter::once(GroupId::METADATA).chain(groups) {
        eventually("all to vote in every group", async || {
            nodes.iter().all(|node| voters(node, id).len() == NODES).then_some(())
        })
        .await;
    }
    nodes
}

fn voters(node: &Running, group: GroupId) -> Vec<NodeId> {
    node.group(group).map(|group| group.status().voters).unwrap_or_default()
}

/// What was acknowledged: value by series and time.
#[derive(Default)]
struct Ledger {
    samples: BTreeMap<(usize, i64), f64>,
    next: i64,
    base_ms: i64,
}

const SERIES: usize = 20;
const SAMPLES: i64 = 10;

impl Ledger {
    fn new() -> Self {
        let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
        Self {
            base_ms: now_ms - 20 * 60_000,
            ..Self::default()
        }
    }

    /// Sends some samples of every series until they are acknowledged, as a sender would.
    async fn write(&mut self, http: &Http) {
        let times: Vec<_> = (self.next..self.next + SAMPLES)
            .map(|i| self.base_ms + i * 10)
            .collect();
        self.next += SAMPLES;
        let value = |series: usize, at: i64| (at * 7919 + series as i64 * 104_729) as f64 / 3.0;
        let series = (0..SERIES).map(|i| {
            let n = format!("n{i}");
            let labels = [("__name__", "ledger"), ("instance", n.as_str()), ("job", "j")];
            let samples: Vec<_> = times.iter().map(|at| (*at, value(i, *at))).collect();
            remote::time_series(&labels, &samples)
        });
        let body = remote::body(series.collect());
        remote::send_until_taken(http, &body).await;
        let all = (0..SERIES).flat_map(|i| times.iter().map(move |at| ((i, *at), value(i, *at))));
        self.samples.extend(all);
    }

    /// Everything is there, once, and nothing else.
    async fn check(&self, http: &Http) {
        let end = (self.base_ms + self.next * 10) as f64 / 1000.0;
        let path = format!("/api/v1/query?query={}&time={end}", client::encode("ledger[1h]"));
        let found = eventually("a whole answer", async || {
            let (code, text) = http.get(&path).await;
            let whole = code == 200 && !text.contains("\"warnings\"");
            whole.then(|| serde_json::from_str::<serde_json::Value>(&text).expect("JSON"))
        })
        .await;
        let mut read = BTreeMap::new();
        for row in found["data"]["result"].as_array().expect("rows") {
            let n: usize = row["metric"]["instance"].as_str().expect("a label")[1..]
                .parse()
                .expect("a number");
            for pair in row["values"].as_array().expect("values") {
                let at = (pair[0].as_f64().expect("a time") * 1000.0).round() as i64;
                let value: f64 = pair[1].as_str().expect("a value").parse().expect("a number");
                assert!(read.insert((n, at), value).is_none(), "twice: {n} at {at}");
            }
        }
        let lost: BTreeSet<_> = self.samples.keys().filter(|key| !read.contains_key(*key)).collect();
        assert!(
            lost.is_empty(),
            "{} of {} lost: {lost:?}",
            lost.len(),
            self.samples.len()
        );
        assert_eq!(read, self.samples);
    }
}

async fn leader(nodes: &[Running], shard: u32) -> usize {
    eventually("a leader", async || {
        nodes.iter().position(|node| node.shard(shard).is_leader())
    })
    .await
}

/// Makes a node the leader of all shards, so that it is its own head that is read.
async fn let_lead(nodes: &[Running], id: NodeId) {
    for shard in 0..SHARDS {
        eventually("leadership to move", async || {
            let at = leader(nodes, shard).await;
            if nodes[at].id == id {
                return Some(());
            }
            nodes[at].shard(shard).transfer_leader(id).await.expect("asked");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            None
        })
        .await;
    }
}

async fn until_caught_up(nodes: &[Running], node: &Running) {
    for shard in 0..SHARDS {
        eventually("it to catch up", async || {
            let at = nodes.iter().position(|node| node.shard(shard).is_leader())?;
            let goal = nodes[at].status(shard).committed;
            (node.status(shard).applied >= goal).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_leader_acknowledged_is_read_from_the_others() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut nodes = replicas(folder.path()).await;
    let mut ledger = Ledger::new();
    // Through the leader, and through one that is not.
    for node in [0, 1, 0] {
        ledger.write(&nodes[node].http).await;
    }
    ledger.check(&nodes[2].http).await;

    // The leader is gone: all is read from who takes over, and writing goes on.
    let at = leader(&nodes, 0).await;
    let first = nodes[at].id;
    let place = nodes.remove(at).kill().await;
    for node in &nodes {
        ledger.check(&node.http).await;
    }
    ledger.write(&nodes[0].http).await;
    ledger.write(&nodes[1].http).await;
    ledger.check(&nodes[1].http).await;

    // It comes back, catches up through the log, and leads again.
    nodes.push(Running::start(place).await);
    until_caught_up(&nodes, &nodes[2]).await;
    assert_eq!(nodes[2].id, first);
    let_lead(&nodes, first).await;
    ledger.check(&nodes[2].http).await;
    assert!(received_snapshots(&nodes[2]).await < 1.0, "the log was enough");

    // Away for longer than the log is kept: a snapshot.
    let away = nodes.remove(0);
    let (id, had): (_, Vec<_>) = (away.id, (0..SHARDS).map(|shard| away.status(shard).last_log).collect());
    let place = away.kill().await;
    eventually("the log to be purged beyond what it has", async || {
        ledger.write(&nodes[0].http).await;
        for shard in 0..SHARDS {
            let at = leader(&nodes, shard).await;
            (nodes[at].status(shard).purged > had[shard as usize]).then_some(())?;
        }
        Some(())
    })
    .await;
    nodes.push(Running::start(place).await);
    until_caught_up(&nodes, &nodes[2]).await;
    eventually("the snapshots to be counted", async || {
        (received_snapshots(&nodes[2]).await >= f64::from(SHARDS)).then_some(())
    })
    .await;
    ledger.write(&nodes[2].http).await;
    let_lead(&nodes, id).await;
    ledger.check(&nodes[2].http).await;
    for node in nodes {
        node.stop().await;
    }
}

impl Ledger {
    fn times(&self, first: i64, last: i64) -> (i64, i64) {
        (self.base_ms + first * 10, self.base_ms + last * 10)
    }

    /// What of a series lies in a range is gone.
    fn deleted(&mut self, series: usize, (from_ms, to_ms): (i64, i64)) {
        self.samples
            .retain(|(n, at), _| *n != series || !(from_ms..=to_ms).contains(at));
    }
}

/// Asks for a delete; the status, or none where the connection ended.
async fn delete(http: &Http, series: usize, (from_ms, to_ms): (i64, i64)) -> Option<u16> {
    let path = format!(
        "/api/v1/admin/tsdb/delete_series?match[]={}&start={}&end={}",
        client::encode(&format!("ledger{{instance=\"n{series}\"}}")),
        from_ms as f64 / 1e3,
        to_ms as f64 / 1e3
    );
    let answer = http.client().post(http.url(&path)).send().await;
    answer.ok().map(|answer| answer.status().as_u16())
}

/// A delete that was recorded is carried out by whoever leads then, and all replicas hide the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_is_carried_out_whoever_leads() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut nodes = replicas(folder.path()).await;
    let mut ledger = Ledger::new();
    for _ in 0..3 {
        ledger.write(&nodes[0].http).await;
    }
    // Through a node that does not lead.
    let range = ledger.times(0, 9);
    assert_eq!(delete(&nodes[1].http, 3, range).await, Some(204));
    ledger.deleted(3, range);
    ledger.check(&nodes[2].http).await;

    // The leader of everything is killed while another node waits for the answer.
    let at = leader(&nodes, 0).await;
    let asked = (at + 1) % NODES;
    let range = ledger.times(5, 24);
    let http = nodes[asked].http.clone();
    let asking = tokio::spawn(async move { delete(&http, 4, range).await });
    let tombstones = async |node: &Running| node.node.handle().meta_watch.borrow().tombstones.len();
    eventually("the delete to be recorded", async || {
        (tombstones(&nodes[asked]).await == 2).then_some(())
    })
    .await;
    let id = nodes[asked].id;
    let place = nodes.remove(at).kill().await;
    let answer = asking.await.expect("no panic");
    println!("the delete was answered with {answer:?}");
    // Whatever was answered: it is recorded, and comes into the logs of all shards.
    let own = nodes.iter().position(|node| node.id == id).expect("it runs");
    eventually("no shard to wait for it", async || {
        let state = nodes[own].node.handle().meta_watch.borrow().clone();
        state
            .tombstones
            .iter()
            .all(|t| t.pending_shards.is_empty())
            .then_some(())
    })
    .await;
    ledger.deleted(4, range);
    ledger.write(&nodes[own].http).await;
    for node in &nodes {
        ledger.check(&node.http).await;
    }
    // Each of the three reads its own head, the one that was away too.
    nodes.push(Running::start(place).await);
    until_caught_up(&nodes, &nodes[2]).await;
    for node in 0..NODES {
        let id = nodes[node].id;
        let_lead(&nodes, id).await;
        ledger.check(&nodes[node].http).await;
    }
    for node in nodes {
        node.stop().await;
    }
}

async fn received_snapshots(node: &Running) -> f64 {
    let (_, metrics) = node.http.get("/metrics").await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("gnomon_raft_snapshots_received_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(-1.0)
}

/// More shards on a cluster that is written and read, and loses a node meanwhile: what was acknowledged is there once,
/// from whichever node, and new shards have as many replicas as the old ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_shards_changes_while_a_node_is_lost() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut nodes = replicas(folder.path()).await;
    // It begins with a window that is over, so that samples of both sides can be written now; none is there yet.
    let mut ledger = Ledger::new();
    let from_ms = (ledger.base_ms / EPOCH_STEP_MS - 1) * EPOCH_STEP_MS;
    ledger.base_ms = from_ms - 250;
    for node in [0, 1] {
        ledger.write(&nodes[node].http).await;
    }
    let wanted = Reshard {
        beginning: Beginning::At(from_ms),
        ..Reshard::to(5)
    };
    let asked = nodes[1].node.handle().meta.clone();
    reshard(asked.as_ref(), &wanted, &SystemClock::new())
        .await
        .expect("announced");
    // Not the leader of the old shards and of the metadata: the new ones may have theirs there.
    let lost = nodes.pop().expect("three");
    let id = lost.id;
    let place = lost.kill().await;
    let in_force = async |node: &Running| {
        let state = node.node.handle().meta_watch.borrow().clone();
        (state.epoch_change.is_none() && state.epochs.len() == 2).then_some(state)
    };
    let state = eventually("the epoch to be in force", async || in_force(&nodes[0]).await).await;
    assert_eq!((state.epochs[1].from_ms, state.epochs[1].shards.len()), (from_ms, 5));
    for shard in &state.epochs[1].shards {
        let replicas = state.shards.iter().find(|r| r.shard == *shard).expect("placed");
        assert_eq!(replicas.nodes.len(), NODES, "shard {shard}");
    }
    // One batch has samples of both epochs.
    for node in [1, 0, 1] {
        ledger.write(&nodes[node].http).await;
    }
    for node in &nodes {
        ledger.check(&node.http).await;
    }
    nodes.push(Running::start(place).await);
    ledger.write(&nodes[2].http).await;
    ledger.check(&nodes[2].http).await;
    // Who leads the old shards is gone: what is on either side is read from the others.
    for shard in &state.epochs[1].shards {
        eventually("its replica to be there", async || {
            nodes[2].group(GroupId::of_shard(ShardId(*shard)))
        })
        .await;
        until_it_has_all(&nodes, id, *shard).await;
    }
    until_caught_up(&nodes, &nodes[2]).await;
    let first = nodes.remove(0).kill().await;
    for node in &nodes {
        ledger.check(&node.http).await;
    }
    ledger.write(&nodes[0].http).await;
    nodes.push(Running::start(first).await);
    ledger.check(&nodes[2].http).await;
    for node in nodes {
        node.stop().await;
    }
}

async fn until_it_has_all(nodes: &[Running], id: NodeId, shard: u32) {
    eventually("it to catch up", async || {
        let at = nodes.iter().position(|node| node.shard(shard).is_leader())?;
        let own = nodes.iter().find(|node| node.id == id)?;
        (own.status(shard).applied >= nodes[at].status(shard).committed).then_some(())
    })
    .await;
}
