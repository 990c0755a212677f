//! Series descriptions: `name{label="value"} 1 2+1x5 _ stale {{schema:1 …}}`.

use crate::parser::literal::{parse_number, unquote};
use crate::value::SampleValue;
use gnomon_model::histogram::{FloatHistogram, ResetHint, Span};
use gnomon_model::{Labels, LabelsBuilder, METRIC_NAME, STALE_NAN};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) enum SeriesValue {
    Float(f64),
    Histogram {
        histogram: Arc<FloatHistogram>,
        /// The description says so: then it is compared.
        hint_set: bool,
    },
}

impl SeriesValue {
    pub(super) fn to_sample(&self) -> SampleValue {
        match self {
            Self::Float(value) => SampleValue::Float(*value),
            Self::Histogram { histogram, .. } => SampleValue::Histogram(Arc::clone(histogram)),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct SeriesDescription {
    pub(super) labels: Labels,
    /// None where the description has no sample.
    pub(super) values: Vec<Option<SeriesValue>>,
}

/// Repetitions that are refused.
const MAX_REPEAT: usize = 1_000_000;

pub(super) fn parse(line: &str) -> Result<SeriesDescription, String> {
    let (labels, mut rest) = labels(line.trim())?;
    let mut values = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(SeriesDescription { labels, values });
        }
        rest = if rest.starts_with("{{") {
            histograms(rest, &mut values)?
        } else {
            floats(rest, &mut values)?
        };
    }
}

fn labels(line: &str) -> Result<(Labels, &str), String> {
    let mut builder = LabelsBuilder::default();
    let name_end = line
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(line.len());
    let (name, mut rest) = line.split_at(name_end);
    builder.set(METRIC_NAME, name);
    let spaced = rest.trim_start();
    if !spaced.starts_with('{') || spaced.starts_with("{{") {
        return Ok((builder.build(), rest));
    }
    rest = &spaced[1..];
    loop {
        rest = rest.trim_start().trim_start_matches(',').trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((builder.build(), after));
        }
        let (label, after) = label_name(rest)?;
        let after = after.trim_start();
        let Some(value) = after.strip_prefix('=') else {
            builder.set(METRIC_NAME, &label);
            rest = after;
            continue;
        };
        let (value, after) = quoted(value.trim_start())?;
        builder.set(&label, &value);
        rest = after;
    }
}

fn label_name(text: &str) -> Result<(String, &str), String> {
    if text.starts_with(['"', '\'', '`']) {
        return quoted(text);
    }
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    if end == 0 {
        return Err(format!("bad labels at {text:?}"));
    }
    Ok((text[..end].to_owned(), &text[end..]))
}

fn quoted(text: &str) -> Result<(String, &str), String> {
    let bad = || format!("bad string at {text:?}");
    let quote = text
        .chars()
        .next()
        .filter(|c| ['"', '\'', '`'].contains(c))
        .ok_or_else(bad)?;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote != '`' {
            escaped = true;
        } else if c == quote {
            let (literal, rest) = text.split_at(at + 1);
            return Ok((unquote(literal).ok_or_else(bad)?, rest));
        }
    }
    Err(bad())
}

/// Takes `x5`.
fn repeat(text: &str) -> Result<(Option<usize>, &str), String> {
    let Some(rest) = text.strip_prefix('x') else {
        return Ok((None, text));
    };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let count: usize = rest[..end].parse().map_err(|_| format!("bad repetition at {text:?}"))?;
    if count > MAX_REPEAT {
        return Err(format!("more than {MAX_REPEAT} repetitions"));
    }
    Ok((Some(count), &rest[end..]))
}

/// Takes a number with its sign. There is no hexadecimal here: `0x5` repeats a zero.
fn number(text: &str) -> Option<(f64, &str)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let bytes = unsigned.as_bytes();
    let lower = unsigned.get(..3).map(str::to_ascii_lowercase);
    let len = if matches!(lower.as_deref(), Some("inf" | "nan")) {
        3
    } else {
        let digits = |from: usize| {
            bytes[from.min(bytes.len())..]
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .count()
        };
        let mut len = digits(0);
        if bytes.get(len) == Some(&b'.') {
            len += 1 + digits(len + 1);
        }
        if matches!(bytes.get(len), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
            let exponent = digits(len + 1 + sign);
            if exponent > 0 {
                len += 1 + sign + exponent;
            }
        }
        len
    };
    let value = parse_number(unsigned.get(..len)?)?;
    Some((if text.starts_with('-') { -value } else { value }, &unsigned[len..]))
}

fn floats<'t>(text: &'t str, values: &mut Vec<Option<SeriesValue>>) -> Result<&'t str, String> {
    if let Some(rest) = text.strip_prefix('_') {
        let (count, rest) = repeat(rest)?;
        values.extend(std::iter::repeat_n(None, count.unwrap_or(1)));
        return Ok(rest);
    }
    let (first, rest) = match text.strip_prefix("stale") {
        Some(rest) => (STALE_NAN, rest),
        None => number(text).ok_or_else(|| format!("bad value at {text:?}"))?,
    };
    let (step, rest) = if rest.starts_with(['+', '-']) {
        number(rest).ok_or_else(|| format!("bad step at {rest:?}"))?
    } else {
        (0.0, rest)
    };
    let (count, rest) = repeat(rest)?;
    let mut value = first;
    for i in 0..=count.unwrap_or(0) {
        if i > 0 && step != 0.0 {
            value += step;
        }
        values.push(Some(SeriesValue::Float(value)));
    }
    Ok(rest)
}

fn histograms<'t>(text: &'t str, values: &mut Vec<Option<SeriesValue>>) -> Result<&'t str, String> {
    let (first, mut hint_set, rest) = histogram(text)?;
    let (step, sign, rest) = if rest.starts_with("+{{") || rest.starts_with("-{{") {
        let (step, step_hint, after) = histogram(&rest[1..])?;
        hint_set |= step_hint;
        (Some(step), if rest.starts_with('+') { 1.0 } else { -1.0 }, after)
    } else {
        (None, 1.0, rest)
    };
    let (count, rest) = repeat(rest)?;
    let mut value = first;
    for i in 0..=count.unwrap_or(0) {
        if i > 0
            && let Some(step) = &step
        {
            let combined = if sign > 0.0 {
                value.plus(step)
            } else {
                value.minus(step)
            };
            value = combined.map_err(|e| e.to_string())?.0;
        }
        values.push(Some(SeriesValue::Histogram {
            histogram: Arc::new(value.clone()),
            hint_set,
        }));
    }
    Ok(rest)
}

/// Takes `{{…}}`.
fn histogram(text: &str) -> Result<(FloatHistogram, bool, &str), String> {
    let inner = text
        .strip_prefix("{{")
        .ok_or_else(|| format!("expected a histogram at {text:?}"))?;
    let end = inner.find("}}").ok_or("a histogram is not closed")?;
    let (mut body, rest) = (inner[..end].trim(), &inner[end + 2..]);
    let mut histogram = FloatHistogram::default();
    let (mut offset, mut negative_offset) = (0, 0);
    let mut hint_set = false;
    while !body.is_empty() {
        let (key, after) = body
            .split_once(':')
            .ok_or_else(|| format!("bad histogram at {body:?}"))?;
        let (value, after) = if let Some(list) = after.strip_prefix('[') {
            list.split_once(']').ok_or("a list is not closed")?
        } else {
            after.split_at(after.find(char::is_whitespace).unwrap_or(after.len()))
        };
        let list = || -> Result<Vec<f64>, String> { value.split_whitespace().map(whole_number).collect() };
        let index = || value.parse::<i32>().map_err(|_| format!("bad number {value:?}"));
        match key.trim() {
            "schema" => histogram.schema = index()?,
            "sum" => histogram.sum = whole_number(value)?,
            "count" => histogram.count = whole_number(value)?,
            "z_bucket" => histogram.zero_count = whole_number(value)?,
            "z_bucket_w" => histogram.zero_threshold = whole_number(value)?,
            "offset" => offset = index()?,
            "n_offset" => negative_offset = index()?,
            "buckets" => histogram.positive_buckets = list()?,
            "n_buckets" => histogram.negative_buckets = list()?,
            "custom_values" => histogram.custom_values = list()?,
            "counter_reset_hint" => {
                hint_set = true;
                histogram.reset_hint = hint(value)?;
            }
            other => return Err(format!("unknown histogram field {other:?}")),
        }
        body = after.trim();
    }
    let spans = |offset: i32, buckets: &[f64]| -> Vec<Span> {
        let length = u32::try_from(buckets.len()).unwrap_or(u32::MAX);
        if length == 0 {
            Vec::new()
        } else {
            vec![Span { offset, length }]
        }
    };
    histogram.positive_spans = spans(offset, &histogram.positive_buckets);
    histogram.negative_spans = spans(negative_offset, &histogram.negative_buckets);
    Ok((histogram, hint_set, rest))
}

fn hint(text: &str) -> Result<ResetHint, String> {
    Ok(match text {
        "unknown" => ResetHint::Unknown,
        "reset" => ResetHint::Reset,
        "not_reset" => ResetHint::NotReset,
        "gauge" => ResetHint::Gauge,
        other => return Err(format!("unknown counter reset hint {other:?}")),
    })
}

fn whole_number(text: &str) -> Result<f64, String> {
    match number(text) {
        Some((value, "")) => Ok(value),
        _ => Err(format!("bad number {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_expanded() {
        let series = parse(r#"m{a="x y", b='z'} 1+2x2 _x2 -1-1x1 stale NaN 1e2x1"#).unwrap();
        assert_eq!(series.labels.to_string(), r#"{__name__="m", a="x y", b="z"}"#);
        let floats: Vec<Option<f64>> = series
            .values
            .iter()
            .map(|v| match v {
                Some(SeriesValue::Float(value)) => Some(*value),
                _ => None,
            })
            .collect();
        assert_eq!(floats.len(), 11);
        assert_eq!(
            floats[..7],
            [Some(1.0), Some(3.0), Some(5.0), None, None, Some(-1.0), Some(-2.0)]
        );
        assert_eq!(floats[9..], [Some(100.0), Some(100.0)]);
    }

    #[test]
    fn histograms_are_read() {
        let series =
            parse("h {{schema:1 sum:-1.5 count:3 buckets:[1 2] offset:-2 counter_reset_hint:gauge}}x1").unwrap();
        let Some(Some(SeriesValue::Histogram {
            histogram,
            hint_set: true,
        })) = series.values.first()
        else {
            panic!("no histogram");
        };
        assert_eq!((histogram.schema, histogram.sum, series.values.len()), (1, -1.5, 2));
        assert_eq!(histogram.positive_spans, [Span { offset: -2, length: 2 }]);
    }
}
