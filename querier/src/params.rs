//! The texts of request parameters: instants, durations, limits, matchers; read, and refused, as Prometheus does.

use crate::error::ApiError;
use crate::form::Form;
use crate::instant;
use gnomon_model::Matcher;
use gnomon_model::duration::parse_duration_ms;
use gnomon_model::size::format_size_bytes;
use gnomon_promql::MAX_PATTERN_BYTES;

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

/// What Go's `strconv.ParseFloat` takes that can be a time or duration.
fn float(text: &str) -> Option<f64> {
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    if !text.bytes().all(plain) {
        return None;
    }
    text.parse::<f64>().ok()
}

/// Seconds as a float (rounded to milliseconds) or RFC 3339; milliseconds since the epoch.
///
/// # Errors
/// When it is neither.
pub fn time(text: &str) -> Result<i64, String> {
    let invalid = || format!("cannot parse {text:?} to a valid timestamp");
    if let Some(seconds) = float(text) {
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
    if let Some(seconds) = float(text) {
        let nanos = seconds * NANOS_PER_SECOND;
        // The largest i64 is not a float; the next one above it is the bound, as in Go.
        if nanos > i64::MAX as f64 || nanos < i64::MIN as f64 {
            return Err(format!("cannot parse {text:?} to a valid duration. It overflows int64"));
        }
        return Ok(nanos as i64);
    }
    match parse_duration_ms(text) {
        Ok(ms) => Ok(ms.saturating_mul(1_000_000)),
        Err(_) => Err(format!("cannot parse {text:?} to a valid duration")),
    }
}

fn time_or(form: &Form, name: &str, default_ms: i64) -> Result<i64, ApiError> {
    match form.get(name) {
        "" => Ok(default_ms),
        text => time(text).map_err(|e| ApiError::parameter(name, format!("invalid time value for '{name}': {e}"))),
    }
}

/// `time`; the default where it is absent.
pub(crate) fn instant_param(form: &Form, default_ms: i64) -> Result<i64, ApiError> {
    time_or(form, "time", default_ms)
}

/// `start` and `end`, all time where they are absent.
pub(crate) fn window(form: &Form) -> Result<Window, ApiError> {
    window_or(form, MIN_TIME.1, MAX_TIME.1)
}

/// `start` and `end`; the defaults where they are absent.
pub(crate) fn window_or(form: &Form, start_ms: i64, end_ms: i64) -> Result<Window, ApiError> {
    Ok(Window {
        start_ms: time_or(form, "start", start_ms)?,
        end_ms: time_or(form, "end", end_ms)?,
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

/// Go's `strconv.Atoi`, with its complaints.
pub(crate) fn go_integer(text: &str) -> Result<i64, String> {
    use std::num::IntErrorKind;
    text.parse::<i64>().map_err(|e| {
        let why = match e.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {text:?}: {why}")
    })
}

/// The selectors of `match[]`, whatever they select; else why they were refused.
pub(crate) fn selectors(form: &Form) -> Result<Vec<Vec<Matcher>>, String> {
    let mut pattern_bytes = 0;
    let mut sets = Vec::new();
    for text in form.all("match[]") {
        let set = gnomon_promql::parse_selector(text).map_err(|e| e.to_string())?;
        pattern_bytes += set.iter().map(Matcher::pattern_bytes).sum::<usize>();
        if pattern_bytes > MAX_PATTERN_BYTES {
            let limit = format_size_bytes(MAX_PATTERN_BYTES as u64);
            return Err(format!(
                "regular expressions of match[] too large: together they take more than {limit}, compiled"
            ));
        }
        sets.push(set);
    }
    Ok(sets)
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
        ] {
            assert_eq!(time(text), Ok(ms), "{text}");
        }
        for text in ["", "abc", "30s", "NaN", "inf", "1e999"] {
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
        ] {
            assert_eq!(duration_nanos(text), Ok(nanos), "{text}");
        }
        assert_eq!(
            duration_nanos("1e30"),
            Err(r#"cannot parse "1e30" to a valid duration. It overflows int64"#.to_owned())
        );
        assert_eq!(
            duration_nanos(""),
            Err(r#"cannot parse "" to a valid duration"#.to_owned())
        );
        assert_eq!(
            duration_nanos("-5m"),
            Err(r#"cannot parse "-5m" to a valid duration"#.to_owned())
        );
    }
}
