//! Durations as Prometheus writes them: `1h30m`, `15s`, `0`.
//!
//! Source: the Prometheus documentation, "Querying basics", section "Float literals and time durations".

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("empty duration string")]
    Empty,
    #[error("not a valid duration string: {0:?}")]
    Invalid(String),
    #[error("unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
    /// More than about 292 years (2^63 - 1 nanoseconds).
    #[error("duration out of range")]
    OutOfRange,
}

const SECOND_MS: u64 = 1000;
const DAY_MS: u64 = 24 * 60 * 60 * SECOND_MS;

/// From the largest to the smallest; a duration names each at most once and in this order.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * DAY_MS),
    ("w", 7 * DAY_MS),
    ("d", DAY_MS),
    ("h", 60 * 60 * SECOND_MS),
    ("m", 60 * SECOND_MS),
    ("s", SECOND_MS),
    ("ms", 1),
];

/// Prometheus counts nanoseconds in an i64; a longer duration is refused here too, so that both take the same files.
const MAX_MS: u64 = (i64::MAX / 1_000_000) as u64;

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Reads a duration of zero or more, in milliseconds.
///
/// # Errors
/// When `text` is not `0` or a sequence of a number and a unit, units falling, or is over about 292 years.
pub fn parse_duration_ms(text: &str) -> Result<i64, DurationError> {
    match text {
        "0" => return Ok(0),
        "" => return Err(DurationError::Empty),
        _ => {}
    }
    let invalid = || DurationError::Invalid(text.to_owned());
    let (mut rest, mut total, mut units) = (text, 0_u64, UNITS.iter());
    while !rest.is_empty() {
        let (digits, after) = split_digits(rest);
        let number: u64 = digits.parse().map_err(|_| invalid())?;
        let end = after.bytes().position(|b| b.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(invalid());
        }
        if !UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(DurationError::UnknownUnit {
                unit: unit.to_owned(),
                text: text.to_owned(),
            });
        }
        // The iterator only goes forward: a unit that is repeated or out of order is no longer in it.
        let (_, unit_ms) = units.find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        total = number
            .checked_mul(*unit_ms)
            .and_then(|ms| total.checked_add(ms))
            .filter(|total| *total <= MAX_MS)
            .ok_or(DurationError::OutOfRange)?;
        rest = after;
    }
    i64::try_from(total).map_err(|_| DurationError::OutOfRange)
}

/// Reads a duration that may have a sign in front, in milliseconds.
///
/// # Errors
/// As [`parse_duration_ms`].
pub fn parse_signed_duration_ms(text: &str) -> Result<i64, DurationError> {
    match text.strip_prefix('-') {
        Some(magnitude) => parse_duration_ms(magnitude).map(|ms| -ms),
        None => parse_duration_ms(text),
    }
}

/// The shortest text that Prometheus would print: `90d` rather than `12w6d`, years and weeks only where nothing is left
/// over, `0s` for zero.
#[must_use]
pub fn format_duration_ms(ms: i64) -> String {
    use std::fmt::Write;
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    if ms < 0 {
        text.push('-');
    }
    let mut rest = ms.unsigned_abs();
    for (unit, unit_ms) in UNITS {
        let only_whole = matches!(unit, "y" | "w");
        let count = rest / unit_ms;
        if count == 0 || (only_whole && !rest.is_multiple_of(unit_ms)) {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{count}{unit}");
        rest -= count * unit_ms;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_prometheus_reads_them() {
        for (text, ms, printed) in [
            ("0", 0, "0s"),
            ("0w", 0, "0s"),
            ("0s", 0, "0s"),
            ("324ms", 324, "324ms"),
            ("3s", 3_000, "3s"),
            ("5m", 300_000, "5m"),
            ("1h", 3_600_000, "1h"),
            ("4d", 4 * 86_400_000, "4d"),
            ("4d1h", 4 * 86_400_000 + 3_600_000, "4d1h"),
            ("14d", 14 * 86_400_000, "2w"),
            ("3w", 21 * 86_400_000, "3w"),
            ("3w2d1h", 23 * 86_400_000 + 3_600_000, "23d1h"),
            ("10y", 3_650 * 86_400_000, "10y"),
            ("1y2w3d4h5m6s7ms", 382 * 86_400_000 + 14_706_007, "382d4h5m6s7ms"),
            ("90m", 5_400_000, "1h30m"),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
            assert_eq!(format_duration_ms(ms), printed, "{text}");
        }
        assert_eq!(parse_signed_duration_ms("-5m"), Ok(-300_000));
        assert_eq!(format_duration_ms(-5_400_000), "-1h30m");
    }

    #[test]
    fn what_is_not_a_duration_is_named() {
        for (text, message) in [
            ("", "empty duration string"),
            ("1", r#"not a valid duration string: "1""#),
            ("1y1m1d", r#"not a valid duration string: "1y1m1d""#),
            ("1m1m", r#"not a valid duration string: "1m1m""#),
            ("-1w", r#"not a valid duration string: "-1w""#),
            ("1.5d", r#"unknown unit "." in duration "1.5d""#),
            ("d", r#"not a valid duration string: "d""#),
            (" 1d", r#"not a valid duration string: " 1d""#),
            ("1d ", r#"unknown unit "d " in duration "1d ""#),
            ("5q", r#"unknown unit "q" in duration "5q""#),
            ("294y", "duration out of range"),
            ("200y10400w", "duration out of range"),
            (
                "99999999999999999999s",
                r#"not a valid duration string: "99999999999999999999s""#,
            ),
            ("1ü2s", r#"unknown unit "ü" in duration "1ü2s""#),
        ] {
            assert_eq!(
                parse_duration_ms(text).map_err(|e| e.to_string()),
                Err(message.to_owned()),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(ms in 0..=MAX_MS as i64) {
            prop_assert_eq!(parse_duration_ms(&format_duration_ms(ms)), Ok(ms));
        }

        #[test]
        fn no_text_panics(text in "[0-9ymwdhs.µ -]{0,24}") {
            let _ = parse_signed_duration_ms(&text);
        }
    }
}
