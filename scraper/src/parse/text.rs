//! The Prometheus text format, versions 0.0.4 and 1.0.0 (names in quotes), as Prometheus' own scraper takes it: labels
//! may lack commas between them, and any line that begins with `#` and is no HELP or TYPE is a comment.

use super::labels::{SeriesSpans, Span, float_label, unescape_text};
use super::lexer::{COLON, Lexer, NAME_START, Quote, Token, name_end};
use super::text_lexer::TextLexer;
use super::{EntryKind, Exemplar, FloatLabel, MetricKind, ParseError, Parser, TextKey, float};
use std::borrow::Cow;

/// Beyond it a line is not looked at for the series of the scrape before: each look costs its length.
const MAX_LIKELY_BYTES: u32 = 4096;

/// Reads one exposition. See [`Parser`].
#[derive(Debug)]
pub struct TextParser<'a> {
    lexer: TextLexer<'a>,
    entry: usize,
    spans: SeriesSpans,
    series: Span,
    value: f64,
    timestamp_ms: Option<i64>,
    kind: MetricKind,
    /// The family that `kind` belongs to.
    typed: Span,
    family: Span,
    text: Span,
    float_label: FloatLabel,
    /// Of the current sample, where it is known already.
    key: Option<TextKey>,
}

impl<'a> TextParser<'a> {
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self {
            lexer: TextLexer::new(input),
            entry: 0,
            spans: SeriesSpans::default(),
            series: 0..0,
            value: 0.0,
            timestamp_ms: None,
            kind: MetricKind::Unknown,
            typed: 0..0,
            family: 0..0,
            text: 0..0,
            float_label: FloatLabel::None,
            key: None,
        }
    }

    /// Where the current entry begins.
    pub(super) fn entry_offset(&self) -> usize {
        self.entry
    }

    fn at(&self, span: &Span) -> &'a [u8] {
        self.lexer.input.get(span.clone()).unwrap_or_default()
    }

    fn metadata(&mut self, token: Token) -> Result<EntryKind, ParseError> {
        let expected = || format!("expected metric name after {}", token.name());
        match self.lexer.lex() {
            Token::MetricName => {
                let (start, end) = (self.lexer.start(), self.lexer.pos());
                let quoted = self.lexer.token().first() == Some(&b'"');
                self.family = if quoted { start + 1..end - 1 } else { start..end };
            }
            other => return Err(self.lexer.unexpected(self.entry, &expected(), other)),
        }
        self.lexer.lex();
        let (start, end) = (self.lexer.start(), self.lexer.pos());
        self.text = (start + 1).min(end)..end;
        let kind = match token {
            Token::Type => {
                self.kind = self.declared_kind()?;
                self.typed = self.family.clone();
                EntryKind::Type
            }
            _ => {
                let text = self.at(&self.text);
                if std::str::from_utf8(text).is_err() {
                    let message = format!("help text {} is not a valid utf8 string", Quote(text));
                    return Err(ParseError::new(self.entry, message));
                }
                EntryKind::Help
            }
        };
        self.linebreak("expected linebreak after metadata")?;
        Ok(kind)
    }

    fn declared_kind(&self) -> Result<MetricKind, ParseError> {
        match self.at(&self.text) {
            b"counter" => Ok(MetricKind::Counter),
            b"gauge" => Ok(MetricKind::Gauge),
            b"histogram" => Ok(MetricKind::Histogram),
            b"summary" => Ok(MetricKind::Summary),
            b"untyped" => Ok(MetricKind::Unknown),
            other => {
                let message = format!("invalid metric type {}", Quote(other));
                Err(ParseError::new(self.entry, message))
            }
        }
    }

    fn linebreak(&mut self, expected: &str) -> Result<(), ParseError> {
        match self.lexer.lex() {
            Token::Linebreak => Ok(()),
            other => Err(self.lexer.unexpected(self.entry, expected, other)),
        }
    }

    fn sample(&mut self, first: Token) -> Result<EntryKind, ParseError> {
        self.spans.clear();
        let begin = self.lexer.start();
        let mut token = first;
        if first == Token::MetricName {
            self.spans.name = Some(begin..self.lexer.pos());
            self.series = begin..self.lexer.pos();
            token = self.lexer.lex();
        }
        if token == Token::BraceOpen {
            self.spans.read(&mut self.lexer, self.entry, false, false)?;
            self.series = begin..self.lexer.pos();
            token = self.lexer.lex();
        }
        let Some(name) = self.spans.name.clone() else {
            return Err(self.lexer.while_parsing(self.entry, "metric name not set"));
        };
        self.float_label = float_label(self.kind, self.at(&self.typed), self.at(&name));
        self.key = None;
        self.rest_of_sample(token)
    }

    /// Whether the line begins with this series, a blank, and what may be a value: as much as was read of it once tells
    /// the same again.
    #[inline]
    fn begins_with(&mut self, likely: TextKey) -> bool {
        let begin = self.lexer.pos();
        if likely.bytes > MAX_LIKELY_BYTES {
            return false;
        }
        let end = begin + likely.bytes as usize;
        let Some(text) = self.lexer.input.get(begin..end) else {
            return false;
        };
        let [b' ', next] = self
            .lexer
            .input
            .get(end..)
            .and_then(|rest| rest.get(..2))
            .unwrap_or_default()
        else {
            return false;
        };
        // A name may have its labels behind a blank.
        if matches!(next, b' ' | b'\t' | b'\n' | b'{') {
            return false;
        }
        let name_end = name_end(text, 0, NAME_START | COLON);
        // A name in quotes stands among the labels.
        if name_end == 0 || !matches!(text.get(name_end), None | Some(b'{')) {
            return false;
        }
        let label = float_label(self.kind, self.at(&self.typed), &text[..name_end]);
        if TextKey::of(text, label) != likely {
            return false;
        }
        self.spans.clear();
        self.series = begin..end;
        self.float_label = label;
        self.key = Some(likely);
        self.lexer.pass_series(end);
        true
    }

    /// From the value on.
    fn rest_of_sample(&mut self, token: Token) -> Result<EntryKind, ParseError> {
        if token != Token::Value {
            return Err(self.lexer.unexpected(self.entry, "expected value after metric", token));
        }
        self.value = float::parse_float(self.lexer.token()).map_err(|e| self.lexer.while_parsing(self.entry, &e))?;
        self.timestamp_ms = None;
        match self.lexer.lex() {
            Token::Linebreak => Ok(EntryKind::Sample),
            Token::Timestamp => {
                self.timestamp_ms = Some(self.timestamp()?);
                self.linebreak("expected next entry after timestamp")?;
                Ok(EntryKind::Sample)
            }
            other => Err(self
                .lexer
                .unexpected(self.entry, "expected timestamp or new record", other)),
        }
    }

    fn timestamp(&self) -> Result<i64, ParseError> {
        let text = self.lexer.token();
        let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
        number.ok_or_else(|| {
            let message = format!("strconv.ParseInt: parsing {}: value out of range", Quote(text));
            self.lexer.while_parsing(self.entry, &message)
        })
    }
}

impl Parser for TextParser<'_> {
    fn next_entry_after(&mut self, likely: Option<TextKey>) -> Result<Option<EntryKind>, ParseError> {
        self.entry = self.lexer.pos();
        if !likely.is_some_and(|likely| self.begins_with(likely)) {
            return self.next_entry();
        }
        let token = self.lexer.lex();
        self.rest_of_sample(token).map(Some)
    }

    fn next_entry(&mut self) -> Result<Option<EntryKind>, ParseError> {
        loop {
            self.entry = self.lexer.pos();
            match self.lexer.lex() {
                Token::Eof => return Ok(None),
                Token::Linebreak => {}
                token @ (Token::Help | Token::Type) => return self.metadata(token).map(Some),
                Token::Comment => {
                    self.text = self.lexer.start()..self.lexer.pos();
                    self.linebreak("expected linebreak after comment")?;
                    return Ok(Some(EntryKind::Comment));
                }
                token @ (Token::MetricName | Token::BraceOpen) => return self.sample(token).map(Some),
                other => return Err(self.lexer.unexpected(self.entry, "expected a valid start token", other)),
            }
        }
    }

    fn family(&self) -> Cow<'_, str> {
        match String::from_utf8_lossy(self.at(&self.family)) {
            Cow::Borrowed(name) => unescape_text(name, true),
            Cow::Owned(name) => Cow::Owned(name),
        }
    }

    fn kind(&self) -> MetricKind {
        self.kind
    }

    fn text(&self) -> Cow<'_, str> {
        match String::from_utf8_lossy(self.at(&self.text)) {
            Cow::Borrowed(text) => unescape_text(text, false),
            Cow::Owned(text) => Cow::Owned(text),
        }
    }

    fn series(&self) -> &[u8] {
        self.at(&self.series)
    }

    fn float_label(&self) -> FloatLabel {
        self.float_label
    }

    fn key(&self) -> TextKey {
        self.key.unwrap_or_else(|| TextKey::of(self.series(), self.float_label))
    }

    fn value(&self) -> f64 {
        self.value
    }

    fn timestamp_ms(&self) -> Option<i64> {
        self.timestamp_ms
    }

    fn write_labels(&self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        self.spans.write(self.lexer.input, self.entry, self.float_label, out)
    }

    fn exposes_empty(&self, name: &str) -> bool {
        self.spans.exposes_empty(self.lexer.input, name)
    }

    fn exemplar(&mut self, _labels: &mut Vec<u8>) -> Result<Option<Exemplar>, ParseError> {
        Ok(None)
    }
}
