//! What scrapers are held to, from the accounts of the targets and what the shards have of them in the end.

use super::clock::WINDOW_MS;
use super::ledger::Found;
use super::targets::{Answer, METRICS, Outcome, Push, Target};
use gnomon_cluster::node::CLOCK_MAY_BE_OFF_MS;
use gnomon_model::{NodeId, STALE_NAN};
use gnomon_scraper::Ring;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A clock that differs by more is wrong.
const CLOCKS_DIFFER_MS: i64 = 1_000;
/// Scrapes of a time that is still to come by more, and a little, no shard takes.
const MOST_AHEAD_MS: i64 = CLOCK_MAY_BE_OFF_MS + CLOCKS_DIFFER_MS;
/// How late a scrape may begin and still have the time of its tick.
const TOLERANCE_MS: i64 = 2;
/// Nor is one whose target has just come from another scraper later than this.
const LATE_MS: i64 = 1_000;
/// How much later than a lease after its death a scraper's targets may be others': that its lease is over is looked for every
/// 100 ms, decided, and heard of.
const HEARD_MS: i64 = 200;
/// When a scraper begins that came into the ring (`scraper/src/hand_over.rs`).
const COMES_MS: i64 = 2_000;
/// As long as a change of the ring takes until its targets are handed over, and a little more.
const HANDED_OVER_MS: i64 = 4_000;
/// `LEASE` of the program, which shards reckon with, whatever leases are here.
const LEASE_MS: i64 = gnomon_cluster::node::LEASE.as_millis() as i64;
/// How much later than it was given up what a push sent may come to a shard.
const LINGERS_MS: i64 = 10_000;

/// The ring, as of when it was seen to be another.
pub(crate) struct RingSeen {
    pub(crate) at_ms: i64,
    pub(crate) nodes: Vec<NodeId>,
    /// One of it is alive by its lease, or may hold scrapes.
    pub(crate) is_alive: bool,
}

/// A scraper died.
pub(crate) struct Crash {
    pub(crate) at_ms: i64,
    pub(crate) node: NodeId,
}

/// What happened to scrapers. All times are true ones, milliseconds.
pub(crate) struct Chronicle {
    lease_ms: i64,
    pub(crate) rings: Vec<RingSeen>,
    pub(crate) crashes: Vec<Crash>,
    /// From when until when scrapers came and went, or died, and nothing else was wrong.
    pub(crate) calm: Vec<(i64, i64)>,
    /// Since when clocks are wrong.
    pub(crate) skewed_from_ms: i64,
}

/// What was seen, for the trace.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    answers: usize,
    stored: usize,
    acknowledged: usize,
    markers: usize,
    /// Ticks of calm times, of which all is known.
    calm: usize,
    /// The longest from a scraper's death to the next scrape of one of its targets, less an interval.
    taken_over_ms: i64,
}

type Wrong<T> = Result<T, String>;

/// A target with what is stored of it, by time.
struct Account<'a> {
    target: &'a Target,
    stored: BTreeMap<i64, Answer>,
    markers: Vec<i64>,
    phase_ms: i64,
}

impl Chronicle {
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            lease_ms: lease.as_millis() as i64,
            rings: Vec::new(),
            crashes: Vec::new(),
            calm: Vec::new(),
            skewed_from_ms: i64::MAX,
        }
    }

    /// What is wrong, if something is.
    pub(crate) fn judge(&self, targets: &[Target], found: &Found) -> Wrong<Seen> {
        let mut seen = Seen::default();
        for target in targets {
            let account = Account::new(target, found)?;
            account.has_what_was_acknowledged(&mut seen)?;
            self.is_not_doubled(&account)?;
            self.marks_what_was_silent(&account)?;
            for (from_ms, until_ms) in &self.calm {
                self.misses_nothing(&account, *from_ms, *until_ms, &mut seen)?;
            }
            seen.answers += target.answers.len();
            seen.stored += account.stored.len();
            seen.markers += account.markers.len();
        }
        Ok(seen)
    }

    /// Of two scrapers that scrape a target at the same place of its interval one is stored, unless both were on their way to
    /// the shard in the same moment. By clocks that are wrong it is another place.
    fn is_not_doubled(&self, account: &Account<'_>) -> Wrong<()> {
        let (target, name) = (account.target, &account.target.instance);
        let near_ms = target.interval_ms / 4;
        for ((one_ms, one), (other_ms, other)) in account.stored.iter().zip(account.stored.iter().skip(1)) {
            // One that is so late that the next tick follows at once is of the tick before.
            let of_tick = |at_ms: i64| (at_ms - account.phase_ms).div_euclid(target.interval_ms);
            let is_doubled =
                other_ms - one_ms < near_ms && of_tick(*one_ms) == of_tick(*other_ms) && one.by != other.by;
            let is_skewed = one.true_ms.max(other.true_ms) >= self.skewed_from_ms;
            if is_doubled && !is_skewed && !meet(&target.pushes, one.value, other.value) {
                return Err(format!(
                    "{name}: one tick, two scrapes: {one:?} at {one_ms}, {other:?} at {other_ms}{}",
                    account.near(*one_ms)
                ));
            }
        }
        Ok(())
    }

    /// A marker stands where a scrape failed, or half an interval after one behind which nothing came for as long as the
    /// shards wait.
    fn marks_what_was_silent(&self, account: &Account<'_>) -> Wrong<()> {
        let target = account.target;
        let acknowledged = || {
            target
                .pushes
                .iter()
                .filter(|push| push.outcome == Outcome::Acknowledged)
        };
        for marked_ms in &account.markers {
            let is_down = |push: &Push| push.tick_ms == *marked_ms && push.value.is_none();
            if *marked_ms >= self.skewed_from_ms || target.pushes.iter().any(is_down) {
                continue;
            }
            let heard_ms = acknowledged()
                .map(|push| push.tick_ms)
                .filter(|at| at < marked_ms)
                .max();
            let next_ms = acknowledged()
                .filter(|push| push.tick_ms > *marked_ms)
                .map(|push| push.ended_ms)
                .min();
            let (Some(heard_ms), Some(next_ms)) = (heard_ms, next_ms) else {
                continue;
            };
            let patience_ms = target.interval_ms * 21 / 10;
            // Where a window begins that has other shards, those before it do not hear of who came back.
            let is_of_before = (heard_ms + patience_ms..=next_ms).contains(&WINDOW_MS);
            let waits_ms = match is_of_before || !self.is_always_alive(heard_ms, next_ms) {
                true => patience_ms,
                false => LEASE_MS + target.interval_ms * 11 / 10,
            };
            if next_ms - heard_ms < waits_ms {
                return Err(format!(
                    "{}: a marker at {marked_ms}, though there was a scrape at {heard_ms} and the next came by {next_ms}",
                    target.instance
                ));
            }
        }
        Ok(())
    }

    fn is_always_alive(&self, from_ms: i64, until_ms: i64) -> bool {
        self.seen_in(from_ms, until_ms).all(|ring| ring.is_alive)
    }

    /// The rings that there were at some time between these.
    fn seen_in(&self, from_ms: i64, until_ms: i64) -> impl Iterator<Item = &RingSeen> {
        let ends = self.rings.iter().skip(1).map(|next| next.at_ms).chain([i64::MAX]);
        let all = self.rings.iter().zip(ends);
        let within = all.filter(move |(ring, end)| ring.at_ms <= until_ms && *end >= from_ms);
        within.map(|(ring, _)| ring)
    }

    /// Each tick is made once, at its time, and stored, but for those of scrapers that died: these may miss until their leases
    /// have ended.
    fn misses_nothing(&self, account: &Account<'_>, from_ms: i64, until_ms: i64, seen: &mut Seen) -> Wrong<()> {
        let target = account.target;
        let (name, interval_ms) = (&target.instance, target.interval_ms);
        // By a clock that was ahead shards have scrapes of a time that is still to come, and take none before it.
        let is_of_later =
            |answer: &&Answer| (CLOCKS_DIFFER_MS..=MOST_AHEAD_MS).contains(&(answer.asked_ms - answer.true_ms));
        let of_later = target.answers.iter().filter(is_of_later);
        let has_later_ms = of_later.map(|answer| answer.asked_ms).max().unwrap_or(i64::MIN);
        let (first_ms, last_ms) = (from_ms + interval_ms, until_ms - interval_ms);
        // Whoever was silent when other shards came was so for those before: see `marks_what_was_silent`.
        let is_of_before = |at: i64| (WINDOW_MS - self.lease_ms - 2 * interval_ms..WINDOW_MS).contains(&at);
        // By a clock that was ahead then, of a scrape that failed.
        let has_failed = |at: i64| {
            target
                .pushes
                .iter()
                .any(|push| push.tick_ms == at && push.value.is_none() && push.began_ms < from_ms)
        };
        let is_wrong = |at: &&i64| (first_ms..=last_ms).contains(*at) && !is_of_before(**at) && !has_failed(**at);
        if let Some(marked_ms) = account.markers.iter().find(is_wrong) {
            return Err(format!(
                "{name}: a marker at {marked_ms}, while scrapers only came and went{}",
                account.near(*marked_ms)
            ));
        }
        let mut made: HashMap<i64, Vec<&Answer>> = HashMap::new();
        let within = from_ms - interval_ms..=until_ms + interval_ms;
        for answer in target.answers.iter().filter(|answer| within.contains(&answer.true_ms)) {
            made.entry(account.tick_of(answer.asked_ms)).or_default().push(answer);
        }
        let after_phase = (first_ms - account.phase_ms).rem_euclid(interval_ms);
        let mut tick_ms = first_ms + interval_ms - after_phase;
        while tick_ms <= last_ms {
            let made = made.get(&tick_ms).map_or(&[][..], Vec::as_slice);
            let is_wrong = match made.first() {
                None => Some("was not made".to_owned()),
                Some(_) if self.is_given_twice(made, tick_ms) => None,
                Some(_) if made.len() > 1 => Some(format!("was made more than once: {made:?}")),
                Some(answer) if (answer.asked_ms - tick_ms).abs() > TOLERANCE_MS => {
                    Some(format!("was made late: {answer:?}"))
                }
                Some(_) if tick_ms <= has_later_ms => {
                    tick_ms += interval_ms;
                    continue;
                }
                Some(answer) if account.stored.get(&tick_ms).map(|stored| stored.value) != Some(answer.value) => {
                    Some(format!("was made, and is not stored: {answer:?}"))
                }
                Some(_) => None,
            };
            match (is_wrong, self.died_ms(account, tick_ms)) {
                (None, _) => seen.calm += 1,
                (Some(_), Some(died_ms)) => seen.taken_over_ms = seen.taken_over_ms.max(tick_ms - died_ms),
                (Some(how), None) => {
                    let near = account.near(tick_ms);
                    return Err(format!("{name}: the tick at {tick_ms} {how}{near}"));
                }
            }
            tick_ms += interval_ms;
        }
        Ok(())
    }

    /// A scraper came and left before it began: who gives it a target goes on until it would have, and who gets the target
    /// instead may begin before that. Shards take one of the two.
    fn is_given_twice(&self, made: &[&Answer], tick_ms: i64) -> bool {
        let is_in = |ring: &RingSeen, node: NodeId| ring.nodes.contains(&node);
        let is_short = |pair: &[RingSeen]| {
            let within = pair[1].at_ms..=pair[1].at_ms + COMES_MS + HEARD_MS;
            let after = self.rings.iter().filter(|ring| within.contains(&ring.at_ms));
            let mut came = pair[1].nodes.iter().filter(|node| !is_in(&pair[0], **node));
            within.contains(&tick_ms) && came.any(|node| after.clone().any(|ring| !is_in(ring, *node)))
        };
        let is_of_two = made.len() == 2 && made[0].by.place != made[1].by.place;
        is_of_two && self.rings.windows(2).any(is_short)
    }

    /// By when a dead scraper's targets are others'. One that comes shortly before its lease has ended begins with them when it
    /// would if there were somebody to make their ticks until then.
    fn taken_over_ms(&self, crash: &Crash) -> i64 {
        let ended_ms = crash.at_ms + self.lease_ms + HEARD_MS;
        let came = self
            .rings
            .windows(2)
            .filter(|pair| pair[1].nodes.iter().any(|node| !pair[0].nodes.contains(node)));
        let came_ms = came
            .map(|pair| pair[1].at_ms)
            .filter(|at_ms| (crash.at_ms..=ended_ms).contains(at_ms));
        came_ms
            .max()
            .map_or(ended_ms, |at_ms| ended_ms.max(at_ms + COMES_MS + HEARD_MS))
    }

    /// When the scraper of a target died, if it had it, and nobody else has to have it at this tick.
    fn died_ms(&self, account: &Account<'_>, tick_ms: i64) -> Option<i64> {
        let interval_ms = account.target.interval_ms;
        let of = |crash: &&Crash| {
            let excused = crash.at_ms - interval_ms..=self.taken_over_ms(crash);
            // Also what it gets from one that leaves while its own lease goes on; that ring may have been too short to be seen.
            let mut rings = self.seen_in(crash.at_ms - HANDED_OVER_MS, *excused.end());
            let owns =
                |nodes: &[NodeId]| account.target.id.and_then(|id| Ring::new(nodes).owner(id)) == Some(crash.node);
            let owns_without = |nodes: &[NodeId], gone: &NodeId| {
                let others: Vec<NodeId> = nodes.iter().copied().filter(|node| node != gone).collect();
                owns(&others)
            };
            let may_own =
                |ring: &RingSeen| owns(&ring.nodes) || ring.nodes.iter().any(|gone| owns_without(&ring.nodes, gone));
            excused.contains(&tick_ms) && rings.any(may_own)
        };
        self.crashes.iter().rev().find(of).map(|crash| crash.at_ms)
    }
}

impl<'a> Account<'a> {
    /// Every sample is an answer, with the time at which it was asked for, and no answer is there twice.
    fn new(target: &'a Target, found: &Found) -> Wrong<Self> {
        let name = &target.instance;
        let of = |metric: &str| {
            let series = target.series(metric);
            let range = (series.clone(), i64::MIN)..=(series, i64::MAX);
            let samples = found.range(range).map(|((_, at), bits)| (*at, *bits));
            samples.collect::<Vec<_>>()
        };
        let [samples, again] = METRICS.map(of);
        if samples != again {
            return Err(format!("{name}: two series of the same scrapes differ"));
        }
        let up: HashMap<i64, u64> = of("up").into_iter().collect();
        let mut account = Self {
            target,
            stored: BTreeMap::new(),
            markers: Vec::new(),
            phase_ms: target.phase_ms().unwrap_or_default(),
        };
        let mut times: HashMap<u32, i64> = HashMap::new();
        for (at_ms, bits) in samples {
            if bits == STALE_NAN.to_bits() {
                account.markers.push(at_ms);
                continue;
            }
            let value = f64::from_bits(bits);
            let answer = target.answers.get((value as usize).wrapping_sub(1));
            let Some(answer) = answer.filter(|answer| f64::from(answer.value) == value) else {
                return Err(format!("{name}: {value} at {at_ms} is no answer of it"));
            };
            // A scraper that has just got the target gives a scrape the time of its tick.
            let late_ms = answer.asked_ms - at_ms;
            let is_of_tick = account.tick_of(at_ms) == at_ms && (0..LATE_MS).contains(&late_ms);
            if late_ms.abs() > TOLERANCE_MS && !is_of_tick {
                return Err(format!("{name}: {answer:?} stands at {at_ms}"));
            }
            if let Some(other_ms) = times.insert(answer.value, at_ms) {
                return Err(format!("{name}: {answer:?} stands at {other_ms} and at {at_ms}"));
            }
            // Another one may have made the same tick, and failed.
            let mut failed = target.pushes.iter().filter(|push| push.value.is_none());
            if up.get(&at_ms) != Some(&1f64.to_bits()) && failed.all(|push| push.tick_ms != at_ms) {
                return Err(format!("{name}: {answer:?} stands at {at_ms}, where it is not up"));
            }
            account.stored.insert(at_ms, *answer);
        }
        Ok(account)
    }

    fn tick_of(&self, at_ms: i64) -> i64 {
        let interval_ms = self.target.interval_ms;
        let past_ms = (at_ms - self.phase_ms + interval_ms / 2).rem_euclid(interval_ms);
        at_ms + interval_ms / 2 - past_ms
    }

    /// What was asked, and pushed, about that time, a line for each.
    fn near(&self, at_ms: i64) -> String {
        let near = at_ms - 2 * self.target.interval_ms..=at_ms + 2 * self.target.interval_ms;
        let answers = self
            .target
            .answers
            .iter()
            .filter(|answer| near.contains(&answer.asked_ms));
        let pushes = self.target.pushes.iter().filter(|push| near.contains(&push.tick_ms));
        let answers = answers.map(|answer| format!("\n  {answer:?}"));
        answers.chain(pushes.map(|push| format!("\n  {push:?}"))).collect()
    }

    fn has_what_was_acknowledged(&self, seen: &mut Seen) -> Wrong<()> {
        let acknowledged = self
            .target
            .pushes
            .iter()
            .filter(|push| push.outcome == Outcome::Acknowledged);
        for push in acknowledged {
            let Some(value) = push.value else { continue };
            // By a clock that was behind, a push that came to nothing is taken for one that was repeated.
            let answer = &self.target.answers[value as usize - 1];
            if answer.asked_ms < answer.true_ms - CLOCKS_DIFFER_MS {
                continue;
            }
            let stored = self.stored.get(&push.tick_ms);
            // Where another made the same tick, and it is not known whether this push was first, it is there all the same.
            let is_anothers = stored.is_some_and(|stored| stored.by != answer.by);
            if stored.map(|stored| stored.value) != push.value && !is_anothers {
                return Err(format!(
                    "{}: acknowledged, and not there: {push:?}, but {stored:?}{}",
                    self.target.instance,
                    self.near(push.tick_ms)
                ));
            }
            seen.acknowledged += 1;
        }
        Ok(())
    }
}

/// Whether pushes of two scrapes were under way at one time.
fn meet(pushes: &[Push], one: u32, other: u32) -> bool {
    let of = |value: u32| pushes.iter().filter(move |push| push.value == Some(value));
    let end_ms = |push: &Push| match push.outcome {
        Outcome::Unknown => push.ended_ms + LINGERS_MS,
        _ => push.ended_ms,
    };
    of(one).any(|a| of(other).any(|b| a.began_ms <= end_ms(b) && b.began_ms <= end_ms(a)))
}
