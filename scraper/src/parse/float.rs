//! Numbers of expositions: read as Go's `strconv.ParseFloat` does, written as Prometheus writes `le` and `quantile`.

use super::lexer::Quote;
use gnomon_model::NORMAL_NAN;
use std::fmt::Write;

/// Reads a number; the error is Go's.
pub(super) fn parse_float(text: &[u8]) -> Result<f64, String> {
    if let Some(value) = parse_short(text) {
        return Ok(value);
    }
    parse_long(text)
}

/// Up to 15 digits with at most one dot: mantissa and power of ten are exact, so one division rounds correctly
/// (Clinger, "How to read floating point numbers accurately", 1990).
#[inline]
fn parse_short(text: &[u8]) -> Option<f64> {
    const TENS: [f64; 16] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
    ];
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let mut mantissa = 0u64;
    let mut count = 0usize;
    let mut dot = None;
    for &byte in digits {
        match byte {
            b'0'..=b'9' => {
                mantissa = mantissa * 10 + u64::from(byte - b'0');
                count += 1;
            }
            b'.' if dot.is_none() => dot = Some(count),
            _ => return None,
        }
    }
    if count == 0 || count > 15 {
        return None;
    }
    let value = mantissa as f64 / TENS[count - dot.unwrap_or(count)];
    Some(if negative { -value } else { value })
}

fn parse_long(text: &[u8]) -> Result<f64, String> {
    if text.iter().any(|b| matches!(b, b'p' | b'P' | b'_')) {
        return Err("unsupported character in float".to_owned());
    }
    let syntax = || format!("strconv.ParseFloat: parsing {}: invalid syntax", Quote(text));
    let word = std::str::from_utf8(text).map_err(|_| syntax())?;
    // Rust takes a signed NaN, Go does not.
    let signed = matches!(text.first(), Some(b'+' | b'-'));
    let value: f64 = word.parse().map_err(|_| syntax())?;
    if value.is_nan() {
        return if signed { Err(syntax()) } else { Ok(NORMAL_NAN) };
    }
    if value.is_infinite() && text.iter().any(u8::is_ascii_digit) {
        return Err(format!(
            "strconv.ParseFloat: parsing {}: value out of range",
            Quote(text)
        ));
    }
    Ok(value)
}

/// A text of up to 40 bytes on the stack.
pub(super) struct ShortText {
    bytes: [u8; 40],
    len: usize,
}

impl ShortText {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; 40], len: 0 }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for ShortText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Appends a float as Prometheus writes the values of `le` and `quantile`: Go's `%g` with the shortest digits, and
/// `.0` where the result would have neither a dot nor an exponent.
pub fn write_openmetrics_float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return;
    }
    if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
        return;
    }
    if value == 0.0 {
        out.extend_from_slice(b"0.0");
        return;
    }
    let mut scientific = ShortText::new();
    // 17 digits, a dot, a sign, an exponent of three digits and its sign: it always fits.
    let _ = write!(scientific, "{:e}", value.abs());
    let text = scientific.as_bytes();
    let split = text.iter().position(|b| *b == b'e').unwrap_or(text.len());
    let exponent: i32 = std::str::from_utf8(text.get(split + 1..).unwrap_or_default())
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(0);
    let digits = text[..split].iter().copied().filter(u8::is_ascii_digit);
    if value < 0.0 {
        out.push(b'-');
    }
    // Go's rule for %g with shortest digits.
    if !(-4..6).contains(&exponent) {
        write_scientific(out, &text[..split], exponent);
    } else {
        write_plain(out, digits, exponent);
    }
}

fn write_scientific(out: &mut Vec<u8>, mantissa: &[u8], exponent: i32) {
    out.extend_from_slice(mantissa);
    let mut tail = ShortText::new();
    let sign = if exponent < 0 { '-' } else { '+' };
    let _ = write!(tail, "e{sign}{:02}", exponent.abs());
    out.extend_from_slice(tail.as_bytes());
}

fn write_plain(out: &mut Vec<u8>, digits: impl Iterator<Item = u8>, exponent: i32) {
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend((exponent..-1).map(|_| b'0'));
        out.extend(digits);
        return;
    }
    let mut whole = exponent + 1;
    let mut dotted = false;
    for digit in digits {
        if whole == 0 {
            out.push(b'.');
            dotted = true;
        }
        whole -= 1;
        out.push(digit);
    }
    out.extend((0..whole.max(0)).map(|_| b'0'));
    if !dotted {
        out.extend_from_slice(b".0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn om(value: f64) -> String {
        let mut out = Vec::new();
        write_openmetrics_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_are_written_as_go_does() {
        for (value, text) in [
            (1.0, "1.0"),
            (0.0, "0.0"),
            (-1.0, "-1.0"),
            (0.005, "0.005"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (100000.0, "100000.0"),
            (1e6, "1e+06"),
            (1234567.0, "1.234567e+06"),
            (123456.5, "123456.5"),
            (1234567.5, "1.2345675e+06"),
            (1e21, "1e+21"),
            (2.5, "2.5"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
            (1.5e-300, "1.5e-300"),
        ] {
            assert_eq!(om(value), text);
        }
    }

    #[test]
    fn floats_are_read_as_go_does() {
        for (text, value) in [
            ("1", 1.0),
            ("-0.25", -0.25),
            ("1.", 1.0),
            (".5", 0.5),
            ("1e3", 1000.0),
            ("+Inf", f64::INFINITY),
            ("-inf", f64::NEG_INFINITY),
            ("Infinity", f64::INFINITY),
            ("123456789012345", 123_456_789_012_345.0),
            ("0.1", 0.1),
            ("9223372036854775808", 9_223_372_036_854_775_808.0),
        ] {
            assert_eq!(parse_float(text.as_bytes()), Ok(value), "{text}");
        }
        assert_eq!(parse_float(b"nan").unwrap().to_bits(), NORMAL_NAN.to_bits());
        for bad in ["", "-", ".", "1_0", "0x1p3", "+nan", "1e999", "a", "1 ", "0x1", "--1"] {
            assert!(parse_float(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
