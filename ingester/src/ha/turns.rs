//! Whose samples count, and what is to be done about those of which it is not known yet: a function of what is known.

use super::HaOptions;
use gnomon_proto::v1::HaPair;

/// Clocks of senders differ by this at most; samples that are further ahead say nothing of how far a sender is.
const MOST_AHEAD_MS: i64 = 60_000;

/// Sample times of one replica that count: half-open, ascending, disjoint, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns(Vec<(i64, i64)>);

impl Turns {
    /// Of a time before all turns, because nobody had one or it is forgotten, samples count whoever sends them.
    pub(crate) fn of(pair: &HaPair, replica: &str) -> Self {
        let before = pair.turns.first().map(|first| (i64::MIN, first.from_ms));
        let ends = pair.turns.iter().skip(1).map(|turn| turn.from_ms);
        let turns = pair.turns.iter().zip(ends.chain([pair.until_ms]));
        let own = turns.filter(|(turn, _)| turn.replica == replica);
        let own = own.map(|(turn, until_ms)| (turn.from_ms, until_ms));
        Self(before.into_iter().chain(own).collect())
    }

    /// The last turn, which is its own, goes on: samples that are dated ahead are taken as long as their shard takes them.
    pub(crate) fn open_ended(mut self) -> Self {
        if let Some((_, until_ms)) = self.0.last_mut() {
            *until_ms = i64::MAX;
        }
        self
    }

    pub(crate) fn has(&self, timestamp_ms: i64) -> bool {
        self.0
            .iter()
            .any(|(from_ms, until_ms)| (*from_ms..*until_ms).contains(&timestamp_ms))
    }
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
    let turns = Turns::of(pair, replica);
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
