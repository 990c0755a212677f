//! Start times: `metric@st -1m x3` before a series says when its counter began, relative to each sample; `@st -1m`
//! alone says it of all series that follow and do not say it themselves.

use super::LoadedSample;
use super::series::{self, SeriesDescription};
use gnomon_model::Labels;
use gnomon_model::duration::parse_duration_ms;

/// Repetitions that are refused.
const MAX_REPEAT: usize = 1_000_000;

/// Milliseconds relative to each sample; none where nothing is said.
type Offsets = Vec<Option<i64>>;

/// What was said so far in one `load`.
#[derive(Debug, Default)]
pub(super) struct StartTimes {
    of_all: Offsets,
    of_next: Option<(Labels, Offsets)>,
}

impl StartTimes {
    /// Whether the line is about start times; then it is taken.
    pub(super) fn take(&mut self, line: &str) -> Result<bool, String> {
        let Some((head, offsets)) = line.split_once(char::is_whitespace) else {
            return Ok(false);
        };
        let Some(metric) = head.strip_suffix("@st") else {
            return Ok(false);
        };
        self.finish()?;
        let offsets = sequence(offsets)?;
        if metric.is_empty() {
            self.of_all = offsets;
        } else {
            self.of_next = Some((series::parse(metric)?.labels, offsets));
        }
        Ok(true)
    }

    /// Gives the samples of the series that follows their start times.
    pub(super) fn give(
        &mut self,
        description: &SeriesDescription,
        mut samples: Vec<LoadedSample>,
        gap_ms: i64,
    ) -> Result<Vec<LoadedSample>, String> {
        let own = self.of_next.take();
        let offsets = match &own {
            None => &self.of_all,
            Some((labels, _)) if *labels != description.labels => {
                return Err(format!("@st of {labels} is followed by {}", description.labels));
            }
            Some((_, offsets)) if offsets.len() != description.values.len() => {
                let (has, needs) = (offsets.len(), description.values.len());
                return Err(format!("@st has {has} values for {needs} samples"));
            }
            Some((_, offsets)) => offsets,
        };
        if offsets.is_empty() {
            return Ok(samples);
        }
        for sample in &mut samples {
            let index = usize::try_from(sample.timestamp_ms / gap_ms.max(1)).unwrap_or(0);
            let offset = offsets[index % offsets.len()];
            sample.start_ms = offset.map(|offset| sample.timestamp_ms.saturating_add(offset));
        }
        Ok(samples)
    }

    /// No line may be left without its series.
    pub(super) fn finish(&self) -> Result<(), String> {
        match &self.of_next {
            Some((labels, _)) => Err(format!("@st of {labels} is followed by no samples of it")),
            None => Ok(()),
        }
    }
}

fn sequence(text: &str) -> Result<Offsets, String> {
    let mut all = Offsets::new();
    for item in text.split_whitespace() {
        let before = all.iter().rev().find_map(|offset| *offset).unwrap_or(0);
        let (first, step, count) = read_item(item, before).ok_or_else(|| format!("bad start time {item:?}"))?;
        if count > MAX_REPEAT {
            return Err(format!("more than {MAX_REPEAT} repetitions"));
        }
        all.extend((0..count).map(|i| Some(first?.saturating_add(step.saturating_mul(i as i64)))));
    }
    Ok(all)
}

/// First value, step and number of values of `_`, `_x3`, `*`, `*x3`, `-1m`, `-1mx3`, `-1m+30sx3`.
fn read_item(item: &str, before: i64) -> Option<(Option<i64>, i64, usize)> {
    if let Some(rest) = item.strip_prefix('_') {
        let count = if rest.is_empty() { 1 } else { repeat(rest)? };
        return (count > 0).then_some((None, 0, count));
    }
    let (first, rest) = match item.strip_prefix('*') {
        Some(rest) => (before, rest),
        None => duration(item)?,
    };
    if rest.is_empty() {
        return Some((Some(first), 0, 1));
    }
    let (step, rest) = if rest.starts_with(['+', '-']) {
        duration(rest)?
    } else {
        (0, rest)
    };
    Some((Some(first), step, repeat(rest)?.checked_add(1)?))
}

fn repeat(text: &str) -> Option<usize> {
    text.strip_prefix('x')?.parse().ok()
}

/// A signed duration at the beginning, in milliseconds, and what follows it.
fn duration(text: &str) -> Option<(i64, &str)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.find(|c: char| !c.is_ascii_digit())?;
    let unit = |c: char| c.is_ascii_alphabetic() && c != 'x';
    let length = digits + unsigned[digits..].find(|c| !unit(c)).unwrap_or(unsigned.len() - digits);
    let ms = parse_duration_ms(&unsigned[..length]).ok()?;
    let sign = if text.starts_with('-') { -1 } else { 1 };
    Some((sign * ms, &unsigned[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_expanded() {
        assert_eq!(
            sequence("-1m _ * _x2 -10s+5sx2 0sx1 *x1").unwrap(),
            [
                Some(-60_000),
                None,
                Some(-60_000),
                None,
                None,
                Some(-10_000),
                Some(-5_000),
                Some(0),
                Some(0),
                Some(0),
                Some(0),
                Some(0)
            ]
        );
        for bad in ["1", "m", "-1mx", "_x0", "-1m+3", "-1m+3s", "**", "x3"] {
            assert!(sequence(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_belong_to_the_series_that_follows() {
        let mut starts = StartTimes::default();
        assert_eq!(starts.take("m 1 2"), Ok(false));
        assert_eq!(starts.take("m{a=\"b\"}@st -1mx1"), Ok(true));
        assert!(starts.finish().is_err());
        assert!(starts.take("n@st 0s").is_err());
        let series = series::parse("m{a=\"b\"} 1 2").unwrap();
        let samples = starts
            .give(&series, super::super::samples(&series, 60_000), 60_000)
            .unwrap();
        let times: Vec<_> = samples.iter().map(|s| s.start_ms).collect();
        assert_eq!(times, [Some(-60_000), Some(0)]);
        starts.take("@st 0s _").unwrap();
        let samples = starts
            .give(&series, super::super::samples(&series, 60_000), 60_000)
            .unwrap();
        let times: Vec<_> = samples.iter().map(|s| s.start_ms).collect();
        assert_eq!(times, [Some(0), None]);
    }
}
