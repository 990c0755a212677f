//! The replicas of HA pairs in one request, and what becomes of their samples.

use super::held::{Form, StandBy};
use super::tracker::Asked;
use super::{HaError, HaTracker, Turns};
use crate::intake::Rows;
use gnomon_cluster::router::MetricInfo;
use gnomon_model::{LabelsRef, TenantId};
use std::collections::HashMap;

/// Replicas in one request: a sender has one, a relay those of all its senders.
const MAX_REPLICAS: usize = 1024;
/// Of a series that is of no pair.
const NONE: u32 = u32::MAX;

/// Which series of a request are whose. Series are told of in the order of their numbers.
pub(crate) struct Replicas<'a> {
    found: Vec<Replica<'a>>,
    by_name: HashMap<(&'a str, &'a str), u32>,
    of_series: Vec<u32>,
}

struct Replica<'a> {
    cluster: &'a str,
    replica: &'a str,
    /// Of its samples, where it has any.
    times: Option<(i64, i64)>,
}

impl<'a> Replicas<'a> {
    pub(crate) fn with_capacity(series: usize) -> Self {
        Self {
            found: Vec::new(),
            by_name: HashMap::new(),
            of_series: Vec::with_capacity(series),
        }
    }

    /// The next series, with the values of the two labels; whether it is of a pair. Empty values are none.
    pub(crate) fn series(&mut self, cluster: Option<&'a str>, replica: Option<&'a str>) -> Result<bool, HaError> {
        let (Some(cluster), Some(replica)) = (cluster, replica) else {
            self.of_series.push(NONE);
            return Ok(false);
        };
        if cluster.is_empty() || replica.is_empty() {
            self.of_series.push(NONE);
            return Ok(false);
        }
        // Most often it is that of the series before.
        let last = self.of_series.last().copied().unwrap_or(NONE);
        if let Some(known) = self.found.get(last as usize)
            && (known.cluster, known.replica) == (cluster, replica)
        {
            self.of_series.push(last);
            return Ok(true);
        }
        let next = self.found.len() as u32;
        let number = *self.by_name.entry((cluster, replica)).or_insert(next);
        if number == next {
            if self.found.len() >= MAX_REPLICAS {
                return Err(HaError::Refused(format!(
                    "the request has series of more than {MAX_REPLICAS} replicas of HA pairs"
                )));
            }
            self.found.push(Replica {
                cluster,
                replica,
                times: None,
            });
        }
        self.of_series.push(number);
        Ok(true)
    }

    /// A sample of the series told of last.
    pub(crate) fn sample(&mut self, timestamp_ms: i64) {
        let last = self.of_series.last().copied().unwrap_or(NONE);
        self.sample_of(last, timestamp_ms);
    }

    /// A sample of any series.
    pub(crate) fn sample_of_series(&mut self, series: u32, timestamp_ms: i64) {
        let replica = self.of_series.get(series as usize).copied().unwrap_or(NONE);
        self.sample_of(replica, timestamp_ms);
    }

    fn sample_of(&mut self, replica: u32, timestamp_ms: i64) {
        if let Some(replica) = self.found.get_mut(replica as usize) {
            let (oldest_ms, newest_ms) = replica.times.unwrap_or((timestamp_ms, timestamp_ms));
            replica.times = Some((oldest_ms.min(timestamp_ms), newest_ms.max(timestamp_ms)));
        }
    }

    /// Asks whose samples count. `may_fill` is of a writer that begins with [`Verdicts::begin_fills`], and holds.
    pub(crate) async fn judge(
        self,
        tracker: &HaTracker,
        tenant: &TenantId,
        may_fill: bool,
    ) -> Result<Verdicts, HaError> {
        let mut verdicts = Verdicts {
            turns: Vec::with_capacity(self.found.len()),
            ..Verdicts::default()
        };
        for one in &self.found {
            // One without samples has nothing to decide.
            let Some((oldest_ms, newest_ms)) = one.times else {
                verdicts.turns.push(Turns::default());
                continue;
            };
            let asked = Asked {
                tenant,
                cluster: one.cluster,
                replica: one.replica,
                oldest_ms,
                newest_ms,
                may_fill,
            };
            let turns = tracker.turns(asked).await?;
            verdicts.may_fill |= may_fill && turns.may_fill(oldest_ms, newest_ms);
            if let Some(times) = turns
                .held(oldest_ms, newest_ms)
                .filter(|_| may_fill && tracker.held().is_on())
            {
                verdicts.stand_bys.push((asked.stand_by(), times));
            }
            verdicts.turns.push(turns);
        }
        verdicts.of_series = self.of_series;
        Ok(verdicts)
    }

    /// Of one replica what fills that time, and nothing else.
    pub(crate) fn only_fills(self, stand_by: &StandBy, window: (i64, i64)) -> Verdicts {
        let turns = self.found.iter().map(|one| {
            let is_it = (one.cluster, one.replica) == (&stand_by.cluster, &stand_by.replica);
            match is_it {
                true => Turns::that_fill(window),
                false => Turns::default(),
            }
        });
        Verdicts {
            turns: turns.collect(),
            of_series: self.of_series,
            pass: Pass::Fills,
            ..Verdicts::default()
        }
    }
}

/// Which samples a writer is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pass {
    /// Those of its turn; the others are dropped.
    #[default]
    All,
    /// Those of its turn; of those that fill the turn before another pass was made.
    Own,
    /// Those that fill the turn before.
    Fills,
}

/// Whose samples count, for the series of one request.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    of_series: Vec<u32>,
    turns: Vec<Turns>,
    stand_bys: Vec<(StandBy, (i64, i64))>,
    may_fill: bool,
    pass: Pass,
    dropped: u64,
}

impl Verdicts {
    /// Samples and histograms that were dropped.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// From here on [`Verdicts::rows`] gives what fills the end of the turn before: true where there may be some. It is to be
    /// written before the rest, and only what is newer than what there is.
    pub(crate) fn begin_fills(&mut self) -> bool {
        if self.may_fill {
            self.pass = Pass::Fills;
        }
        self.may_fill
    }

    /// From here on all else.
    pub(crate) fn begin_own(&mut self) {
        if self.may_fill {
            self.pass = Pass::Own;
        }
    }

    /// Keeps the request for replicas whose samples will count if they should have the next turn.
    pub(crate) fn hold(&mut self, tracker: &HaTracker, form: Form, body: &[u8]) {
        tracker.hold(form, std::mem::take(&mut self.stand_bys), body);
    }

    /// What takes the items of a series: those that count.
    pub(crate) fn rows<'b, R: Rows>(&'b mut self, series: u32, inner: &'b mut R) -> Counting<'b, R> {
        let replica = self.of_series.get(series as usize).copied().unwrap_or(NONE);
        Counting {
            turns: self.turns.get(replica as usize),
            pass: self.pass,
            dropped: &mut self.dropped,
            inner,
        }
    }
}

/// Passes on what counts.
pub(crate) struct Counting<'b, R> {
    turns: Option<&'b Turns>,
    pass: Pass,
    dropped: &'b mut u64,
    inner: &'b mut R,
}

impl<R> Counting<'_, R> {
    fn counts(&self, timestamp_ms: i64) -> bool {
        let is_own = self.turns.is_none_or(|turns| turns.has(timestamp_ms));
        match self.pass {
            Pass::All | Pass::Own => is_own,
            Pass::Fills => !is_own && self.turns.is_some_and(|turns| turns.fills(timestamp_ms)),
        }
    }

    /// Of one that does not count.
    fn drop_one(&mut self, timestamp_ms: i64) {
        let is_dropped = match self.pass {
            Pass::All => true,
            Pass::Own => self.turns.is_none_or(|turns| !turns.fills(timestamp_ms)),
            Pass::Fills => false,
        };
        *self.dropped += u64::from(is_dropped);
    }
}

impl<R: Rows> Rows for Counting<'_, R> {
    #[inline]
    fn since(&mut self, start_ms: i64) {
        self.inner.since(start_ms);
    }

    #[inline]
    fn sample(&mut self, timestamp_ms: i64, value: f64) {
        match self.counts(timestamp_ms) {
            true => self.inner.sample(timestamp_ms, value),
            false => self.drop_one(timestamp_ms),
        }
    }

    fn histogram(&mut self, timestamp_ms: i64, encoded: &[u8]) {
        match self.counts(timestamp_ms) {
            true => self.inner.histogram(timestamp_ms, encoded),
            false => self.drop_one(timestamp_ms),
        }
    }

    fn exemplar(&mut self, timestamp_ms: i64, value: f64, labels: LabelsRef<'_>) {
        if self.counts(timestamp_ms) {
            self.inner.exemplar(timestamp_ms, value, labels);
        }
    }

    fn metadata(&mut self, info: &MetricInfo<'_>) {
        self.inner.metadata(info);
    }
}
