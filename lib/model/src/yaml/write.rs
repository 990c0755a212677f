//! Trees to YAML text in block style, as Go's encoder lays it out.

use std::fmt::Write;

/// A value to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Quoted where it would otherwise read as something else.
    Text(String),
    List(Vec<Self>),
    /// Texts in one line: `[a, b]`.
    Flow(Vec<String>),
    /// In the order given.
    Map(Vec<(String, Self)>),
}

impl Out {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Flow(texts) => texts.is_empty(),
            Self::Map(entries) => entries.is_empty(),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => false,
        }
    }

    /// The YAML text, ending in a newline.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        match self {
            Self::List(items) if !items.is_empty() => write_list(&mut text, items, 0),
            Self::Map(entries) if !entries.is_empty() => write_map(&mut text, entries, 0, false),
            scalar => {
                write_scalar(&mut text, scalar);
                text.push('\n');
            }
        }
        text
    }
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n("  ", depth));
}

/// `continued`: the first entry stands behind a dash that is written already.
fn write_map(text: &mut String, entries: &[(String, Out)], depth: usize, mut continued: bool) {
    for (name, value) in entries {
        if !continued {
            indent(text, depth);
        }
        continued = false;
        write_text(text, name);
        text.push(':');
        match value {
            Out::List(items) if !items.is_empty() => {
                text.push('\n');
                write_list(text, items, depth);
            }
            Out::Map(inner) if !inner.is_empty() => {
                text.push('\n');
                write_map(text, inner, depth + 1, false);
            }
            scalar => {
                text.push(' ');
                write_scalar(text, scalar);
                text.push('\n');
            }
        }
    }
}

fn write_list(text: &mut String, items: &[Out], depth: usize) {
    for item in items {
        indent(text, depth);
        text.push_str("- ");
        match item {
            Out::Map(entries) if !entries.is_empty() => write_map(text, entries, depth + 1, true),
            Out::List(inner) if !inner.is_empty() => {
                text.push('\n');
                write_list(text, inner, depth + 1);
            }
            scalar => {
                write_scalar(text, scalar);
                text.push('\n');
            }
        }
    }
}

fn write_scalar(text: &mut String, value: &Out) {
    // Writing to a String cannot fail.
    let _ = match value {
        Out::Null => write!(text, "null"),
        Out::Bool(flag) => write!(text, "{flag}"),
        Out::Int(number) => write!(text, "{number}"),
        Out::Float(number) if number.is_nan() => write!(text, ".nan"),
        Out::Float(number) if number.is_infinite() => {
            write!(text, "{}", if *number > 0.0 { ".inf" } else { "-.inf" })
        }
        Out::Float(number) => write!(text, "{number}"),
        Out::Text(scalar) => {
            write_text(text, scalar);
            Ok(())
        }
        Out::Flow(texts) => {
            text.push('[');
            for (i, scalar) in texts.iter().enumerate() {
                text.push_str(if i > 0 { ", " } else { "" });
                if scalar.contains([',', '[', ']', '{', '}']) {
                    write_double_quoted(text, scalar);
                } else {
                    write_text(text, scalar);
                }
            }
            text.push(']');
            Ok(())
        }
        Out::List(_) => write!(text, "[]"),
        Out::Map(_) => write!(text, "{{}}"),
    };
}

fn write_text(text: &mut String, scalar: &str) {
    let printable = |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    if !scalar.chars().all(printable) || reads_as_other(scalar) {
        write_double_quoted(text, scalar);
    } else if is_plain(scalar) {
        text.push_str(scalar);
    } else {
        text.push('\'');
        text.push_str(&scalar.replace('\'', "''"));
        text.push('\'');
    }
}

/// Whether a bare text would read as null, a boolean, a number or a time (or might, in YAML 1.1).
fn reads_as_other(scalar: &str) -> bool {
    let words = [
        "", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<", "=", "---", "...",
    ];
    let lower = scalar.to_ascii_lowercase().replace('_', "");
    let bare = lower.trim_start_matches(['+', '-']);
    let in_base = ["0x", "0o", "0b"].iter().any(|base| {
        bare.strip_prefix(base)
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    // YAML 1.1 has numbers to the base of sixty: 12:30:45.
    let (whole, parts) = bare.split_once(':').unwrap_or((bare, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let sexagesimal = digits(whole)
        && parts
            .split(':')
            .all(|part| digits(part) && part.split('.').all(|p| p.len() < 3));
    let date = bare.len() > 5 && bare.as_bytes()[..4].iter().all(u8::is_ascii_digit) && bare.as_bytes()[4] == b'-';
    // Rust reads all that YAML reads as a float, once the dots of `.inf` and `.nan` are gone, and a little more.
    let number = bare.parse::<f64>().is_ok() || bare.trim_start_matches('.').parse::<f64>().is_ok();
    words.contains(&scalar.to_ascii_lowercase().as_str()) || number || in_base || sexagesimal || date
}

fn is_plain(scalar: &str) -> bool {
    let special_start = scalar.starts_with([
        '-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`', ' ', '.',
    ]);
    let start_is_safe = !special_start
        || (scalar.starts_with(['-', '?', ':', '.']) && scalar.len() > 1 && !scalar[1..].starts_with([' ', '-', '.']));
    start_is_safe && !scalar.ends_with([' ', ':']) && !scalar.contains(": ") && !scalar.contains(" #")
}

fn write_double_quoted(text: &mut String, scalar: &str) {
    text.push('"');
    for c in scalar.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(text, "\\u{:04X}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
