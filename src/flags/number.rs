//! Whole numbers as flags have them: with an exponent too, as Prometheus prints its own defaults (`5e+07`).

/// No flag's number has more digits.
const MOST_DIGITS: usize = 40;

/// The number without an exponent; none where it has none, or is not whole.
fn written_out(text: &str) -> Option<String> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let mantissa = mantissa.strip_prefix('+').unwrap_or(mantissa);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let exponent = exponent.parse::<i16>().ok()?;
    let point = usize::try_from(i64::try_from(whole.len()).ok()? + i64::from(exponent)).ok()?;
    if point > MOST_DIGITS {
        return None;
    }
    if digits.bytes().skip(point).any(|b| b != b'0') {
        return None;
    }
    while digits.len() < point {
        digits.push('0');
    }
    digits.truncate(point);
    Some(if digits.is_empty() { "0".to_owned() } else { digits })
}

/// None for what is no whole number, or is too large for the type.
pub(super) fn whole_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok().or_else(|| written_out(text)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_have_an_exponent() {
        for (text, number) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("5e7", Some(50_000_000)),
            ("5e+07", Some(50_000_000)),
            ("5E+07", Some(50_000_000)),
            ("2e1", Some(20)),
            ("2.5e1", Some(25)),
            ("1000e-3", Some(1)),
            ("2.0", Some(2)),
            ("0e9", Some(0)),
            ("0.0e0", Some(0)),
            ("1e19", Some(10_000_000_000_000_000_000)),
            ("1e20", None),
            ("1e32767", None),
            ("1e99999999999", None),
            ("2.55e1", None),
            ("1e-1", None),
            ("1.5", None),
            ("-1e1", None),
            ("e1", None),
            ("1e", None),
            (".e1", None),
            ("1e1e1", None),
            ("0x1", None),
            ("NaN", None),
            ("", None),
        ] {
            assert_eq!(whole_number::<u64>(text), number, "{text}");
        }
    }
}
