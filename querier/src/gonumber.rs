//! Numbers as Go's `strconv` reads them, with its complaints.

/// `strconv.ParseFloat`: decimal or hexadecimal with an exponent, `_` between digits, infinities and `NaN` in any case.
/// None for what it refuses: also what is too large for a float.
pub(crate) fn go_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    if text.eq_ignore_ascii_case("nan") {
        return Some(f64::NAN);
    }
    if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") {
        return Some(sign * f64::INFINITY);
    }
    let hex = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X"));
    let digits = hex.unwrap_or(unsigned);
    // A `_` may stand behind the `0x` as between digits.
    let digits = match hex {
        Some(digits) => digits.strip_prefix('_').unwrap_or(digits),
        None => digits,
    };
    let digits = without_underscores(digits, hex.is_some())?;
    let value = match hex {
        Some(_) => hexadecimal(&digits)?,
        None => {
            let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
            if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !digits.bytes().all(plain) {
                return None;
            }
            digits.parse::<f64>().ok()?
        }
    };
    value.is_finite().then_some(sign * value)
}

/// None where one does not stand between digits.
fn without_underscores(text: &str, hex: bool) -> Option<String> {
    let is_digit = |c: Option<char>| c.is_some_and(|c| if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() });
    let mut before = None;
    let mut rest = text.chars().peekable();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = rest.next() {
        if c != '_' {
            plain.push(c);
        } else if !is_digit(before) || !is_digit(rest.peek().copied()) {
            return None;
        }
        before = Some(c);
    }
    Some(plain)
}

/// `1a.8p-3`, without a sign; the exponent, of two, must be there.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 {
        return None;
    }
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Far beyond what makes a difference.
    let beyond = if exponent.starts_with('-') { i64::MIN } else { i64::MAX };
    let mut exponent = exponent.parse::<i64>().unwrap_or(beyond).clamp(-1 << 32, 1 << 32);
    exponent -= 4 * fraction.len() as i64;
    // The leading bits, and whether any is set behind them, so that it is rounded once.
    let (mut bits, mut rest) = (0_u64, false);
    for digit in whole.chars().chain(fraction.chars()) {
        let digit = u64::from(digit.to_digit(16)?);
        if bits >> 60 == 0 {
            bits = bits << 4 | digit;
        } else {
            rest |= digit != 0;
            exponent += 4;
        }
    }
    Some(scaled(bits, rest, exponent))
}

/// `bits` times two to the power of `exponent`, rounded to the nearest float; a little more than that where there is a
/// `rest`.
fn scaled(bits: u64, rest: bool, exponent: i64) -> f64 {
    if bits == 0 {
        return 0.0;
    }
    let shift = i64::from(bits.leading_zeros());
    let (bits, exponent) = (bits << shift, exponent - shift);
    // Of the least bit that the float has: 53 bits, fewer of what is subnormal.
    let lost = (11 + (-1074 - exponent - 11).max(0)).min(65);
    let least = exponent + lost;
    if least + 52 > 1023 {
        return f64::INFINITY;
    }
    let wide = u128::from(bits) << 1 | u128::from(rest);
    let (kept, cut) = (wide >> (lost + 1), wide & ((1 << (lost + 1)) - 1));
    let half = 1_u128 << lost;
    let up = cut > half || (cut == half && kept & 1 == 1);
    let mantissa = (kept + u128::from(up)) as f64;
    // In two steps, of which each is exact or the last: a power may be beyond what a float has.
    let first = least.clamp(-1000, 1000);
    mantissa * 2_f64.powi(first as i32) * 2_f64.powi((least - first) as i32)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_those_of_go() {
        for (text, value) in [
            ("1", 1.0),
            ("-1.5e3", -1500.0),
            ("+.5", 0.5),
            ("5.", 5.0),
            ("1_23.50_0_0e+1_2", 1.235e14),
            ("0x1p-2", 0.25),
            ("-0X1.8P1", -3.0),
            ("0x_1_2.3_4_5p+1_2", 74565.0),
            ("0x.8p0", 0.5),
            ("0x1p-1074", 5e-324),
            ("0x1p-1075", 0.0),
            ("0x1.8p-1075", 5e-324),
            ("0x1.fffffffffffff7fffffffp1023", f64::MAX),
            ("0x1.00000000000008p0", 1.0),
            ("0x1.000000000000080000000000001p0", 1.000_000_000_000_000_2),
            ("0x1.00000000000018p0", 1.000_000_000_000_000_4),
            ("0x0p99999999999999999999", 0.0),
            ("0x1p-99999999999999999999", 0.0),
            ("1e-400", 0.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(go_float(text).map(f64::to_bits), Some(value.to_bits()), "{text}");
        }
        assert!(go_float("nAn").is_some_and(f64::is_nan));
        for text in [
            "",
            ".",
            "e5",
            "1e",
            "1e+",
            "++1",
            "-+1",
            "+nan",
            "1 ",
            "0x",
            "0x1",
            "0xp1",
            "0x1pz",
            "1p3",
            "_1",
            "1_",
            "1__0",
            "1_.5",
            "0x1p_3",
            "infin",
            "1e400",
            "0x1p1024",
            "0x1.fffffffffffff8p1023",
            "\u{0661}",
        ] {
            assert_eq!(go_float(text), None, "{text}");
        }
    }

    #[test]
    fn integers_are_refused_in_the_words_of_go() {
        assert_eq!(go_integer("+7"), Ok(7));
        for (text, why) in [("1_0", "invalid syntax"), ("9223372036854775808", "value out of range")] {
            assert_eq!(go_integer(text), Err(format!("strconv.Atoi: parsing {text:?}: {why}")));
        }
    }
}
