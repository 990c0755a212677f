//! Whose samples count, and what is to be done about those of which it is not known yet: a function of what is known.

use super::HaOptions;
use gnomon_proto::v1::HaPair;

/// Sample times of one replica that count: half-open, ascending, disjoint, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns(Vec<(i64, i64)>);

impl Turns {
    pub(crate) fn of(pair: &HaPair, replica: &str) -> Self {
        let ends = pair.turns.iter().skip(1).map(|turn| turn.from_ms);
        let turns = pair.turns.iter().zip(ends.chain([pair.until_ms]));
        let own = turns.filter(|(turn, _)| turn.replica == replica);
        Self(own.map(|(turn, until_ms)| (turn.from_ms, until_ms)).collect())
    }

    /// The last turn goes on: what is later is refused by its shard.
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
    /// Ask the metadata group. What is not urgent may be left out: its samples are decided as things stand.
    Claim { urgent: bool },
    /// Some of them are nobody's yet, and nobody can have them now.
    Wait,
}

/// `newest_ms` is the newest of the samples; `now_ms` this node's time, which may differ from the metadata leader's: a
/// claim that comes too early is without effect.
pub(crate) fn step(pair: Option<&HaPair>, replica: &str, newest_ms: i64, now_ms: i64, options: &HaOptions) -> Step {
    let Some(pair) = pair else {
        return Step::Claim { urgent: true };
    };
    let (update_ms, failover_ms) = (options.update_ms(), options.failover_ms());
    let silent_ms = now_ms.saturating_sub(pair.seen_ms);
    let has_turn = pair.turns.last().is_some_and(|turn| turn.replica == replica);
    let undecided = newest_ms >= pair.until_ms;
    if has_turn {
        if undecided {
            return Step::Claim { urgent: true };
        }
        // Before it ends, so that a stand-by whose samples are a little newer need not wait.
        let soon = newest_ms >= pair.until_ms.saturating_sub(update_ms / 3);
        if soon || silent_ms >= update_ms {
            return Step::Claim { urgent: false };
        }
    } else if undecided {
        let lag_ms = newest_ms.saturating_sub(pair.until_ms);
        if silent_ms >= failover_ms || lag_ms >= failover_ms {
            return Step::Claim { urgent: true };
        }
        return Step::Wait;
    }
    Step::Go(Turns::of(pair, replica))
}
