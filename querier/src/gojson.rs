//! serde_json with the escapes and float forms of Go's `encoding/json`.

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter};
use std::io;

pub(crate) fn to_string(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, GoFormatter))?;
    // serde_json writes UTF-8 only.
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain_from = 0;
        for (at, c) in fragment.char_indices() {
            if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
                writer.write_all(&fragment.as_bytes()[plain_from..at])?;
                write!(writer, "\\u{:04x}", c as u32)?;
                plain_from = at + c.len_utf8();
            }
        }
        writer.write_all(&fragment.as_bytes()[plain_from..])
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Go drops the zero of an exponent such as e-09 here (and only here).
        let text = gnomon_model::gofloat::Json(value).to_string();
        writer.write_all(text.replace("e-0", "e-").as_bytes())
    }
}

/// Labels of canonical bytes as an object.
pub(crate) struct LabelsObject<'a>(pub(crate) gnomon_model::LabelsRef<'a>);

impl Serialize for LabelsObject<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_floats_are_gos() {
        let text =
            to_string(&serde_json::json!({"a": "x<y>&\u{2028}\u{8}", "b": 0.006158981, "c": 1e-9, "d": 2.0})).unwrap();
        assert_eq!(
            text,
            r#"{"a":"x\u003cy\u003e\u0026\u2028\b","b":0.006158981,"c":1e-9,"d":2}"#
        );
    }
}
