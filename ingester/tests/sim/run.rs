//! One run: a cluster from its founding through trouble to a state where all is well again, and what must hold then.

use super::clients::{self, Sheet, newest_epoch};
use super::clock::Origin;
use super::ledger::{self, Found, Ledger, Unread};
use super::machine::{Machine, Surroundings};
use super::nemesis::Nemesis;
use super::network::SimNetwork;
use super::scrapers::Scrapers;
use super::targets::{self, Scraping, Targets};
use super::trace::Trace;
use super::watch::{Terms, by_node, newest, stand, unsettled};
use gnomon_cluster::clients::decide;
use gnomon_model::{GroupId, ShardId};
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{MetaState, SetDraining};
use object_store::memory::InMemory;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often what must always hold is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a replica is asked that cannot answer now.
const READ_TRIES: u32 = 30;
/// How long a new cluster may take until it writes, and one that is well again until all is as wished. A minute and a half
/// is what an election, catching up and two moves one after the other take together, several times over.
const WELL_WITHIN: Duration = Duration::from_secs(90);
/// How long a node counts as alive after its last sign of life; where there are scrapers, longer than the times by which they
/// hand over, as in production.
const LEASE: Duration = Duration::from_secs(3);
const SCRAPERS_LEASE: Duration = Duration::from_secs(6);
const WRITERS: usize = 3;
/// Machines with clients; those with ingesters have the numbers before.
const CLIENTS: [usize; 2] = [10, 11];

/// What came of a run.
pub(crate) struct Report {
    pub(crate) hash: u64,
    pub(crate) messages: u64,
    pub(crate) acknowledged: usize,
    pub(crate) lasted: Duration,
    pub(crate) failure: Option<String>,
    pub(crate) newest: Vec<String>,
}

struct Cluster {
    machines: Vec<Machine>,
    clients: Vec<Machine>,
    scrapers: Option<Scrapers>,
    around: Surroundings,
    terms: Terms,
}

/// Runs a seed. To be called on a thread that the seed has (`gnomon_chance`), in a paused runtime.
pub(crate) async fn run(seed: u64, is_told: bool) -> Report {
    let trace = Trace::new(is_told);
    let folder = tempfile::Builder::new()
        .prefix("gnomon-sim")
        .tempdir_in(memory_folder());
    let sheet = match &folder {
        Ok(folder) => simulate(seed, folder.path(), &trace).await,
        Err(error) => {
            trace.fail(format!("no temporary folder: {error}"));
            None
        }
    };
    let (hash, messages) = trace.sum();
    Report {
        hash,
        messages,
        acknowledged: sheet.map_or(0, |sheet| sheet.ledger.lock().acknowledged()),
        lasted: trace.elapsed(),
        failure: trace.failure(),
        newest: trace.newest(),
    }
}

/// Of the identities alone; syncing them need not wait for a disk.
fn memory_folder() -> std::path::PathBuf {
    let shared = std::path::PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

/// In one of seven seeds the number of shards changes, with a window that begins in the middle of the trouble.
fn begin(seed: u64) -> (Option<u32>, Origin) {
    if seed % 7 != 5 {
        return (None, Origin::now(None));
    }
    let mut random = StdRng::seed_from_u64(seed ^ 0x7265_7368);
    let window_after = Duration::from_millis(random.random_range(10_000..60_000));
    (Some(random.random_range(1..=4)), Origin::now(Some(window_after)))
}

/// In a quarter of the seeds there are scrapers: those that were run before there were any, and found something, are none of
/// them, and are what they were.
fn has_scrapers(seed: u64) -> bool {
    matches!(seed % 20, 8..=10 | 15 | 18)
}

async fn simulate(seed: u64, folder: &std::path::Path, trace: &Trace) -> Option<Sheet> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x0063_6c75);
    let (reshard, origin) = begin(seed);
    let network = SimNetwork::new(seed, trace.clone());
    let scraping = has_scrapers(seed).then(|| Scraping {
        targets: Targets::new(targets::how_many(&mut random), &network),
        origin,
        lease: SCRAPERS_LEASE,
    });
    let around = Surroundings {
        seed,
        network,
        trace: trace.clone(),
        bucket: Arc::new(InMemory::new()),
        folder: folder.to_owned(),
        shards: random.random_range(1..=3),
        flush_log_bytes: [2 << 10, 16 << 10, 256 << 10][random.random_range(0..3)],
        first: random.random_range(3..=4),
        reshard,
        lease: scraping.as_ref().map_or(LEASE, |scraping| scraping.lease),
        clocks_jump: scraping.is_none() || random.random_bool(0.5),
        scraping,
    };
    let (first, shards, flush) = (around.first, around.shards, around.flush_log_bytes);
    trace.event(format!(
        "{first} ingesters, {shards} shards, a flush after {flush} bytes of log"
    ));
    let mut machine =
        |place: usize, role: &str| Machine::new(place, &[role], random.random_range(-200..=200), origin, &around);
    let mut cluster = Cluster {
        machines: (0..around.first).map(|place| machine(place, "ingester")).collect(),
        clients: CLIENTS.iter().map(|place| machine(*place, "querier")).collect(),
        scrapers: around
            .scraping
            .clone()
            .map(|scraping| Scrapers::new(&around, scraping, origin)),
        around: around.clone(),
        terms: Terms::default(),
    };
    for machine in cluster.machines.iter_mut().chain(&mut cluster.clients) {
        machine.start();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
    }
    if let Some(scrapers) = &mut cluster.scrapers {
        scrapers.start_some();
    }
    cluster.until_well("the cluster is founded").await?;
    let sheet = Sheet {
        seed,
        origin,
        trace: trace.clone(),
        ledger: Arc::<Mutex<Ledger>>::default(),
        enough: CancellationToken::new(),
    };
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for (number, client) in cluster.clients.iter().enumerate() {
        let running = client.running()?;
        readers.spawn(clients::read(sheet.clone(), number, running.clone()));
        let router = match clients::router(&running.node) {
            Ok(router) => Arc::new(router),
            Err(error) => {
                trace.fail(format!("no router: {error}"));
                return None;
            }
        };
        for writer in (number..WRITERS).step_by(CLIENTS.len()) {
            writers.spawn(clients::write(sheet.clone(), writer, router.clone()));
        }
    }
    let lasting = Duration::from_secs(random.random_range(20..60));
    let with_scrapers = cluster.scrapers.is_some();
    cluster.scrape_calmly().await?;
    // With as much work for a processor as without them.
    cluster
        .suffer(if with_scrapers { lasting / 2 } else { lasting }, origin)
        .await?;
    cluster.until_well("all is well again").await?;
    cluster.scrape_calmly().await?;
    if let Some(scrapers) = &mut cluster.scrapers {
        scrapers.stop().await;
    }
    sheet.enough.cancel();
    let ended = async { while writers.join_next().await.is_some() {} };
    if tokio::time::timeout(WELL_WITHIN, ended).await.is_err() {
        trace.fail("a writer still waits for its acknowledgement");
        return None;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.until_well("all is as wished").await?;
    readers.shutdown().await;
    cluster.compare_shards(&sheet).await;
    cluster.compare_metadata().await;
    Some(sheet)
}

impl Cluster {
    fn look(&mut self) -> Option<()> {
        for machine in &mut self.machines {
            machine.start_again();
        }
        self.terms.look(&self.machines, &self.around.trace);
        if let Some(scrapers) = &mut self.scrapers {
            scrapers.look(&newest(&by_node(&self.machines)));
        }
        self.around.trace.failure().is_none().then_some(())
    }

    /// Waits until every group is as it is to be. None where something failed.
    async fn until_well(&mut self, what: &str) -> Option<()> {
        let since = Instant::now();
        loop {
            self.look()?;
            let lacks = match self.clients.iter().find(|client| client.running().is_none()) {
                Some(client) => Some(format!("client {} does not run", client.place)),
                None => unsettled(&self.machines),
            };
            let Some(lacks) = lacks else {
                self.around.trace.event(what);
                return Some(());
            };
            if since.elapsed() > WELL_WITHIN {
                self.around
                    .trace
                    .fail(format!("after {WELL_WITHIN:?}, not yet: {what}: {lacks}"));
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Scrapers come, go and die, and nothing else is wrong: every tick is accounted for. None where something failed.
    async fn scrape_calmly(&mut self) -> Option<()> {
        self.until_settled("scrapers have their targets").await?;
        let Some(scrapers) = &mut self.scrapers else {
            return Some(());
        };
        let strikes = scrapers.begin_calm();
        for _ in 0..strikes {
            let until = Instant::now() + self.scrapers.as_mut()?.calm_pause();
            while Instant::now() < until {
                tokio::time::sleep(LOOK_EVERY).await;
                self.look()?;
            }
            self.scrapers.as_mut()?.strike_calmly();
        }
        self.until_settled("scrapers have their targets again").await?;
        self.scrapers.as_mut()?.end_calm();
        Some(())
    }

    /// Waits until the ring is as it is to be, and was for a while.
    async fn until_settled(&mut self, what: &str) -> Option<()> {
        let since = Instant::now();
        while self.scrapers.as_ref().is_some_and(|scrapers| !scrapers.is_settled()) {
            if since.elapsed() > WELL_WITHIN {
                let stand = self.scrapers.as_ref().map_or_else(String::new, Scrapers::stand);
                self.around
                    .trace
                    .fail(format!("after {WELL_WITHIN:?}, not yet: {what}{stand}"));
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            self.look()?;
        }
        self.around.trace.event(what);
        Some(())
    }

    /// The nemesis, for some time; then everything is mended.
    async fn suffer(&mut self, lasting: Duration, origin: Origin) -> Option<()> {
        let scrapers = self.scrapers.iter().flat_map(Scrapers::places);
        let others = CLIENTS.into_iter().chain(scrapers).collect();
        if let Some(scrapers) = self.scrapers.as_mut().filter(|_| self.around.clocks_jump) {
            scrapers.chronicle.skewed_from_ms = origin.true_ms();
        }
        let mut nemesis = Nemesis::new(others, self.around.clone(), origin);
        let until = Instant::now() + lasting;
        let mut next = Instant::now() + nemesis.pause();
        while Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look()?;
            nemesis.mend(&mut self.machines);
            nemesis.reshard(&self.clients[0]).await;
            if let Some(scrapers) = &mut self.scrapers {
                scrapers.strike_now_and_then();
            }
            if Instant::now() >= next {
                nemesis.strike(&mut self.machines, &self.clients[0]).await;
                next = Instant::now() + nemesis.pause();
            }
        }
        nemesis.end(&mut self.machines).await;
        if let Some(scrapers) = &mut self.scrapers {
            self.machines.iter().for_each(|machine| machine.clock.jump_to(0));
            scrapers.end();
        }
        for node in nemesis.take_draining() {
            let undrain = Command::SetDraining(SetDraining { node, draining: false });
            let client = self.clients[0].running()?;
            let decided = tokio::time::timeout(WELL_WITHIN, async {
                while decide(client.node.meta.as_ref(), undrain.clone()).await.is_err() {}
            });
            if decided.await.is_err() {
                self.around.trace.fail("the metadata group decides nothing");
                return None;
            }
        }
        Some(())
    }

    /// What the replicas of all shards have: the first of each, the second, the third. None where something failed.
    async fn read_replicas(&self, sheet: &Sheet) -> Option<Vec<Found>> {
        let nodes = by_node(&self.machines);
        let state = newest(&nodes);
        let mut all: Vec<Found> = vec![Found::new(); 3];
        for shard in &state.shards {
            for (at, node) in shard.nodes.iter().enumerate() {
                let ingester = nodes
                    .iter()
                    .find(|(id, _)| id.0 == *node)
                    .and_then(|(_, running)| running.ingester.clone());
                let Some(ingester) = ingester else {
                    sheet
                        .trace
                        .fail(format!("shard {}: node {node} has no ingester", shard.shard));
                    return None;
                };
                let mut found = Found::new();
                let (shards, epoch) = (ingester.shards(), newest_epoch(&state));
                let mut tries = 0;
                let read = loop {
                    found.clear();
                    let read = ledger::read(shards.as_ref(), shard.shard, i64::MIN, epoch, true, &mut found).await;
                    tries += 1;
                    // Whoever is to lead is handed the lead to while all is well, too.
                    if tries == READ_TRIES || !matches!(read, Err(Unread::NotNow(_))) {
                        break read;
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                };
                match read {
                    Ok(()) => all[at].extend(found),
                    Err(Unread::NotNow(error)) => {
                        let group = GroupId::of_shard(ShardId(shard.shard));
                        let where_they_stand = stand(&nodes, group);
                        sheet.trace.fail(format!(
                            "group {group} cannot be read at node {node}: {error}{where_they_stand}"
                        ));
                        return None;
                    }
                    Err(Unread::Wrong(wrong)) => {
                        sheet.trace.fail(format!("node {node}: {wrong}"));
                        return None;
                    }
                }
            }
        }
        Some(all)
    }

    /// Every replica has what was acknowledged, once, and what the others have.
    async fn compare_shards(&self, sheet: &Sheet) {
        let expected = sheet.ledger.lock().expected(i64::MIN);
        let mut tries = 0;
        let all = loop {
            let Some(all) = self.read_replicas(sheet).await else {
                return;
            };
            tries += 1;
            // Targets that nobody scrapes any more get their markers meanwhile, and one replica is read after the other.
            if tries == READ_TRIES || self.scrapers.is_none() || all.iter().all(|found| found == &all[0]) {
                break all;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        for (at, found) in all.iter().enumerate() {
            if let Some(wrong) = sheet.ledger.lock().judge(&expected, found) {
                return sheet.trace.fail(format!("replicas {at} of all shards: {wrong}"));
            }
            if found != &all[0] {
                let mut one = all[0].iter().filter(|(key, value)| found.get(*key) != Some(*value));
                let mut other = found.iter().filter(|(key, value)| all[0].get(*key) != Some(*value));
                let (one, other) = (one.next(), other.next());
                return sheet
                    .trace
                    .fail(format!("replicas 0 and {at} of a shard differ: {one:?}, {other:?}"));
            }
        }
        if let (Some(scrapers), Some(scraping)) = (&self.scrapers, &self.around.scraping) {
            match scraping
                .targets
                .with(|targets| scrapers.chronicle.judge(targets, &all[0]))
            {
                Ok(seen) => sheet.trace.event(format!("{seen:?}")),
                Err(wrong) => return sheet.trace.fail(wrong),
            }
        }
        let (samples, acknowledged) = (all[0].len(), expected.len());
        sheet.trace.event(format!(
            "{samples} samples on three replicas, {acknowledged} acknowledged"
        ));
    }

    /// Replicas of the metadata group that stand at the same revision have the same state.
    async fn compare_metadata(&self) {
        let trace = &self.around.trace;
        let mut states: Vec<(u64, Arc<MetaState>)> = Vec::new();
        let nodes = by_node(&self.machines);
        // Leases are renewed all the time: they are at one revision sooner or later.
        for _ in 0..200 {
            states.clear();
            // Who was drained may still be on its way out, or back in.
            let voters = newest(&nodes)
                .members
                .iter()
                .find(|m| m.group == GroupId::METADATA.0)
                .map(|m| m.voters.clone());
            for (node, running) in &nodes {
                let is_voter = voters.as_ref().is_some_and(|voters| voters.contains(&node.0));
                let Some(own) = running.node.ingester.as_ref().filter(|_| is_voter) else {
                    continue;
                };
                states.push((node.0, own.meta_machine.state()));
            }
            if states.len() >= 3 && states.iter().all(|(_, state)| state.revision == states[0].1.revision) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(37)).await;
        }
        let (Some((one, first)), true) = (states.first(), states.len() >= 3) else {
            return trace.fail(format!(
                "{} replicas of the metadata group show their state",
                states.len()
            ));
        };
        for (node, state) in &states {
            if state.revision != first.revision {
                return trace.fail(format!(
                    "nodes {one} and {node} come to no common revision of the metadata"
                ));
            }
            if state != first {
                return trace.fail(format!(
                    "nodes {one} and {node} differ in revision {} of the metadata",
                    state.revision
                ));
            }
        }
        trace.event(format!("{} replicas of the metadata group are equal", states.len()));
    }
}
