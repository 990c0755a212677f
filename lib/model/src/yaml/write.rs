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

/// Whether a bare text would read as null, a boolean or a number (or might, in YAML 1.1).
fn reads_as_other(scalar: &str) -> bool {
    let words = [
        "", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<", ".nan", ".inf", "=", "---",
    ];
    let lower = scalar.to_ascii_lowercase();
    let starts_like_number = lower
        .trim_start_matches(['+', '-', '.'])
        .starts_with(|c: char| c.is_ascii_digit());
    let number_letters =
        |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | '_' | ':' | 'a'..='f' | 'x' | 'o' | 't' | 'z');
    words.contains(&lower.trim_start_matches(['+', '-']))
        || words.contains(&lower.as_str())
        || (starts_like_number && lower.chars().all(number_letters) && !lower.contains("://"))
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
