//! The texts of request parameters: instants, durations, limits, matchers; read, and refused, as Prometheus does.

use crate::error::ApiError;
use crate::form::Form;
use crate::gonumber::{go_float, go_integer};
use crate::instant;
use gnomon_model::Matcher;
use gnomon_model::duration::parse_duration_ms;
use gnomon_model::size::format_size_bytes;
use gnomon_promql::MAX_PATTERN_BYTES;
use std::collections::HashSet;

/// The first instant of Go's `time.Unix` that Prometheus accepts, and its text.
pub(crate) const MIN_TIME: (&str, i64) = ("-292273086-05-16T16:47:06Z", -9_223_309_901_257_974_000);
/// The last.
pub(crate) const MAX_TIME: (&str, i64) = ("292277025-08-18T07:12:54.999999999Z", 9_223_309_901_257_974_999);

const NANOS_PER_SECOND: f64 = 1e9;

/// A range of instants, both inclusive, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
}

/// Seconds as a float (rounded to milliseconds) or RFC 3339; milliseconds since the epoch.
///
/// # Errors
/// When it is neither.
pub fn time(text: &str) -> Result<i64, String> {
    let invalid = || format!("cannot parse {text:?} to a valid timestamp");
    if let Some(seconds) = go_float(text) {
        if !seconds.is_finite() {
            return Err(invalid());
        }
        let fraction = (seconds.fract() * 1000.0).round() / 1000.0;
        let fraction_ms = ((fraction * NANOS_PER_SECOND) as i64).div_euclid(1_000_000);
        let ms = (seconds.trunc() as i64)
            .saturating_mul(1000)
            .saturating_add(fraction_ms);
        return Ok(ms.clamp(MIN_TIME.1, MAX_TIME.1));
    }
    match instant::parse(text) {
        Some(ms) => Ok(ms),
        None if text == MIN_TIME.0 => Ok(MIN_TIME.1),
        None if text == MAX_TIME.0 => Ok(MAX_TIME.1),
        None => Err(invalid()),
    }
}

/// Seconds as a float or a Prometheus duration; nanoseconds.
pub(crate) fn duration_nanos(text: &str) -> Result<i64, String> {
    if let Some(seconds) = go_float(text) {
        let nanos = seconds * NANOS_PER_SECOND;
        // The largest i64 is not a float; the next one above it is the bound, as in Go.
        if nanos > i64::MAX as f64 || nanos < i64::MIN as f64 {
            return Err(format!("cannot parse {text:?} to a valid duration. It overflows int64"));
        }
        // Go's conversion makes the least number of what has no other, as `NaN` and that bound.
        let fits = nanos < i64::MAX as f64;
        return Ok(if fits { nanos as i64 } else { i64::MIN });
    }
    match parse_duration_ms(text) {
        Ok(ms) => Ok(ms.saturating_mul(1_000_000)),
        Err(_) => Err(format!("cannot parse {text:?} to a valid duration")),
    }
}

/// A time; the default where it is absent.
///
/// # Errors
/// What is wrong with it.
fn time_or(form: &Form, name: &str, default_ms: i64) -> Result<i64, String> {
    match form.get(name) {
        "" => Ok(default_ms),
        text => time(text).map_err(|e| format!("invalid time value for '{name}': {e}")),
    }
}

/// `time`; the default where it is absent.
pub(crate) fn instant_param(form: &Form, default_ms: i64) -> Result<i64, ApiError> {
    time_or(form, "time", default_ms).map_err(|why| ApiError::parameter("time", why))
}

/// `start` and `end`, all time where they are absent.
pub(crate) fn window(form: &Form) -> Result<Window, ApiError> {
    window_or(form, MIN_TIME.1, MAX_TIME.1).map_err(|(name, why)| ApiError::parameter(name, why))
}

/// `start` and `end`; the defaults where they are absent.
///
/// # Errors
/// Which of them cannot be read, and why.
pub(crate) fn window_or(form: &Form, start_ms: i64, end_ms: i64) -> Result<Window, (&'static str, String)> {
    let read = |name: &'static str, default_ms| time_or(form, name, default_ms).map_err(|why| (name, why));
    Ok(Window {
        start_ms: read("start", start_ms)?,
        end_ms: read("end", end_ms)?,
    })
}

/// `limit`: 0, or absent, is none.
pub(crate) fn limit(form: &Form) -> Result<usize, ApiError> {
    let text = form.get("limit");
    if text.is_empty() {
        return Ok(0);
    }
    match go_integer(text) {
        Ok(limit) => usize::try_from(limit).map_err(|_| ApiError::parameter("limit", "limit must be non-negative")),
        Err(why) => Err(ApiError::parameter("limit", why)),
    }
}

/// The selectors of `match[]`, each once, whatever they select; else why they were refused.
pub(crate) fn selectors(form: &Form) -> Result<Vec<Vec<Matcher>>, String> {
    let mut seen = HashSet::new();
    let mut patterns = Patterns::default();
    let mut sets = Vec::new();
    for text in form.all("match[]").filter(|text| seen.insert(*text)) {
        let set = gnomon_promql::parse_selector(text).map_err(|e| e.to_string())?;
        for matcher in &set {
            let added = patterns.add(matcher);
            added.map_err(|too_large| format!("regular expressions of match[] {too_large}"))?;
        }
        sets.push(set);
    }
    Ok(sets)
}

/// The regular expressions of a request, which are bounded all together.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    seen: HashSet<String>,
    bytes: usize,
}

impl Patterns {
    /// # Errors
    /// When they have become too large together: the words for that.
    pub(crate) fn add(&mut self, matcher: &Matcher) -> Result<(), String> {
        // The same expression is compiled once, wherever it stands.
        let bytes = matcher.pattern_bytes();
        if bytes > 0 && self.seen.insert(matcher.value().to_owned()) {
            self.bytes += bytes;
        }
        if self.bytes <= MAX_PATTERN_BYTES {
            return Ok(());
        }
        let limit = format_size_bytes(MAX_PATTERN_BYTES as u64);
        Err(format!("too large: together they take more than {limit}, compiled"))
    }
}

/// Refuses sets that every series matches.
pub(crate) fn all_select(sets: Vec<Vec<Matcher>>) -> Result<Vec<Vec<Matcher>>, String> {
    if sets.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
        return Err("match[] must contain at least one non-empty matcher".to_owned());
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_prometheus_reads_them() {
        for (text, ms) in [
            ("123", 123_000),
            ("123.123", 123_123),
            ("1435781451.781", 1_435_781_451_781),
            ("-1.5", -1_500),
            ("1e3", 1_000_000),
            ("2015-06-03T13:21:58.555Z", 1_433_337_718_555),
            ("2015-06-03T14:21:58.555+01:00", 1_433_337_718_555),
            (MIN_TIME.0, MIN_TIME.1),
            (MAX_TIME.0, MAX_TIME.1),
            ("0x10p-1", 8_000),
            ("1_000", 1_000_000),
        ] {
            assert_eq!(time(text), Ok(ms), "{text}");
        }
        for text in ["", "abc", "30s", "NaN", "inf", "-Infinity", "1e999", "1__0", "0x1"] {
            assert_eq!(
                time(text),
                Err(format!("cannot parse {text:?} to a valid timestamp")),
                "{text}"
            );
        }
    }

    #[test]
    fn durations_are_read_as_prometheus_reads_them() {
        for (text, nanos) in [
            ("1", 1_000_000_000),
            ("0.5", 500_000_000),
            ("5m", 300_000_000_000),
            ("-1", -1_000_000_000),
            ("0.0001", 100_000),
            ("0x1p-1", 500_000_000),
            ("NaN", i64::MIN),
            ("9223372036.854775807", i64::MIN),
            ("-9223372036.854775807", i64::MIN),
        ] {
            assert_eq!(duration_nanos(text), Ok(nanos), "{text}");
        }
        for text in ["1e30", "Inf", "-infinity"] {
            let overflows = format!("cannot parse {text:?} to a valid duration. It overflows int64");
            assert_eq!(duration_nanos(text), Err(overflows));
        }
        for text in ["", "-5m", "1e999", "nano", "5 m"] {
            let invalid = format!("cannot parse {text:?} to a valid duration");
            assert_eq!(duration_nanos(text), Err(invalid));
        }
    }

    /// What is asked for several times counts once against the limit of all expressions' bytes.
    #[test]
    fn the_same_selectors_and_expressions_count_once() {
        let form = |texts: &[String]| {
            let query: Vec<_> = texts.iter().map(|text| format!("match[]={text}")).collect();
            Form::of_query(&query.join("&"))
        };
        let selector = |name: &str, last: char| format!("{{{name}=~\"\\\\pL{{80}}{last}\"}}");
        let one = selectors(&form(&[selector("a", '0')])).unwrap();
        let bytes = one[0][0].pattern_bytes();
        assert!(bytes > MAX_PATTERN_BYTES / 40, "{bytes}");
        let again = vec![selector("a", '0'); 40];
        assert_eq!(selectors(&form(&again)), Ok(one));
        let elsewhere: Vec<_> = (0..40).map(|n| selector(&format!("a{n}"), '0')).collect();
        assert_eq!(selectors(&form(&elsewhere)).unwrap().len(), 40);
        let others: Vec<_> = ('a'..='z').chain('A'..='Z').map(|c| selector("a", c)).collect();
        let refusal = selectors(&form(&others)).unwrap_err();
        assert!(refusal.contains("more than 32MiB"), "{refusal}");
    }
}
