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

/// The shortest digits that read back as the same number, of two that are equally close the even one as strconv has it
/// (the standard library takes the larger).
struct Shortest {
    digits: [u8; 20],
    len: usize,
    /// How many digits stand before the point; 0 or less where zeros follow it.
    point: i32,
}

impl Shortest {
    /// Of a finite number, without its sign.
    fn of(value: f64) -> Self {
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value.abs());
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let mut shortest = Self {
            digits: [b'0'; 20],
            len: 0,
            point: exponent.parse().unwrap_or(0),
        };
        let mut before_point = true;
        for byte in mantissa.bytes() {
            match byte {
                b'.' => before_point = false,
                b'0' if shortest.len == 0 => shortest.point -= i32::from(!before_point),
                digit => {
                    if let Some(place) = shortest.digits.get_mut(shortest.len) {
                        *place = digit;
                        shortest.len += 1;
                    }
                    shortest.point += i32::from(before_point);
                }
            }
        }
        while shortest.len > 1 && shortest.digits[shortest.len - 1] == b'0' {
            shortest.len -= 1;
        }
        shortest
    }

    fn digits(&self) -> &str {
        std::str::from_utf8(&self.digits[..self.len]).unwrap_or("0")
    }

    fn write_plain(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let digits = self.digits();
        if digits.is_empty() {
            return out.write_char('0');
        }
        let zeros = |out: &mut _, n: usize| (0..n).try_for_each(|_| fmt::Write::write_char(out, '0'));
        match usize::try_from(self.point) {
            Ok(0) | Err(_) => {
                out.write_str("0.")?;
                zeros(out, self.point.unsigned_abs() as usize)?;
                out.write_str(digits)
            }
            Ok(point) if point >= digits.len() => {
                out.write_str(digits)?;
                zeros(out, point - digits.len())
            }
            Ok(point) => {
                out.write_str(&digits[..point])?;
                out.write_char('.')?;
                out.write_str(&digits[point..])
            }
        }
    }

    /// With two digits of the exponent at least.
    fn write_exponent(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let (first, rest) = self.digits().split_at(1);
        out.write_str(first)?;
        if !rest.is_empty() {
            out.write_char('.')?;
            out.write_str(rest)?;
        }
        let exponent = self.point - 1;
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "e{sign}{:02}", exponent.unsigned_abs())
    }
}

fn within(value: f64, low: f64, high: f64, out: &mut impl fmt::Write) -> fmt::Result {
    if let Some(word) = special(value) {
        return out.write_str(word);
    }
    if value.is_sign_negative() {
        out.write_char('-')?;
    }
    let (size, shortest) = (value.abs(), Shortest::of(value));
    if size != 0.0 && (size < low || size >= high) {
        shortest.write_exponent(out)
    } else {
        shortest.write_plain(out)
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
    if value.abs() < EXACT && value as i64 as f64 == value {
        if value.is_sign_negative() {
            out.push('-');
        }
        push_integer(out, value.abs() as u64);
    } else if (1e-3..1e15).contains(&value.abs()) {
        // No exponent, here and there.
        out.push_str(zmij::Buffer::new().format_finite(value));
    } else {
        // Writing to a String cannot fail.
        let _ = within(value, 1e-6, 1e21, out);
    }
}

/// Appends the digits of a number.
pub fn push_integer(out: &mut String, number: u64) {
    out.push_str(itoa::Buffer::new().format(number));
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
        // Of all sizes: digits of a multiplicative sequence under exponents one after the other.
        let mut bits = 1_u64;
        for _ in 0..200_000 {
            bits = bits
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            for value in [
                f64::from_bits(bits),
                (bits >> 20) as f64 / 1000.0,
                (bits as f64).ln() - 43.0,
            ] {
                let mut text = String::new();
                push_json(&mut text, value);
                assert_eq!(text, Json(value).to_string());
                // As many digits as the standard library's, and the same number.
                if value.is_finite() {
                    assert_eq!(text.parse(), Ok(value));
                    assert_eq!(Plain(value).to_string().len(), format!("{value}").len());
                }
            }
        }
        // Where two are equally close Go takes the even one.
        assert_eq!(Json(203_557_369_388_796.0 + 0.625).to_string(), "203557369388796.62");
        assert_eq!(Json(103_557_369_388_796.0 + 0.125).to_string(), "103557369388796.12");
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
