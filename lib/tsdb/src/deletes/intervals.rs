//! Times that are deleted of one series.

/// Inclusive intervals, milliseconds; ascending, no two of them overlap or touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals(Vec<(i64, i64)>);

impl Intervals {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `start_ms..=end_ms`; one that ends before it begins is nothing.
    pub fn add(&mut self, start_ms: i64, end_ms: i64) {
        if start_ms > end_ms {
            return;
        }
        let from = self.0.partition_point(|(_, end)| end.saturating_add(1) < start_ms);
        let to = self.0.partition_point(|(start, _)| *start <= end_ms.saturating_add(1));
        let (mut joined_start, mut joined_end) = (start_ms, end_ms);
        if let Some((start, _)) = self.0.get(from).filter(|_| from < to) {
            joined_start = joined_start.min(*start);
        }
        if let Some((_, end)) = to
            .checked_sub(1)
            .and_then(|last| self.0.get(last))
            .filter(|_| from < to)
        {
            joined_end = joined_end.max(*end);
        }
        self.0.splice(from..to, [(joined_start, joined_end)]);
    }

    #[must_use]
    pub fn contains(&self, timestamp_ms: i64) -> bool {
        self.covers(timestamp_ms, timestamp_ms)
    }

    /// Whether nothing is left of `start_ms..=end_ms`.
    #[must_use]
    pub fn covers(&self, start_ms: i64, end_ms: i64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end < start_ms);
        self.0
            .get(at)
            .is_some_and(|(start, end)| *start <= start_ms && end_ms <= *end)
    }

    /// Whether something is deleted of `start_ms..=end_ms`.
    #[must_use]
    pub fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end < start_ms);
        self.0.get(at).is_some_and(|(start, _)| *start <= end_ms)
    }
}
