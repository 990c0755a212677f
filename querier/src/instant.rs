//! Instants as RFC 3339 text, read and written as Go's `time.RFC3339Nano`.

use gnomon_model::time::date_of_days;
use std::fmt;

const DAY_S: i64 = 86_400;

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar (era arithmetic over 400-year cycles that begin
/// on March 1st).
fn days_of_date(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads digits, exactly `count` of them, from the front.
fn digits(text: &mut &str, count: usize) -> Option<i64> {
    let (head, rest) = text.split_at_checked(count)?;
    if !head.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    *text = rest;
    head.parse().ok()
}

fn literal(text: &mut &str, expected: &str) -> Option<()> {
    *text = text.strip_prefix(expected)?;
    Some(())
}

/// Reads `2015-07-01T20:10:51.781Z`, `…+02:00`; milliseconds since the epoch, finer digits dropped.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    literal(&mut rest, "-")?;
    let month = digits(&mut rest, 2).filter(|m| (1..=12).contains(m))?;
    literal(&mut rest, "-")?;
    let day = digits(&mut rest, 2).filter(|d| (1..=days_in_month(year, month)).contains(d))?;
    literal(&mut rest, "T")?;
    let hour = digits(&mut rest, 2).filter(|h| *h < 24)?;
    literal(&mut rest, ":")?;
    let minute = digits(&mut rest, 2).filter(|m| *m < 60)?;
    literal(&mut rest, ":")?;
    let second = digits(&mut rest, 2).filter(|s| *s < 60)?;
    let mut fraction_ms = 0;
    if let Some(after) = rest.strip_prefix(['.', ',']) {
        let end = after.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(after.len());
        if end == 0 {
            return None;
        }
        let padded = format!("{:0<3}", &after[..end.min(3)]);
        fraction_ms = padded.parse::<i64>().ok()?;
        rest = &after[end..];
    }
    let offset_s = match rest.chars().next()? {
        'Z' if rest.len() == 1 => 0,
        sign @ ('+' | '-') => {
            rest = &rest[1..];
            let hours = digits(&mut rest, 2).filter(|h| *h <= 24)?;
            literal(&mut rest, ":")?;
            let minutes = digits(&mut rest, 2).filter(|m| *m <= 60)?;
            if !rest.is_empty() {
                return None;
            }
            (hours * 3600 + minutes * 60) * if sign == '-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days_of_date(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - offset_s;
    Some(seconds * 1000 + fraction_ms)
}

/// Shows milliseconds since the epoch as UTC; no fraction where there is none.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(pub i64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.0.div_euclid(1000), self.0.rem_euclid(1000));
        let (days, of_day) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
        let (year, month, day) = date_of_days(days);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if ms != 0 {
            let fraction = format!("{ms:03}");
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// What Go shows for an instant that was never set.
pub(crate) const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// An instant as text; 0 is "never".
pub(crate) fn or_zero_time(ms: i64) -> String {
    if ms == 0 {
        ZERO_TIME.to_owned()
    } else {
        Rfc3339(ms).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_instants_agree() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2015-07-01T20:10:51.781Z", 1_435_781_451_781),
            ("2000-02-29T23:59:59Z", 951_868_799_000),
            ("1969-12-31T23:59:59.5Z", -500),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000),
        ] {
            assert_eq!(parse(text), Some(ms), "{text}");
            assert_eq!(Rfc3339(ms).to_string(), text);
        }
        assert_eq!(parse("2015-07-01T22:10:51.781999+02:00"), Some(1_435_781_451_781));
        assert_eq!(parse("2015-07-01T15:10:51-05:00"), Some(1_435_781_451_000));
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "2015-07-01",
            "2015-7-1T00:00:00Z",
            "2015-02-29T00:00:00Z",
            "2015-07-01T24:00:00Z",
            "2015-07-01T00:00:00",
            "2015-07-01T00:00:00.Z",
            "2015-07-01T00:00:00Zx",
            "2015-07-01 00:00:00Z",
            "2015-07-01T00:00:00+0200",
            "20é5-07-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
