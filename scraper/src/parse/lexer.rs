//! What the lexers of both text formats share: tokens, character classes, quoted strings, error texts.

use super::ParseError;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Invalid,
    Eof,
    Linebreak,
    Help,
    Type,
    Unit,
    EofWord,
    Text,
    Comment,
    MetricName,
    QuotedString,
    BraceOpen,
    BraceClose,
    LabelName,
    LabelValue,
    Comma,
    Equal,
    Timestamp,
    Value,
}

impl Token {
    /// The names that Prometheus' error messages use.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::Eof => "EOF",
            Self::Linebreak => "LINEBREAK",
            Self::Help => "HELP",
            Self::Type => "TYPE",
            Self::Unit => "UNIT",
            Self::EofWord => "EOFWORD",
            Self::Text => "TEXT",
            Self::Comment => "COMMENT",
            Self::MetricName => "MNAME",
            Self::QuotedString => "QSTRING",
            Self::BraceOpen => "BOPEN",
            Self::BraceClose => "BCLOSE",
            Self::LabelName => "LNAME",
            Self::LabelValue => "LVALUE",
            Self::Comma => "COMMA",
            Self::Equal => "EQUAL",
            Self::Timestamp => "TIMESTAMP",
            Self::Value => "VALUE",
        }
    }
}

/// What both lexers are to the code that reads series.
pub(super) trait Lexer {
    fn lex(&mut self) -> Token;
    fn input(&self) -> &[u8];
    /// Where the current token begins.
    fn start(&self) -> usize;
    /// Where the current token ends.
    fn pos(&self) -> usize;

    fn token(&self) -> &[u8] {
        &self.input()[self.start()..self.pos()]
    }

    /// The error of an unexpected token in the entry that begins at `entry`.
    fn unexpected(&self, entry: usize, expected: &str, got: Token) -> ParseError {
        let input = self.input();
        let end = (self.pos() + 1).min(input.len());
        let token = &input[self.start().min(end)..end];
        ParseError::new(
            entry,
            format!(
                "{expected}, got {} ({}) while parsing: {}",
                Quote(token),
                Quote(got.name().as_bytes()),
                Quote(&input[entry.min(end)..end])
            ),
        )
    }

    /// The error `what` about the entry that begins at `entry`, as far as it was read.
    fn while_parsing(&self, entry: usize, what: &str) -> ParseError {
        let read = &self.input()[entry.min(self.pos())..self.pos()];
        ParseError::new(entry, format!("{what} while parsing: {}", Quote(read)))
    }
}

pub(super) const NAME_START: u8 = 1;
pub(super) const COLON: u8 = 2;
pub(super) const DIGIT: u8 = 4;

/// Class bits of each byte.
pub(super) static CLASS: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0usize;
    while i < 256 {
        let byte = i as u8;
        table[i] = if byte.is_ascii_alphabetic() || byte == b'_' {
            NAME_START
        } else if byte == b':' {
            COLON
        } else if byte.is_ascii_digit() {
            DIGIT
        } else {
            0
        };
        i += 1;
    }
    table
};

#[inline]
pub(super) fn is(byte: Option<&u8>, class: u8) -> bool {
    byte.is_some_and(|b| CLASS[usize::from(*b)] & class != 0)
}

/// Where the name that begins at `at` ends; `at` itself if there is none.
#[inline]
pub(super) fn name_end(input: &[u8], at: usize, first: u8) -> usize {
    if !is(input.get(at), first) {
        return at;
    }
    let mut end = at + 1;
    while is(input.get(end), first | DIGIT) {
        end += 1;
    }
    end
}

/// Where the double-quoted string that begins at `at` ends, its quotes included. A backslash takes the byte after it.
#[inline]
pub(super) fn quoted_end(input: &[u8], at: usize, newlines: bool) -> Option<usize> {
    if input.get(at) != Some(&b'"') {
        return None;
    }
    let mut i = at + 1;
    loop {
        match input.get(i)? {
            b'"' => return Some(i + 1),
            b'\\' => {
                if matches!(input.get(i + 1)?, b'\n') {
                    return None;
                }
                i += 2;
            }
            b'\n' if !newlines => return None,
            _ => i += 1,
        }
    }
}

/// Where the run of bytes up to the next one of `stops` ends.
#[inline]
pub(super) fn run_end(input: &[u8], at: usize, stops: &[u8]) -> usize {
    let rest = input.get(at..).unwrap_or_default();
    rest.iter()
        .position(|b| stops.contains(b))
        .map_or(input.len(), |n| at + n)
}

/// Bytes as Go's `%q` prints them, cut after 500 bytes so that a line of a gigabyte makes no such message.
pub(super) struct Quote<'a>(pub(super) &'a [u8]);

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        const LIMIT: usize = 500;
        f.write_char('"')?;
        for chunk in self.0[..self.0.len().min(LIMIT)].utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' => f.write_str("\\\"")?,
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    c if c.is_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if self.0.len() > LIMIT {
            f.write_str("…")?;
        }
        f.write_char('"')
    }
}
