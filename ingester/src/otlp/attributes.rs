//! Attributes: keys, and values as texts.

use super::BadOtlp;
use super::read::{each, utf8};
use crate::remote_write::scan::{Fields, Value};
use gnomon_model::gofloat;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// How deep lists and maps may be nested in each other.
const MAX_DEPTH: u32 = 32;

/// The attributes of one message, as they stand.
pub(super) type Attributes<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// Reads the attributes that are field `field` of a message.
pub(super) fn attributes<'a>(message: &'static str, bytes: &'a [u8], field: u32) -> Result<Attributes<'a>, BadOtlp> {
    let mut found = Vec::new();
    each(message, bytes, field, |pair| {
        let (key, value) = key_value(pair)?;
        found.push((utf8(key)?, text(value)?));
        Ok(())
    })?;
    Ok(found)
}

fn key_value(bytes: &[u8]) -> Result<(&[u8], &[u8]), BadOtlp> {
    let (mut key, mut any): (&[u8], &[u8]) = (&[], &[]);
    let mut fields = Fields::of("KeyValue", bytes);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => key = fields.bytes(field, value)?,
            2 => any = fields.bytes(field, value)?,
            _ => {}
        }
    }
    Ok((key, any))
}

/// A value of any type.
#[derive(Clone, Copy, Debug)]
enum Any<'a> {
    Empty,
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    List(&'a [u8]),
    Map(&'a [u8]),
    Bytes(&'a [u8]),
}

impl<'a> Any<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, BadOtlp> {
        let mut found = Self::Empty;
        let mut fields = Fields::of("AnyValue", bytes);
        while let Some((field, value)) = fields.next()? {
            found = match field {
                1 => Self::Text(utf8(fields.bytes(field, value)?)?),
                2 => Self::Bool(fields.varint(field, value)? != 0),
                3 => Self::Int(fields.varint(field, value)? as i64),
                4 => Self::Double(fields.double(field, value)?),
                5 => Self::List(fields.bytes(field, value)?),
                6 => Self::Map(fields.bytes(field, value)?),
                7 => Self::Bytes(fields.bytes(field, value)?),
                _ => match value {
                    Value::Bytes(_) | Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32 | Value::Group => found,
                },
            };
        }
        Ok(found)
    }
}

/// A value as a label has it: a text as it is, a number in digits, bytes in base 64, lists and maps in JSON (as Go
/// writes it, which is what Prometheus shows).
fn text(bytes: &[u8]) -> Result<Cow<'_, str>, BadOtlp> {
    Ok(match Any::of(bytes)? {
        Any::Text(text) => Cow::Borrowed(text),
        Any::Empty => Cow::Borrowed(""),
        other => {
            let mut out = String::new();
            match other {
                Any::Bytes(bytes) => super::base64::encode(bytes, &mut out),
                other => put_json(other, 0, &mut out)?,
            }
            Cow::Owned(out)
        }
    })
}

fn put_json(value: Any<'_>, depth: u32, out: &mut String) -> Result<(), BadOtlp> {
    if depth > MAX_DEPTH {
        return Err(BadOtlp::Deep(MAX_DEPTH));
    }
    match value {
        Any::Empty => out.push_str("null"),
        Any::Text(text) => put_json_text(text, out),
        Any::Bool(value) => out.push_str(if value { "true" } else { "false" }),
        Any::Int(value) => out.push_str(&value.to_string()),
        Any::Double(value) => gofloat::push_json(out, value),
        Any::Bytes(bytes) => {
            out.push('"');
            super::base64::encode(bytes, out);
            out.push('"');
        }
        Any::List(bytes) => {
            out.push('[');
            let mut first = true;
            each("ArrayValue", bytes, 1, |value| {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                put_json(Any::of(value)?, depth + 1, out)
            })?;
            out.push(']');
        }
        Any::Map(bytes) => {
            // By key, the last of equal ones.
            let mut pairs = BTreeMap::new();
            each("KeyValueList", bytes, 1, |pair| {
                let (key, value) = key_value(pair)?;
                pairs.insert(utf8(key)?, value);
                Ok(())
            })?;
            out.push('{');
            for (number, (key, value)) in pairs.into_iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                put_json_text(key, out);
                out.push(':');
                put_json(Any::of(value)?, depth + 1, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn put_json_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            // Go escapes what could end a script.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
