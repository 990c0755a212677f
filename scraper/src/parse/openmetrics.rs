//! OpenMetrics 1.0 text as Prometheus' scraper takes it: the syntax is held to, most of the meaning is not (that is
//! `strict.rs`).

use super::labels::{SeriesSpans, Span, float_label, unescape_text};
use super::lexer::{Lexer, Quote, Token};
use super::openmetrics_lexer::OpenMetricsLexer;
use super::{EntryKind, Exemplar, FloatLabel, MetricKind, ParseError, Parser, float};
use std::borrow::Cow;

const NO_EOF: &str = "data does not end with # EOF";

/// Reads one exposition. See [`Parser`].
#[derive(Debug)]
pub struct OpenMetricsParser<'a> {
    lexer: OpenMetricsLexer<'a>,
    pub(super) entry: usize,
    pub(super) spans: SeriesSpans,
    series: Span,
    value: f64,
    timestamp: Option<f64>,
    kind: MetricKind,
    typed: Span,
    family: Span,
    text: Span,
    float_label: FloatLabel,
    exemplar_spans: SeriesSpans,
    exemplar: Option<Exemplar>,
}

impl<'a> OpenMetricsParser<'a> {
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self {
            lexer: OpenMetricsLexer::new(input),
            entry: 0,
            spans: SeriesSpans::default(),
            series: 0..0,
            value: 0.0,
            timestamp: None,
            kind: MetricKind::Unknown,
            typed: 0..0,
            family: 0..0,
            text: 0..0,
            float_label: FloatLabel::None,
            exemplar_spans: SeriesSpans::default(),
            exemplar: None,
        }
    }

    fn at(&self, span: &Span) -> &'a [u8] {
        self.lexer.input.get(span.clone()).unwrap_or_default()
    }

    /// The sample's own time in seconds, not yet rounded to milliseconds.
    pub(super) fn timestamp_seconds(&self) -> Option<f64> {
        self.timestamp
    }

    /// Whether the sample has an exemplar that was not taken yet.
    pub(super) fn has_exemplar(&self) -> bool {
        self.exemplar.is_some()
    }

    fn fail<T>(&self, message: String) -> Result<T, ParseError> {
        Err(ParseError::new(self.entry, message))
    }

    fn metadata(&mut self, token: Token) -> Result<EntryKind, ParseError> {
        match self.lexer.lex() {
            Token::MetricName => {
                let (start, end) = (self.lexer.start(), self.lexer.pos());
                let quoted = self.lexer.token().first() == Some(&b'"');
                self.family = if quoted { start + 1..end - 1 } else { start..end };
            }
            other => {
                let expected = format!("expected metric name after {}", token.name());
                return Err(self.lexer.unexpected(self.entry, &expected, other));
            }
        }
        if self.lexer.lex() != Token::Text {
            return self.fail(format!("expected text in {}", token.name()));
        }
        self.text = self.lexer.start() + 1..self.lexer.pos() - 1;
        let text = self.at(&self.text);
        match token {
            Token::Type => {
                self.kind = self.declared_kind(text)?;
                self.typed = self.family.clone();
                Ok(EntryKind::Type)
            }
            Token::Unit => {
                let family = self.at(&self.family);
                let fits = text.is_empty() || family.strip_suffix(text).is_some_and(|stem| stem.ends_with(b"_"));
                if !fits {
                    return self.fail(format!("unit {} not a suffix of metric {}", Quote(text), Quote(family)));
                }
                Ok(EntryKind::Unit)
            }
            _ => {
                if std::str::from_utf8(text).is_err() {
                    return self.fail(format!("help text {} is not a valid utf8 string", Quote(text)));
                }
                Ok(EntryKind::Help)
            }
        }
    }

    fn declared_kind(&self, text: &[u8]) -> Result<MetricKind, ParseError> {
        match text {
            b"counter" => Ok(MetricKind::Counter),
            b"gauge" => Ok(MetricKind::Gauge),
            b"histogram" => Ok(MetricKind::Histogram),
            b"gaugehistogram" => Ok(MetricKind::GaugeHistogram),
            b"summary" => Ok(MetricKind::Summary),
            b"info" => Ok(MetricKind::Info),
            b"stateset" => Ok(MetricKind::StateSet),
            b"unknown" => Ok(MetricKind::Unknown),
            other => self.fail(format!("invalid metric type {}", Quote(other))),
        }
    }

    fn number(&self, token: Token, after: &str) -> Result<f64, ParseError> {
        if token != Token::Value {
            let expected = format!("expected value after {after}");
            return Err(self.lexer.unexpected(self.entry, &expected, token));
        }
        self.float_of_token()
    }

    /// The number in a token that begins with a blank.
    fn float_of_token(&self) -> Result<f64, ParseError> {
        let text = self.lexer.token().get(1..).unwrap_or_default();
        float::parse_float(text).map_err(|e| self.lexer.while_parsing(self.entry, &e))
    }

    fn finite_time(&self, what: &str) -> Result<f64, ParseError> {
        let time = self.float_of_token()?;
        if time.is_finite() {
            return Ok(time);
        }
        let shown = if time.is_nan() {
            "NaN"
        } else if time > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        };
        self.fail(format!("invalid {what} {shown}"))
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
            self.spans.read(&mut self.lexer, self.entry, false, true)?;
            self.series = begin..self.lexer.pos();
            token = self.lexer.lex();
        }
        let Some(name) = self.spans.name.clone() else {
            return Err(self.lexer.while_parsing(self.entry, "metric name not set"));
        };
        self.float_label = float_label(self.kind, self.at(&self.typed), self.at(&name));
        self.value = self.number(token, "metric")?;
        self.timestamp = None;
        self.exemplar = None;
        match self.lexer.lex() {
            Token::Eof => return self.fail(NO_EOF.to_owned()),
            Token::Linebreak => {}
            Token::Comment => self.read_exemplar()?,
            Token::Timestamp => {
                self.timestamp = Some(self.finite_time("timestamp")?);
                match self.lexer.lex() {
                    Token::Eof => return self.fail(NO_EOF.to_owned()),
                    Token::Linebreak => {}
                    Token::Comment => self.read_exemplar()?,
                    other => {
                        let expected = "expected next entry after timestamp";
                        return Err(self.lexer.unexpected(self.entry, expected, other));
                    }
                }
            }
            other => {
                return Err(self
                    .lexer
                    .unexpected(self.entry, "expected timestamp or # symbol", other));
            }
        }
        Ok(EntryKind::Sample)
    }

    fn read_exemplar(&mut self) -> Result<(), ParseError> {
        self.exemplar_spans.clear();
        self.exemplar_spans.read(&mut self.lexer, self.entry, true, true)?;
        let token = self.lexer.lex();
        let value = self.number(token, "exemplar labels")?;
        let mut timestamp_ms = None;
        match self.lexer.lex() {
            Token::Eof => return self.fail(NO_EOF.to_owned()),
            Token::Linebreak => {}
            Token::Timestamp => {
                timestamp_ms = Some(to_ms(self.finite_time("exemplar timestamp")?));
                match self.lexer.lex() {
                    Token::Linebreak => {}
                    other => {
                        let expected = "expected next entry after exemplar timestamp";
                        return Err(self.lexer.unexpected(self.entry, expected, other));
                    }
                }
            }
            other => {
                return Err(self
                    .lexer
                    .unexpected(self.entry, "expected timestamp or comment", other));
            }
        }
        self.exemplar = Some(Exemplar { value, timestamp_ms });
        Ok(())
    }
}

/// Seconds to milliseconds, cut towards zero; saturates.
fn to_ms(seconds: f64) -> i64 {
    (seconds * 1000.0) as i64
}

impl Parser for OpenMetricsParser<'_> {
    fn next_entry(&mut self) -> Result<Option<EntryKind>, ParseError> {
        self.entry = self.lexer.pos();
        match self.lexer.lex() {
            Token::EofWord => match self.lexer.lex() {
                Token::Eof => Ok(None),
                _ => self.fail("unexpected data after # EOF".to_owned()),
            },
            Token::Eof => self.fail(NO_EOF.to_owned()),
            token @ (Token::Help | Token::Type | Token::Unit) => self.metadata(token).map(Some),
            token @ (Token::MetricName | Token::BraceOpen) => self.sample(token).map(Some),
            other => Err(self.lexer.unexpected(self.entry, "expected a valid start token", other)),
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
            Cow::Borrowed(text) => unescape_text(text, true),
            Cow::Owned(text) => Cow::Owned(text),
        }
    }

    fn series(&self) -> &[u8] {
        self.at(&self.series)
    }

    fn float_label(&self) -> FloatLabel {
        self.float_label
    }

    fn value(&self) -> f64 {
        self.value
    }

    fn timestamp_ms(&self) -> Option<i64> {
        self.timestamp.map(to_ms)
    }

    fn write_labels(&self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        self.spans.write(self.lexer.input, self.entry, self.float_label, out)
    }

    fn exposes_empty(&self, name: &str) -> bool {
        self.spans.exposes_empty(self.lexer.input, name)
    }

    fn exemplar(&mut self, labels: &mut Vec<u8>) -> Result<Option<Exemplar>, ParseError> {
        let Some(exemplar) = self.exemplar.take() else {
            return Ok(None);
        };
        let written = self
            .exemplar_spans
            .write_exemplar(self.lexer.input, self.entry, labels)?;
        Ok(written.then_some(exemplar))
    }
}
