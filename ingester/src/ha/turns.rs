//! Whose samples count, and what is to be done about those of which it is not known yet: a function of what is known.

use super::HaOptions;
use gnomon_cluster::meta::fills_from_ms;
use gnomon_proto::v1::{HaPair, HaTurn};

/// Clocks of senders differ by this at most; samples that are further ahead say nothing of how far a sender is.
const MOST_AHEAD_MS: i64 = 60_000;

/// Sample times of one replica: half-open, ascending, disjoint, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns {
    /// Of samples that count.
    own: Vec<(i64, i64)>,
    /// Of samples that count where they are newer than what their series has.
    fills: Vec<(i64, i64)>,
    /// Of samples that will, if the replica should have the next turn.
    held: Option<(i64, i64)>,
}

impl Turns {
    /// Of a time before all turns, because nobody had one or it is forgotten, samples count whoever sends them.
    pub(crate) fn of(pair: &HaPair, replica: &str, extend_ms: i64) -> Self {
        // A turn ends where another begins, or where that fills from.
        let end_before = |turn: &HaTurn| turn.fills_from_ms.unwrap_or(turn.from_ms);
        let before = pair.turns.first().map(|first| (i64::MIN, end_before(first)));
        let ends = pair.turns.iter().skip(1).map(end_before);
        let turns = pair.turns.iter().zip(ends.chain([pair.until_ms]));
        let own = turns.filter(|(turn, _)| turn.replica == replica);
        let own = own.map(|(turn, until_ms)| (turn.from_ms, until_ms));
        let waits = !has_turn(pair, replica);
        Self {
            own: before.into_iter().chain(own).collect(),
            fills: fill_windows(pair, replica).collect(),
            held: waits.then(|| held_window(pair, extend_ms)),
        }
    }

    /// The last turn, which is its own, goes on: samples that are dated ahead are taken as long as their shard takes them.
    pub(crate) fn open_ended(mut self) -> Self {
        if let Some((_, until_ms)) = self.own.last_mut() {
            *until_ms = i64::MAX;
        }
        self
    }

    pub(crate) fn has(&self, timestamp_ms: i64) -> bool {
        self.own.iter().any(|times| is_within(times, timestamp_ms))
    }

    pub(crate) fn fills(&self, timestamp_ms: i64) -> bool {
        self.fills.iter().any(|times| is_within(times, timestamp_ms))
    }

    /// Whether some of the times from the oldest to the newest may be such.
    pub(crate) fn may_fill(&self, oldest_ms: i64, newest_ms: i64) -> bool {
        self.fills.iter().any(|times| overlaps(*times, oldest_ms, newest_ms))
    }

    /// Those of the times from the oldest to the newest that will count if the replica should have the next turn.
    pub(crate) fn held(&self, oldest_ms: i64, newest_ms: i64) -> Option<(i64, i64)> {
        let window = self.held.filter(|window| overlaps(*window, oldest_ms, newest_ms))?;
        Some((oldest_ms.max(window.0), newest_ms.min(window.1 - 1)))
    }

    /// Of nobody but one whose samples fill this.
    pub(crate) fn that_fill(window: (i64, i64)) -> Self {
        Self {
            fills: vec![window],
            ..Self::default()
        }
    }
}

fn is_within((from_ms, until_ms): &(i64, i64), timestamp_ms: i64) -> bool {
    (*from_ms..*until_ms).contains(&timestamp_ms)
}

pub(crate) const fn overlaps((from_ms, until_ms): (i64, i64), oldest_ms: i64, newest_ms: i64) -> bool {
    from_ms < until_ms && oldest_ms < until_ms && newest_ms >= from_ms
}

/// The ends of turns before those of the replica, where those fill them, ascending.
pub(crate) fn fill_windows<'a>(pair: &'a HaPair, replica: &'a str) -> impl DoubleEndedIterator<Item = (i64, i64)> + 'a {
    let own = pair.turns.iter().filter(move |turn| turn.replica == replica);
    own.filter_map(|turn| Some((turn.fills_from_ms?, turn.from_ms)))
}

/// The end of the last turn, which the next one may fill.
pub(crate) fn held_window(pair: &HaPair, extend_ms: i64) -> (i64, i64) {
    let least_ms = pair.turns.last().map_or(i64::MIN, |last| last.from_ms);
    (fills_from_ms(pair.until_ms, extend_ms).max(least_ms), pair.until_ms)
}

/// What to do about samples of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All of them are decided: these count, the others are dropped.
    Go(Turns),
    /// Ask the metadata group. What is not urgent may be left out: [`as_it_stands`] decides.
    Claim { urgent: bool },
    /// Some of them are nobody's yet, and nobody can have them now.
    Wait,
}

/// Whether it has the turn.
pub(crate) fn has_turn(pair: &HaPair, replica: &str) -> bool {
    pair.turns.last().is_some_and(|turn| turn.replica == replica)
}

/// What counts without another claim; none where samples are nobody's yet.
///
/// Samples that are dated further ahead than a claim reaches are of whoever has the turn.
pub(crate) fn as_it_stands(
    pair: &HaPair,
    replica: &str,
    newest_ms: i64,
    now_ms: i64,
    options: &HaOptions,
) -> Option<Turns> {
    let turns = Turns::of(pair, replica, options.update_ms());
    if newest_ms < pair.until_ms {
        return Some(turns);
    }
    if now_ms >= pair.until_ms {
        return None;
    }
    if has_turn(pair, replica) {
        return (newest_ms > now_ms.saturating_add(options.update_ms())).then(|| turns.open_ended());
    }
    (newest_ms > now_ms.saturating_add(MOST_AHEAD_MS)).then_some(turns)
}

/// `newest_ms` is the newest of the samples; `now_ms` this node's time, which may differ from the metadata leader's: a
/// claim that comes too early is without effect.
pub(crate) fn step(pair: Option<&HaPair>, replica: &str, newest_ms: i64, now_ms: i64, options: &HaOptions) -> Step {
    let Some(pair) = pair else {
        return Step::Claim { urgent: true };
    };
    let (update_ms, failover_ms) = (options.update_ms(), options.failover_ms());
    let silent_ms = now_ms.saturating_sub(pair.seen_ms);
    let stands = as_it_stands(pair, replica, newest_ms, now_ms, options);
    if has_turn(pair, replica) {
        let Some(turns) = stands else {
            return Step::Claim { urgent: true };
        };
        // Before it ends, so that a stand-by whose samples are a little newer need not wait. A claim reaches so far only.
        let is_ahead = newest_ms > now_ms.saturating_add(update_ms);
        let reach_ms = if is_ahead {
            now_ms.saturating_add(update_ms / 3)
        } else {
            newest_ms
        };
        let soon = reach_ms >= pair.until_ms.saturating_sub(update_ms / 3);
        if soon || silent_ms >= update_ms {
            return Step::Claim { urgent: false };
        }
        return Step::Go(turns);
    }
    if let Some(turns) = stands {
        return Step::Go(turns);
    }
    let lag_ms = newest_ms.min(now_ms).saturating_sub(pair.until_ms);
    if silent_ms >= failover_ms || lag_ms >= failover_ms {
        return Step::Claim { urgent: true };
    }
    Step::Wait
}
