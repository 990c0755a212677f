//! Times as dates, in UTC.

/// With milliseconds.
pub(crate) fn utc(at_ms: i64) -> String {
    let seconds = at_ms.div_euclid(1000);
    format!("{}.{:03}Z", second(seconds), at_ms.rem_euclid(1000))
}

/// Without parts of a second.
pub(crate) fn utc_seconds(at_seconds: i64) -> String {
    format!("{}Z", second(at_seconds))
}

/// The date follows from days as in H. Hinnant, "chrono-compatible low-level date algorithms": years begin in March, eras
/// have 400 of them.
fn second(at_seconds: i64) -> String {
    let (days, seconds) = (at_seconds.div_euclid(86_400), at_seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
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
