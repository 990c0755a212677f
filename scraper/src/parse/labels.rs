//! The labels of one series: where they stand in the exposition, and their canonical form.

use super::lexer::{Lexer, Quote, Token};
use super::{FloatLabel, ParseError, float};
use gnomon_model::METRIC_NAME;
use gnomon_model::labels::put_uvarint;
use std::borrow::Cow;

/// Byte positions in the exposition, without quotes.
pub(super) type Span = std::ops::Range<usize>;

/// A label's name and value, without escapes.
type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Positions of a series' name and labels; kept between series so that its memory is reused.
#[derive(Debug, Default)]
pub(super) struct SeriesSpans {
    pub(super) name: Option<Span>,
    pub(super) labels: Vec<(Span, Span)>,
}

impl SeriesSpans {
    pub(super) fn clear(&mut self) {
        self.name = None;
        self.labels.clear();
    }

    /// Reads what stands between braces, the opening one already read. `exemplar` allows no metric name;
    /// `commas` insists on commas between labels (the older text format does not).
    pub(super) fn read<L: Lexer>(
        &mut self,
        lexer: &mut L,
        entry: usize,
        exemplar: bool,
        commas: bool,
    ) -> Result<(), ParseError> {
        let mut token = lexer.lex();
        loop {
            let mut name = lexer.start()..lexer.pos();
            let quoted = token == Token::QuotedString;
            match token {
                Token::BraceClose => return Ok(()),
                Token::LabelName | Token::QuotedString => {}
                other => return Err(lexer.unexpected(entry, "expected label name", other)),
            }
            if quoted {
                name = name.start + 1..name.end - 1;
            }
            token = lexer.lex();
            // A quoted string followed by a comma or a brace is the metric's name.
            if matches!(token, Token::Comma | Token::BraceClose) {
                if exemplar || !quoted {
                    return Err(lexer.unexpected(entry, "expected equal", token));
                }
                if self.name.is_some() {
                    return Err(lexer.while_parsing(entry, "metric name already set"));
                }
                self.name = Some(name);
                if token == Token::BraceClose {
                    return Ok(());
                }
                token = lexer.lex();
                continue;
            }
            if token != Token::Equal {
                return Err(lexer.unexpected(entry, "expected equal", token));
            }
            match lexer.lex() {
                Token::LabelValue => self.labels.push((name, lexer.start() + 1..lexer.pos() - 1)),
                other => return Err(lexer.unexpected(entry, "expected label value", other)),
            }
            token = lexer.lex();
            if token == Token::Comma {
                token = lexer.lex();
            } else if commas && token != Token::BraceClose {
                return Err(lexer.unexpected(entry, "expected comma or brace close", token));
            }
        }
    }

    pub(super) fn exposes_empty(&self, input: &[u8], name: &str) -> bool {
        let is = |(n, v): &(Span, Span)| v.is_empty() && input.get(n.clone()) == Some(name.as_bytes());
        self.labels.iter().any(is)
    }

    /// Appends the canonical bytes of the labels at these positions of `input`.
    pub(super) fn write(
        &self,
        input: &[u8],
        entry: usize,
        float_label: FloatLabel,
        out: &mut Vec<u8>,
    ) -> Result<(), ParseError> {
        write_pairs(&mut self.pairs(input, entry, float_label)?, entry, out)
    }

    /// As [`Self::write`], of an exemplar: false where a label name repeats, and nothing is appended.
    pub(super) fn write_exemplar(&self, input: &[u8], entry: usize, out: &mut Vec<u8>) -> Result<bool, ParseError> {
        write_exemplar_pairs(&mut self.pairs(input, entry, FloatLabel::None)?, entry, out)
    }

    fn pairs<'i>(&self, input: &'i [u8], entry: usize, float_label: FloatLabel) -> Result<Vec<Pair<'i>>, ParseError> {
        // Few labels have escapes, so that pairs borrow from the input but for those.
        let mut pairs = Vec::with_capacity(self.labels.len() + 1);
        if let Some(name) = &self.name {
            pairs.push((Cow::Borrowed(METRIC_NAME), unescape(input, name, entry, "metric name")?));
        }
        for (name, value) in &self.labels {
            let name = unescape(input, name, entry, "label name")?;
            let value = unescape(input, value, entry, "label value")?;
            let value = normalise(float_label, &name, value);
            pairs.push((name, value));
        }
        Ok(pairs)
    }
}

/// Sorts the pairs and appends them in canonical bytes.
pub(super) fn write_pairs<N: AsRef<str>, V: AsRef<str>>(
    pairs: &mut [(N, V)],
    entry: usize,
    out: &mut Vec<u8>,
) -> Result<(), ParseError> {
    if let Some(name) = sort_and_find_repeated(pairs) {
        return Err(ParseError::new(
            entry,
            format!("label name {} is not unique: invalid sample", Quote(name.as_bytes())),
        ));
    }
    write_sorted(pairs, entry, out)
}

/// As [`write_pairs`], of an exemplar: false where a name repeats, and nothing is appended. The sample is good all the same.
pub(super) fn write_exemplar_pairs<N: AsRef<str>, V: AsRef<str>>(
    pairs: &mut [(N, V)],
    entry: usize,
    out: &mut Vec<u8>,
) -> Result<bool, ParseError> {
    if sort_and_find_repeated(pairs).is_some() {
        return Ok(false);
    }
    write_sorted(pairs, entry, out).map(|()| true)
}

fn sort_and_find_repeated<N: AsRef<str>, V>(pairs: &mut [(N, V)]) -> Option<&str> {
    pairs.sort_unstable_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
    let twice = pairs.windows(2).find(|w| w[0].0.as_ref() == w[1].0.as_ref())?;
    Some(twice[0].0.as_ref())
}

fn write_sorted<N: AsRef<str>, V: AsRef<str>>(
    pairs: &[(N, V)],
    entry: usize,
    out: &mut Vec<u8>,
) -> Result<(), ParseError> {
    for (name, value) in pairs.iter() {
        let (name, value) = (name.as_ref(), value.as_ref());
        if name.is_empty() {
            return Err(ParseError::new(
                entry,
                "invalid metric name or label names: an empty label name",
            ));
        }
        if value.is_empty() {
            continue;
        }
        for text in [name, value] {
            put_uvarint(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
    }
    Ok(())
}

fn normalise<'a>(float_label: FloatLabel, name: &str, value: Cow<'a, str>) -> Cow<'a, str> {
    let wanted = match float_label {
        FloatLabel::None => return value,
        FloatLabel::Le => "le",
        FloatLabel::Quantile => "quantile",
    };
    if name != wanted {
        return value;
    }
    match float::parse_float(value.as_bytes()) {
        Ok(number) => {
            let mut text = Vec::with_capacity(24);
            float::write_openmetrics_float(&mut text, number);
            String::from_utf8(text).map_or(value, Cow::Owned)
        }
        Err(_) => value,
    }
}

/// The text at `span` with `\\`, `\"` and `\n` resolved; other escapes stay as they are.
fn unescape<'a>(input: &'a [u8], span: &Span, entry: usize, what: &str) -> Result<Cow<'a, str>, ParseError> {
    let bytes = input.get(span.clone()).unwrap_or_default();
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ParseError::new(entry, format!("invalid UTF-8 {what}: {}", Quote(bytes))))?;
    Ok(unescape_text(text, true))
}

/// Resolves escapes; `quotes` says whether `\"` is one.
pub(super) fn unescape_text(text: &str, quotes: bool) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('\\') => out.push('\\'),
            Some('"') if quotes => out.push('"'),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    Cow::Owned(out)
}

/// The float label of the series `name` if it belongs to the family `family` of this kind.
pub(super) fn float_label(kind: super::MetricKind, family: &[u8], name: &[u8]) -> FloatLabel {
    use super::MetricKind;
    let (wanted, suffixes): (FloatLabel, &[&[u8]]) = match kind {
        MetricKind::Histogram => (FloatLabel::Le, &[b"_bucket"]),
        MetricKind::Summary => (FloatLabel::Quantile, &[b""]),
        _ => return FloatLabel::None,
    };
    let belongs = name
        .strip_prefix(family)
        .is_some_and(|suffix| suffixes.contains(&suffix));
    if belongs { wanted } else { FloatLabel::None }
}
