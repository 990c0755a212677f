//! Numbers as Go's strconv prints them, which is how Prometheus shows them everywhere.

use std::fmt;

/// The shortest digits that read back as the same number, without an exponent: strconv's `'f', -1`. Infinities are
/// `+Inf` and `-Inf`, not-a-number `NaN`, negative zero `-0`.
#[derive(Clone, Copy, Debug)]
pub struct Plain(pub f64);

/// As [`Plain`], but with an exponent of at least two digits below 1e-6 and from 1e21: sample values in the JSON of the
/// HTTP API.
#[derive(Clone, Copy, Debug)]
pub struct Json(pub f64);

/// strconv's `'g', -1`: an exponent below 1e-4 and from 1e6. Go's `%g` and `%v`.
#[derive(Clone, Copy, Debug)]
pub struct General(pub f64);

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("+Inf")
    } else if value == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

fn exponent(value: f64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shortest = format!("{value:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let (sign, digits) = exponent
        .strip_prefix('-')
        .map_or(('+', exponent), |digits| ('-', digits));
    write!(f, "{mantissa}e{sign}{digits:0>2}")
}

fn within(value: f64, low: f64, high: f64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let size = value.abs();
    match special(value) {
        Some(word) => f.write_str(word),
        None if size != 0.0 && (size < low || size >= high) => exponent(value, f),
        None => write!(f, "{value}"),
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        within(self.0, 0.0, f64::INFINITY, f)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        within(self.0, 1e-6, 1e21, f)
    }
}

impl fmt::Display for General {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        within(self.0, 1e-4, 1e6, f)
    }
}

/// Appends a number as [`Json`] shows it.
pub fn push_json(out: &mut String, value: f64) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    // Whole numbers, which most are, need no search for the shortest digits.
    if value.abs() < EXACT && value.trunc() == value {
        if value.is_sign_negative() {
            out.push('-');
        }
        push_integer(out, value.abs() as u64);
    } else {
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(out, format_args!("{}", Json(value)));
    }
}

/// Appends the digits of a number.
pub fn push_integer(out: &mut String, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push_str(std::str::from_utf8(&digits[at..]).unwrap_or("0"));
}

/// A fixed number of digits after the point: Go's `%.6f`.
#[must_use]
pub fn fixed(value: f64, digits: usize) -> String {
    special(value).map_or_else(|| format!("{value:.digits$}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appending_is_the_same_as_showing() {
        let whole = [
            0.0,
            -0.0,
            1.0,
            -7.0,
            10.0,
            123_456_789.0,
            9_007_199_254_740_991.0,
            -9_007_199_254_740_992.0,
            1e20,
            1e21,
        ];
        let others = [
            0.1,
            -2.5,
            1e-7,
            123.456,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
        ];
        for value in whole.into_iter().chain(others) {
            let mut text = String::new();
            push_json(&mut text, value);
            assert_eq!(text, Json(value).to_string());
        }
        let mut text = String::new();
        push_integer(&mut text, u64::MAX);
        assert_eq!(text, u64::MAX.to_string());
    }

    #[test]
    fn numbers_look_as_in_go() {
        for (value, plain, json) in [
            (0.0, "0", "0"),
            (-0.0, "-0", "-0"),
            (1.5, "1.5", "1.5"),
            (0.1 + 0.2, "0.30000000000000004", "0.30000000000000004"),
            (1e20, "100000000000000000000", "100000000000000000000"),
            (1e21, "1000000000000000000000", "1e+21"),
            (1.5e-7, "0.00000015", "1.5e-07"),
            (1e-6, "0.000001", "0.000001"),
            (-1e300, &format!("-1{}", "0".repeat(300)), "-1e+300"),
            (f64::NAN, "NaN", "NaN"),
            (f64::INFINITY, "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
        ] {
            assert_eq!(Plain(value).to_string(), plain);
            assert_eq!(Json(value).to_string(), json);
        }
        assert_eq!(General(0.00001).to_string(), "1e-05");
        assert_eq!(General(999_999.5).to_string(), "999999.5");
        assert_eq!(General(1_234_567.5).to_string(), "1.2345675e+06");
        assert_eq!(fixed(1.0, 6), "1.000000");
    }
}
