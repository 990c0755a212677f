//! Sizes in bytes as Prometheus writes them: `512MB`, `1.5GiB`. Units are powers of 1024 with or without the `i`.

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("units: invalid {0:?}")]
    Invalid(String),
    #[error("units: missing unit in {0:?} (one of B, KB, MB, GB, TB, PB, EB)")]
    MissingUnit(String),
    #[error("units: unknown unit {unit:?} in {text:?} (one of B, KB, MB, GB, TB, PB, EB)")]
    UnknownUnit { unit: String, text: String },
    #[error("units: {0:?} is negative")]
    Negative(String),
    /// 8 EiB or more.
    #[error("units: overflow parsing unit in {0:?}")]
    Overflow(String),
}

const PREFIXES: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];

fn unit_bytes(unit: &str) -> Option<f64> {
    let prefix = unit
        .strip_suffix("iB")
        .filter(|prefix| !prefix.is_empty())
        .or_else(|| unit.strip_suffix('B'))?;
    let power = PREFIXES.iter().position(|p| *p == prefix)?;
    Some(1024_f64.powi(i32::try_from(power).ok()?))
}

/// Reads a size in bytes: `0`, or numbers (with a fraction, perhaps) and units, which are added up.
///
/// # Errors
/// When a number or a unit is missing or unknown, or the size is negative or past 2^63 - 1.
pub fn parse_size_bytes(text: &str) -> Result<u64, SizeError> {
    let owned = || text.to_owned();
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let negative = unsigned.starts_with('-');
    let mut rest = unsigned.strip_prefix('-').unwrap_or(unsigned);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(SizeError::Invalid(owned()));
    }
    let number_byte = |b: u8| b.is_ascii_digit() || b == b'.';
    let mut total = 0_f64;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.bytes().position(|b| !number_byte(b)).unwrap_or(rest.len()));
        let number: f64 = number.parse().map_err(|_| SizeError::Invalid(owned()))?;
        let (unit, after) = after.split_at(after.bytes().position(number_byte).unwrap_or(after.len()));
        if unit.is_empty() {
            return Err(SizeError::MissingUnit(owned()));
        }
        let unit_bytes = unit_bytes(unit).ok_or_else(|| SizeError::UnknownUnit {
            unit: unit.to_owned(),
            text: owned(),
        })?;
        total += number * unit_bytes;
        rest = after;
    }
    if negative && total > 0.0 {
        return Err(SizeError::Negative(owned()));
    }
    // i64::MAX rounds up to 2^63 as a float: what is below it fits.
    if total >= i64::MAX as f64 {
        return Err(SizeError::Overflow(owned()));
    }
    Ok(total as u64)
}

/// The text that Prometheus prints: `15MiB`, `1GiB512MiB`, `0B`.
#[must_use]
pub fn format_size_bytes(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    let mut parts = Vec::new();
    let mut rest = bytes;
    for prefix in PREFIXES {
        if !rest.is_multiple_of(1024) {
            let unit = if prefix.is_empty() { "B" } else { "iB" };
            parts.push(format!("{}{prefix}{unit}", rest % 1024));
        }
        rest /= 1024;
    }
    parts.reverse();
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_two() {
        for (text, bytes, printed) in [
            ("0", 0, "0B"),
            ("0B", 0, "0B"),
            ("100B", 100, "100B"),
            ("1KB", 1 << 10, "1KiB"),
            ("512MB", 512 << 20, "512MiB"),
            ("15MiB", 15 << 20, "15MiB"),
            ("1.5GB", 3 << 29, "1GiB512MiB"),
            ("1GiB512MiB", 3 << 29, "1GiB512MiB"),
            ("1TB", 1 << 40, "1TiB"),
            ("2PB", 2 << 50, "2PiB"),
            ("7EB", 7 << 60, "7EiB"),
        ] {
            assert_eq!(parse_size_bytes(text), Ok(bytes), "{text}");
            assert_eq!(format_size_bytes(bytes), printed, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_named() {
        for text in [
            "", "x", "12", "1kB", "1 GB", "1.2.3GB", ".B", "-1GB", "9EB", "1GBs", "1iB", "GB", "1Gb",
        ] {
            let error = parse_size_bytes(text).expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?}")), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(bytes in 0..1_u64 << 52) {
            prop_assert_eq!(parse_size_bytes(&format_size_bytes(bytes)), Ok(bytes));
        }
    }
}
