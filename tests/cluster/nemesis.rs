//! What goes wrong: one thing after another, and sometimes several at once, as a seed says.

#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/many.rs"]
mod many;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/process.rs"]
mod process;
#[path = "faults/scraper.rs"]
mod scraper;
#[path = "faults/shape.rs"]
mod shape;
#[path = "faults/store.rs"]
mod store;
#[path = "faults/wire.rs"]
mod wire;

use crate::ledger::{Ledger, Report, Stall};
use crate::members::Cluster;
use crate::targets::Targets;
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillIngester,
    KillLeader,
    KillQuerier,
    KillCompactor,
    KillAllIngesters,
    KillAtQuery,
    StopIngester,
    StopLeader,
    StopQuerier,
    StopAtQuery,
    StopCompactor,
    StopAtCommit,
    Outlast,
    CutIngester,
    CutLeader,
    CutQuerier,
    LoseOneWay,
    LoseBothWays,
    RestartOne,
    RestartAll,
    KillTwoCutOne,
    KillScraper,
    StopScraper,
    CutScraper,
    ClockOfIngester,
    ClockOfOther,
    ClockOfScraper,
    PowerOfOne,
    PowerOfAll,
    DiskFull,
    DiskSlow,
    StoreFails,
    StoreSlow,
    StoreAway,
    WireSlow,
    WireStalls,
    WireEnds,
    Scale,
    Reshard,
    Many,
}

/// Each with the word by which `GNOMON_NEMESIS_ONLY` names its kind, and whether it is over soon.
const FAULTS: [(Fault, &str, bool); 40] = [
    (Fault::KillIngester, "kill", true),
    (Fault::KillLeader, "kill", true),
    (Fault::KillQuerier, "kill", true),
    (Fault::KillCompactor, "kill", true),
    (Fault::KillAllIngesters, "kill", true),
    (Fault::KillAtQuery, "kill", true),
    (Fault::StopIngester, "stop", true),
    (Fault::StopLeader, "stop", false),
    (Fault::StopQuerier, "stop", true),
    (Fault::StopAtQuery, "stop", true),
    (Fault::StopCompactor, "compactor", false),
    (Fault::StopAtCommit, "compactor", false),
    (Fault::Outlast, OUTLAST, false),
    (Fault::CutIngester, "cut", true),
    (Fault::CutLeader, "cut", true),
    (Fault::CutQuerier, "cut", true),
    (Fault::LoseOneWay, "cut", true),
    (Fault::LoseBothWays, "cut", true),
    (Fault::RestartOne, "restart", true),
    (Fault::RestartAll, "restart", false),
    (Fault::KillTwoCutOne, "many", true),
    (Fault::KillScraper, "scraper", false),
    (Fault::StopScraper, "scraper", true),
    (Fault::CutScraper, "scraper", true),
    (Fault::ClockOfIngester, "clock", true),
    (Fault::ClockOfOther, "clock", true),
    (Fault::ClockOfScraper, "clock", true),
    (Fault::PowerOfOne, "power", true),
    (Fault::PowerOfAll, "power", true),
    (Fault::DiskFull, "disk", true),
    (Fault::DiskSlow, "disk", true),
    (Fault::StoreFails, "store", true),
    (Fault::StoreSlow, "store", true),
    (Fault::StoreAway, "store", true),
    (Fault::WireSlow, "wire", true),
    (Fault::WireStalls, "wire", true),
    (Fault::WireEnds, "wire", true),
    (Fault::Scale, "scale", false),
    (Fault::Reshard, "reshard", true),
    (Fault::Many, "many", true),
];

impl Fault {
    fn kind(self) -> &'static str {
        let known = FAULTS.iter().find(|(fault, ..)| *fault == self);
        known.expect("it is one of them").1
    }
}

/// The kind that needs a cluster which replaces a silent node soon.
pub(crate) const OUTLAST: &str = "replaced";
/// What a step begins with that could not be made here and now.
const NOTHING: &str = "nothing: ";
/// So often something stays wrong when a step ends, until the next one ends.
const STAYS: f64 = 0.3;

/// Whether the number of shards was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reshard {
    NotYet,
    /// And not taken.
    Asked,
    Taken,
}

/// What waits for something within a time, of a cluster that is in order otherwise.
const NEED_ORDER: [Fault; 8] = [
    Fault::StopAtCommit,
    Fault::Outlast,
    Fault::RestartAll,
    Fault::KillScraper,
    Fault::ClockOfIngester,
    Fault::ClockOfScraper,
    Fault::Scale,
    Fault::Reshard,
];
/// What may take minutes.
const TAKE_LONG: [Fault; 3] = [Fault::Outlast, Fault::RestartAll, Fault::Scale];

/// What a cluster of three cannot write through, or what comes with other things.
const SEVERAL: [Fault; 6] = [
    Fault::KillAllIngesters,
    Fault::PowerOfAll,
    Fault::KillTwoCutOne,
    Fault::Many,
    Fault::Scale,
    Fault::Reshard,
];
const OF_SEVERAL: &str = "several, or no majority";

/// What writers and readers saw while something of a kind was wrong.
#[derive(Default)]
struct OfKind<'a> {
    steps: u64,
    longest: Option<&'a Stall>,
    /// Reads that failed or were partial.
    short: u64,
}

pub(crate) struct Nemesis {
    /// From when on something of which kind was wrong, in order.
    times: Vec<(Instant, &'static str)>,
    /// Steps of each kind, those of each fault, and those in which nothing could be done.
    steps: BTreeMap<&'static str, u64>,
    made: BTreeMap<String, u64>,
    void: u64,
    rng: StdRng,
    /// What it chooses from.
    faults: Vec<Fault>,
    /// Faults that last as long as leases do are among them.
    has_time: bool,
    ledger: Arc<Ledger>,
    targets: Arc<Targets>,
    reshard: Reshard,
    /// How often the cluster grew and shrank.
    scaled: u32,
    /// Something is wrong that the step before has begun.
    is_troubled: bool,
}

impl Nemesis {
    /// `only` names kinds of faults; none are all. Only where the cluster `replaces` nodes can one outlast that.
    pub(crate) fn new(
        rng: StdRng,
        has_time: bool,
        only: Option<&str>,
        replaces: bool,
        ledger: &Arc<Ledger>,
        targets: &Arc<Targets>,
    ) -> Self {
        let kinds: Vec<&str> = only.into_iter().flat_map(|only| only.split(',')).collect();
        let known = |kind: &&&str| FAULTS.iter().any(|(_, of, _)| of == *kind);
        if let Some(unknown) = kinds.iter().find(|kind| !known(kind)) {
            panic!("GNOMON_NEMESIS_ONLY: no faults are of kind {unknown:?}");
        }
        let is_wanted = |kind: &str, is_short: bool| match kinds.is_empty() {
            true => is_short || has_time,
            false => kinds.contains(&kind),
        };
        let is_possible = |fault: Fault| replaces || fault != Fault::Outlast;
        let wanted = FAULTS
            .iter()
            .filter(|(fault, kind, is_short)| is_possible(*fault) && is_wanted(kind, *is_short));
        Self {
            times: Vec::new(),
            steps: BTreeMap::new(),
            made: BTreeMap::new(),
            void: 0,
            rng,
            faults: wanted.map(|(fault, _, _)| *fault).collect(),
            has_time,
            ledger: ledger.clone(),
            targets: targets.clone(),
            reshard: Reshard::NotYet,
            scaled: 0,
            is_troubled: false,
        }
    }

    /// Unless there is nothing else.
    fn never_again(&mut self, done: Fault) {
        if self.faults.iter().any(|fault| *fault != done) {
            self.faults.retain(|fault| *fault != done);
        }
    }

    fn one_of(&mut self, among: &[usize]) -> usize {
        among[self.rng.random_range(0..among.len())]
    }

    async fn for_a_while(&mut self, least_ms: u64, most_ms: u64) {
        let ms = self.rng.random_range(least_ms..most_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// What became of the cluster's shape.
    pub(crate) fn told(&self) -> String {
        let times = if self.scaled == 1 { "once" } else { "times" };
        let scaled = match self.scaled {
            0 => "never grew".to_owned(),
            1 => format!("grew and shrank {times}"),
            many => format!("grew and shrank {many} {times}"),
        };
        let reshard = match self.reshard {
            Reshard::NotYet => "was not asked for more shards",
            Reshard::Asked => "was asked for more shards, and did not take it",
            Reshard::Taken => "got more shards",
        };
        format!("the cluster {scaled}, and {reshard}")
    }

    /// A line for each kind of fault that was alone, and one for all that was not: the longest stall of a writer that began
    /// meanwhile, and how many reads failed or were partial.
    pub(crate) fn by_kind(&self, report: &Report) -> String {
        let of_time = |at: Instant| {
            let next = self.times.partition_point(|(began, _)| *began <= at);
            next.checked_sub(1).map(|last| self.times[last].1)
        };
        let mut kinds = BTreeMap::<&str, OfKind<'_>>::new();
        for (kind, steps) in &self.steps {
            kinds.entry(kind).or_default().steps = *steps;
        }
        for stall in &report.stalls {
            if let Some(kind) = of_time(stall.began) {
                let of = kinds.entry(kind).or_default();
                of.longest = of.longest.into_iter().chain([stall]).max_by_key(|stall| stall.lasted);
            }
        }
        for asked in &report.short {
            if let Some(kind) = of_time(*asked) {
                kinds.entry(kind).or_default().short += 1;
            }
        }
        let mut text = format!("steps: {:?}; nothing could be done in {}\n", self.made, self.void);
        for (kind, OfKind { steps, longest, short }) in kinds {
            let (lasted, attempts) = longest.map_or((Duration::ZERO, &[][..]), |stall| (stall.lasted, &stall.attempts));
            let _ = writeln!(
                text,
                "{kind}: {steps} steps, longest stall {lasted:.1?}, {short} reads failed or partial"
            );
            for attempt in attempts {
                let _ = writeln!(text, "    {}", attempt.chars().take(200).collect::<String>());
            }
        }
        text
    }

    /// More shards were asked for, and not taken.
    pub(crate) fn is_reshard_missing(&self) -> bool {
        self.reshard == Reshard::Asked
    }

    /// Makes one thing go wrong for a while, and mends it; says what it was. At times something else is wrong then, that
    /// began when the step before ended.
    pub(crate) async fn step(&mut self, cluster: &mut Cluster) -> String {
        // The window in which shards may change begins soon.
        let is_time = self.faults.contains(&Fault::Reshard) && self.reshard == Reshard::NotYet;
        let left_ms = cluster.clocks.next_window_ms() - cluster.clocks.now_ms();
        let any = self.faults[self.rng.random_range(0..self.faults.len())];
        let fault = match any {
            _ if is_time && left_ms < shape::SOON_MS => Fault::Reshard,
            // Not yet: something else until then, which is over before.
            Fault::Reshard => Fault::KillLeader,
            long if is_time && left_ms < shape::LONG_MS && TAKE_LONG.contains(&long) => Fault::KillLeader,
            any => any,
        };
        if self.is_troubled && NEED_ORDER.contains(&fault) {
            cluster.heal().await;
            self.is_troubled = false;
        }
        let kind = match self.is_troubled || SEVERAL.contains(&fault) {
            true => OF_SEVERAL,
            false => fault.kind(),
        };
        self.times.push((Instant::now(), kind));
        let on = self.make(fault, cluster).await;
        if on.starts_with(NOTHING) {
            self.void += 1;
        } else {
            *self.steps.entry(kind).or_default() += 1;
            *self.made.entry(format!("{fault:?}")).or_default() += 1;
        }
        if self.reshard != Reshard::NotYet {
            self.never_again(Fault::Reshard);
        }
        if !shape::may_grow(cluster) {
            self.never_again(Fault::Scale);
        }
        cluster.heal().await;
        self.is_troubled = self.rng.random_bool(STAYS);
        if self.is_troubled {
            self.times.push((Instant::now(), OF_SEVERAL));
        }
        match self.is_troubled {
            true => format!("{fault:?} {on}; from now on {}", self.begin_some(cluster)),
            false => format!("{fault:?} {on}"),
        }
    }

    async fn make(&mut self, fault: Fault, cluster: &mut Cluster) -> String {
        let ingesters = cluster.of("ingester");
        let ingester = self.one_of(&ingesters);
        let other = ingesters[(ingester + 1 + self.rng.random_range(0..ingesters.len() - 1)) % ingesters.len()];
        let querier = self.one_of(&cluster.of("querier"));
        let scraper = self.one_of(&cluster.of("scraper"));
        let compactors = cluster.of("compactor");
        let compactor = self.one_of(&compactors);
        let leader = cluster.leader(self.rng.random_range(0..4)).await.unwrap_or(ingester);
        match fault {
            Fault::KillIngester => self.kill(cluster, &[ingester]).await,
            Fault::KillLeader => self.kill(cluster, &[leader]).await,
            Fault::KillQuerier => self.kill(cluster, &[querier]).await,
            Fault::KillCompactor => self.kill(cluster, &[compactor]).await,
            Fault::KillAllIngesters => self.kill(cluster, &ingesters).await,
            Fault::KillAtQuery => self.kill_at_query(cluster, querier).await,
            Fault::StopIngester => self.pause(cluster, ingester).await,
            Fault::StopLeader => self.pause_leader(cluster, leader).await,
            Fault::StopQuerier => self.pause(cluster, querier).await,
            Fault::StopAtQuery => self.stop_at_query(cluster, querier).await,
            Fault::StopCompactor => self.pause_compactor(cluster, compactor).await,
            Fault::StopAtCommit => self.pause_at_commit(cluster).await,
            Fault::Outlast => self.outlast(cluster, ingester).await,
            Fault::CutIngester => self.cut(cluster, ingester).await,
            Fault::CutLeader => self.cut(cluster, leader).await,
            Fault::CutQuerier => self.cut(cluster, querier).await,
            Fault::LoseOneWay => self.lose(cluster, &[(ingester, other)]).await,
            Fault::LoseBothWays => self.lose(cluster, &[(ingester, other), (other, ingester)]).await,
            Fault::RestartOne => {
                cluster.restart(ingester).await;
                ingester.to_string()
            }
            Fault::RestartAll => self.restart_all(cluster).await,
            Fault::KillTwoCutOne => {
                cluster.cut(ingester);
                self.for_a_while(500, 2_000).await;
                let two = self.kill(cluster, &[other, querier]).await;
                format!("{ingester} cut, {two} killed")
            }
            Fault::KillScraper => self.kill_scraper(cluster, scraper).await,
            Fault::StopScraper => self.pause(cluster, scraper).await,
            Fault::CutScraper => self.cut(cluster, scraper).await,
            Fault::ClockOfIngester => self.jump(cluster, ingester).await,
            Fault::ClockOfOther => {
                let at = self.one_of(&[querier, compactor]);
                self.jump(cluster, at).await
            }
            Fault::ClockOfScraper => self.jump(cluster, scraper).await,
            Fault::PowerOfOne => self.cut_power(cluster, &[ingester]).await,
            Fault::PowerOfAll => self.cut_power(cluster, &ingesters).await,
            Fault::DiskFull => self.fill_disk(cluster, ingester).await,
            Fault::DiskSlow => self.slow_disk(cluster, ingester).await,
            Fault::StoreFails => self.store_fails(cluster).await,
            Fault::StoreSlow => self.store_slow(cluster).await,
            Fault::StoreAway => self.store_away(cluster).await,
            Fault::WireSlow => self.delay(cluster, ingester).await,
            Fault::WireStalls => self.stall(cluster, ingester).await,
            Fault::WireEnds => self.end_connections(cluster, ingester).await,
            Fault::Scale => self.scale(cluster).await,
            Fault::Reshard => self.reshard(cluster).await,
            Fault::Many => self.many(cluster).await,
        }
    }
}

/// Waits until `check` gives something; panics with `what` after `limit`.
async fn until<T>(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
