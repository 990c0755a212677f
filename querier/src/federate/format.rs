//! What a federating server accepts: the format, and what becomes of names that formats of old cannot carry. As
//! `Negotiate` of `expfmt` and `EscapeName` of `model`, both in github.com/prometheus/common.

use gnomon_model::labels::is_legacy_metric_name;
use http::{HeaderMap, header};
use std::borrow::Cow;
use std::fmt::Write as _;

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    /// Messages, each behind its length.
    Protobuf,
}

/// How names are written that are not of letters, digits, `_` and `:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escaping {
    /// As they are, which the reader has said it understands.
    Nothing,
    /// With `_` for what is not allowed.
    Underscores,
    /// `_dot_` for a dot, `__` for `_` and for what is not allowed.
    Dots,
    /// `U__`, then `__` for `_` and `_1f600_` for what is not allowed.
    Values,
}

impl Escaping {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "allow-utf-8" => Self::Nothing,
            "underscores" => Self::Underscores,
            "dots" => Self::Dots,
            "values" => Self::Values,
            _ => return None,
        })
    }

    pub(super) fn escape(self, name: &str) -> Cow<'_, str> {
        if self == Self::Nothing || is_legacy_metric_name(name) {
            return Cow::Borrowed(name);
        }
        let mut out = String::with_capacity(name.len() + 8);
        if self == Self::Values {
            out.push_str("U__");
        }
        for (at, c) in name.char_indices() {
            let fits = c == ':' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
            match (self, c) {
                _ if fits => out.push(c),
                (Self::Dots, '.') => out.push_str("_dot_"),
                (Self::Dots, _) | (Self::Values, '_') => out.push_str("__"),
                (Self::Values, _) => {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "_{:x}_", u32::from(c));
                }
                (Self::Underscores | Self::Nothing, _) => out.push('_'),
            }
        }
        Cow::Owned(out)
    }
}

/// One of `a/b; x=y, …`.
struct Clause<'a> {
    media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f64,
}

impl<'a> Clause<'a> {
    fn read(text: &'a str) -> Self {
        let mut parts = text.split(';');
        let media_type = parts.next().unwrap_or("").trim();
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for part in parts {
            let Some((name, value)) = part.split_once('=') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name == "q" {
                quality = value.parse().unwrap_or(1.0);
            } else {
                parameters.push((name, value));
            }
        }
        Self {
            media_type,
            parameters,
            quality,
        }
    }

    fn parameter(&self, name: &str) -> &'a str {
        let found = self.parameters.iter().find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value)
    }

    fn format(&self) -> Option<Format> {
        match self.media_type {
            "application/vnd.google.protobuf" => (self.parameter("proto") == "io.prometheus.client.MetricFamily"
                && self.parameter("encoding") == "delimited")
                .then_some(Format::Protobuf),
            "text/plain" => matches!(self.parameter("version"), "" | "0.0.4").then_some(Format::Text),
            _ => None,
        }
    }
}

/// The most wanted of what there is; text where there is nothing that is wanted.
pub(super) fn accepted(headers: &HeaderMap) -> (Format, Escaping) {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut clauses: Vec<_> = accept.split(',').map(Clause::read).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let mut escaping = Escaping::Underscores;
    for clause in clauses {
        // Also of a format that there is not, as in Prometheus: who reads names in one reads them in others.
        escaping = Escaping::of(clause.parameter("escaping")).unwrap_or(escaping);
        if let Some(format) = clause.format() {
            return (format, escaping);
        }
    }
    (Format::Text, escaping)
}

pub(super) const fn content_type(format: Format, escaping: Escaping) -> &'static str {
    macro_rules! with_escaping {
        ($base:literal) => {
            match escaping {
                Escaping::Nothing => concat!($base, "; escaping=allow-utf-8"),
                Escaping::Underscores => concat!($base, "; escaping=underscores"),
                Escaping::Dots => concat!($base, "; escaping=dots"),
                Escaping::Values => concat!($base, "; escaping=values"),
            }
        };
    }
    match format {
        Format::Text => with_escaping!("text/plain; version=0.0.4; charset=utf-8"),
        Format::Protobuf => with_escaping!(
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_most_wanted_format_is_taken() {
        const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily";
        let delimited = format!("{PROTOBUF};encoding=delimited");
        for (accept, expected) in [
            (String::new(), (Format::Text, Escaping::Underscores)),
            ("*/*".to_owned(), (Format::Text, Escaping::Underscores)),
            (delimited.clone(), (Format::Protobuf, Escaping::Underscores)),
            (
                format!("text/plain;version=0.0.4;q=0.5, {delimited};q=0.6"),
                (Format::Protobuf, Escaping::Underscores),
            ),
            (
                format!("{delimited};q=0.3,text/plain;q=0.5"),
                (Format::Text, Escaping::Underscores),
            ),
            (
                format!("{PROTOBUF};encoding=text"),
                (Format::Text, Escaping::Underscores),
            ),
            (
                format!("{delimited}; escaping=allow-utf-8"),
                (Format::Protobuf, Escaping::Nothing),
            ),
            // What Prometheus 3 asks for.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
                    .to_owned(),
                (Format::Text, Escaping::Nothing),
            ),
            (
                "text/plain;escaping=\"dots\"".to_owned(),
                (Format::Text, Escaping::Dots),
            ),
            (
                "text/plain;escaping=values".to_owned(),
                (Format::Text, Escaping::Values),
            ),
            (
                "text/plain;escaping=no-such;q=x".to_owned(),
                (Format::Text, Escaping::Underscores),
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(&accept).unwrap());
            assert_eq!(accepted(&headers), expected, "{accept}");
        }
        assert_eq!(
            content_type(Format::Text, Escaping::Underscores),
            "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
        );
        assert_eq!(
            content_type(Format::Protobuf, Escaping::Nothing),
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; \
             escaping=allow-utf-8"
        );
    }

    #[test]
    fn names_are_escaped_as_asked_for() {
        for (name, underscores, dots, values) in [
            ("a_b:c1", "a_b:c1", "a_b:c1", "a_b:c1"),
            (
                "http.status_code",
                "http_status_code",
                "http_dot_status__code",
                "U__http_2e_status__code",
            ),
            ("1ü", "__", "____", "U___31__fc_"),
        ] {
            assert_eq!(Escaping::Nothing.escape(name), name);
            assert_eq!(Escaping::Underscores.escape(name), underscores);
            assert_eq!(Escaping::Dots.escape(name), dots);
            assert_eq!(Escaping::Values.escape(name), values);
        }
    }
}
