//! Times as dates, in UTC.

use gnomon_model::time::date_of_days;

/// With milliseconds.
pub(crate) fn utc(at_ms: i64) -> String {
    let seconds = at_ms.div_euclid(1000);
    format!("{}.{:03}Z", second(seconds), at_ms.rem_euclid(1000))
}

/// Without parts of a second.
pub(crate) fn utc_seconds(at_seconds: i64) -> String {
    format!("{}Z", second(at_seconds))
}

fn second(at_seconds: i64) -> String {
    let (days, seconds) = (at_seconds.div_euclid(86_400), at_seconds.rem_euclid(86_400));
    let (year, month, day) = date_of_days(days);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
        assert_eq!(utc_seconds(1_700_000_000), "2023-11-14T22:13:20Z");
    }
}
