//! Numbers and strings.

use super::{Parsed, Parser};
use crate::lexer::{Item, Token};

/// A number as Go's strconv reads it with base 0 and, failing that, as a float.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "inf" | "+inf" => return Some(f64::INFINITY),
        "-inf" => return Some(f64::NEG_INFINITY),
        "nan" => return Some(f64::NAN),
        _ => {}
    }
    if lower.ends_with('_') || lower.contains("__") {
        return None;
    }
    let plain: String = lower.chars().filter(|c| *c != '_').collect();
    if let Some(hex) = plain.strip_prefix("0x") {
        // Of more it says that it is no float.
        return i64::from_str_radix(hex, 16).ok().map(|n| n as f64);
    }
    let octal = plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(|b| b.is_ascii_digit());
    if octal && let Ok(value) = i64::from_str_radix(&plain, 8) {
        return Some(value as f64);
    }
    plain.parse().ok()
}

/// A number as Go's `strconv.ParseFloat` reads it, which label values like `le` are in.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => Some(if text.starts_with('-') {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        }),
        "nan" if unsigned == text => Some(f64::NAN),
        _ if unsigned.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'.') => text.parse().ok(),
        _ => None,
    }
}

fn hex_escape(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    let mut value = 0u32;
    for _ in 0..digits {
        value = value.checked_mul(16)? + chars.next()?.to_digit(16)?;
    }
    Some(value)
}

/// The text that a quoted one stands for; none when an escape is not Go's or the bytes are not UTF-8.
pub(crate) fn unquote(quoted: &str) -> Option<String> {
    String::from_utf8(unquote_bytes(quoted)?).ok()
}

/// The bytes that a quoted text stands for; none when an escape is not Go's.
fn unquote_bytes(quoted: &str) -> Option<Vec<u8>> {
    let quote = quoted.chars().next()?;
    let inner = quoted.get(1..quoted.len().checked_sub(1)?)?;
    if quote == '`' {
        return Some(inner.as_bytes().to_vec());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = chars.next()?;
        let wide = |code: Option<u32>| code.and_then(char::from_u32).map(|c| c.to_string().into_bytes());
        let decoded = match escape {
            'a' => vec![7],
            'b' => vec![8],
            'f' => vec![12],
            'n' => vec![b'\n'],
            'r' => vec![b'\r'],
            't' => vec![b'\t'],
            'v' => vec![11],
            '\\' => vec![b'\\'],
            '\'' | '"' if escape == quote => vec![quote as u8],
            'x' => vec![hex_escape(&mut chars, 2)? as u8],
            'u' => wide(hex_escape(&mut chars, 4))?,
            'U' => wide(hex_escape(&mut chars, 8))?,
            '0'..='7' => {
                let mut value = escape.to_digit(8)?;
                for _ in 0..2 {
                    value = value * 8 + chars.next()?.to_digit(8)?;
                }
                vec![u8::try_from(value).ok()?]
            }
            _ => return None,
        };
        bytes.extend_from_slice(&decoded);
    }
    Some(bytes)
}

impl Parser<'_> {
    /// The value of a number or duration token, durations in seconds.
    pub(super) fn number(&mut self, item: Item) -> f64 {
        let text = self.text(item);
        if item.token == Token::Duration {
            return match gnomon_model::duration::parse_duration_ms(text) {
                Ok(ms) => ms as f64 / 1000.0,
                Err(e) => {
                    self.note(item.span, e.to_string());
                    0.0
                }
            };
        }
        let value = parse_number(text);
        let infinite = value.is_some_and(f64::is_infinite) && text.as_bytes().first().is_some_and(u8::is_ascii_digit);
        if infinite {
            self.note(
                item.span,
                format!("error parsing number: strconv.ParseFloat: parsing {text:?}: value out of range"),
            );
        }
        value.unwrap_or_else(|| {
            self.note(
                item.span,
                format!("error parsing number: strconv.ParseFloat: parsing {text:?}: invalid syntax"),
            );
            0.0
        })
    }

    pub(super) fn unquoted_bytes(&mut self, item: Item) -> Vec<u8> {
        let text = self.text(item);
        unquote_bytes(text).unwrap_or_else(|| {
            self.note(item.span, format!("error unquoting string {text:?}: invalid syntax"));
            Vec::new()
        })
    }

    /// The same of what must be UTF-8: names and values of labels.
    pub(super) fn unquoted(&mut self, item: Item) -> String {
        let bytes = self.unquoted_bytes(item);
        String::from_utf8(bytes).unwrap_or_else(|_| {
            let text = self.text(item);
            self.note(item.span, format!("string {text} is not valid UTF-8"));
            String::new()
        })
    }

    pub(super) fn signed_number(&mut self, context: &str, expected: &str) -> Parsed<f64> {
        let negative = self.at_operator("-");
        if negative || self.at_operator("+") {
            self.advance();
        }
        let item = self.peek();
        if !matches!(item.token, Token::Number | Token::Duration) {
            return self.unexpected(context, expected);
        }
        self.advance();
        let value = self.number(item);
        Ok(if negative { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, value) in [
            ("0x1f", 31.0),
            ("017", 15.0),
            ("08", 8.0),
            ("1_000", 1000.0),
            ("1e3", 1e3),
            ("2.", 2.0),
        ] {
            assert_eq!(parse_number(text), Some(value), "{text}");
        }
        assert_eq!(parse_number("1__0"), None);
        assert!(parse_number("NaN").is_some_and(f64::is_nan));
    }

    #[test]
    fn escapes_are_those_of_go() {
        assert_eq!(unquote(r#""a\n\"\x41\u00e9\101""#).as_deref(), Some("a\n\"AéA"));
        assert_eq!(unquote(r"`a\n`").as_deref(), Some(r"a\n"));
        assert_eq!(unquote(r#""\q""#), None);
        assert_eq!(unquote(r#""\xc5""#), None);
    }
}
