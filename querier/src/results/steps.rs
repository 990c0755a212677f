//! Arithmetic of steps, and results put together from those of some of them.

use gnomon_model::Labels;
use gnomon_promql::RangeSeries;
use std::collections::BTreeMap;

/// Steps of one query, by time, milliseconds; both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    /// Positive.
    pub(super) step_ms: i64,
}

impl Steps {
    /// Those of a range query, whose end need not be one of them.
    pub(super) fn of(start_ms: i64, end_ms: i64, step_ms: i64) -> Option<Self> {
        let last = i128::from(start_ms)
            + (i128::from(end_ms) - i128::from(start_ms)) / i128::from(step_ms.max(1)) * i128::from(step_ms);
        let last_ms = i64::try_from(last).ok()?;
        (step_ms > 0 && start_ms <= end_ms).then_some(Self {
            first_ms: start_ms,
            last_ms,
            step_ms,
        })
    }

    pub(super) fn len(&self) -> u64 {
        (self.last_ms.abs_diff(self.first_ms) / self.step_ms.unsigned_abs().max(1)).saturating_add(1)
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        self.first_ms <= other.first_ms && other.last_ms <= self.last_ms
    }

    /// The steps of both; none where there is none.
    pub(super) fn common(&self, other: &Self) -> Option<Self> {
        let common = Self {
            first_ms: self.first_ms.max(other.first_ms),
            last_ms: self.last_ms.min(other.last_ms),
            ..*self
        };
        (common.first_ms <= common.last_ms).then_some(common)
    }

    /// Without the last steps, so that the last is at most `last_ms`; none where none is left.
    pub(super) fn until(&self, last_ms: i64) -> Option<Self> {
        if last_ms < self.first_ms {
            return None;
        }
        Self::of(self.first_ms, self.last_ms.min(last_ms), self.step_ms)
    }

    /// The steps before and after some of them.
    pub(super) fn around(&self, inner: &Self) -> [Option<Self>; 2] {
        let before = Self {
            last_ms: inner.first_ms.saturating_sub(self.step_ms),
            ..*self
        };
        let after = Self {
            first_ms: inner.last_ms.saturating_add(self.step_ms),
            ..*self
        };
        [before, after].map(|steps| (steps.first_ms <= steps.last_ms).then_some(steps))
    }
}

/// The points of some steps.
pub(super) fn cut(series: &[RangeSeries], steps: &Steps) -> Vec<RangeSeries> {
    let within = |time: i64| steps.first_ms <= time && time <= steps.last_ms;
    let cut = |series: &RangeSeries| RangeSeries {
        labels: series.labels.clone(),
        floats: series.floats.iter().filter(|(t, _)| within(*t)).copied().collect(),
        histograms: series.histograms.iter().filter(|(t, _)| within(*t)).cloned().collect(),
    };
    let mut all: Vec<_> = series.iter().map(cut).collect();
    all.retain(|series| !series.floats.is_empty() || !series.histograms.is_empty());
    all
}

/// One result from those of consecutive steps, ascending.
pub(super) fn joined(parts: Vec<Vec<RangeSeries>>) -> Vec<RangeSeries> {
    let mut parts = parts.into_iter().filter(|part| !part.is_empty());
    let Some(first) = parts.next() else {
        return Vec::new();
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return first;
    }
    let mut all: BTreeMap<Labels, RangeSeries> = first.into_iter().map(|s| (s.labels.clone(), s)).collect();
    for series in parts.flatten() {
        let entry = all.entry(series.labels.clone()).or_insert_with(|| RangeSeries {
            labels: series.labels.clone(),
            ..RangeSeries::default()
        });
        entry.floats.extend(series.floats);
        entry.histograms.extend(series.histograms);
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(first_ms: i64, last_ms: i64) -> Steps {
        Steps {
            first_ms,
            last_ms,
            step_ms: 10,
        }
    }

    #[test]
    fn steps_are_those_of_a_range_query() {
        assert_eq!(Steps::of(5, 39, 10), Some(steps(5, 35)));
        assert_eq!(Steps::of(5, 5, 10).map(|s| s.len()), Some(1));
        assert_eq!(Steps::of(5, 4, 10), None);
        assert_eq!(steps(5, 35).len(), 4);
        assert_eq!(steps(5, 35).until(34), Some(steps(5, 25)));
        assert_eq!(steps(5, 35).until(4), None);
        assert_eq!(steps(5, 35).until(1000), Some(steps(5, 35)));
        assert_eq!(steps(5, 35).common(&steps(25, 95)), Some(steps(25, 35)));
        assert_eq!(steps(5, 35).common(&steps(45, 95)), None);
        assert_eq!(
            steps(5, 35).around(&steps(15, 25)),
            [Some(steps(5, 5)), Some(steps(35, 35))]
        );
        assert_eq!(steps(5, 35).around(&steps(5, 35)), [None, None]);
        assert!(steps(5, 35).contains(&steps(5, 35)) && !steps(5, 35).contains(&steps(5, 45)));
    }

    #[test]
    fn what_is_cut_apart_is_put_together_again() {
        let series = |name: &str, points: &[i64]| RangeSeries {
            labels: Labels::from_pairs([("__name__", name)]),
            floats: points.iter().map(|t| (*t, *t as f64)).collect(),
            histograms: Vec::new(),
        };
        let all = vec![series("a", &[5, 15, 25]), series("b", &[25]), series("c", &[5, 35])];
        for at in [5, 15, 25, 35] {
            let one = cut(&all, &steps(5, at));
            let other = cut(&all, &steps(at + 10, 45));
            assert_eq!(joined(vec![one, other]), all);
        }
    }
}
