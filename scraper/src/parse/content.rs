//! Which format a target answers in: what it is asked for, and what its `Content-Type` says.

use crate::config::{NameEscaping, ScrapeProtocol};
use std::fmt::Write;

/// The formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    OpenMetrics,
    Protobuf,
}

/// The `Accept` header for these protocols, the first the most wanted.
#[must_use]
pub fn accept_header(protocols: &[ScrapeProtocol], escaping: NameEscaping) -> String {
    let mut out = String::new();
    // Prometheus starts from the number of protocols it knows and one.
    let mut weight = ScrapeProtocol::ALL.len() + 1;
    for protocol in protocols {
        out.push_str(protocol.accept());
        // The older formats have no way to carry other names, so that nothing is asked for there.
        if matches!(
            protocol,
            ScrapeProtocol::PrometheusText1_0_0 | ScrapeProtocol::OpenMetricsText1_0_0
        ) {
            let _ = write!(out, ";escaping={}", escaping.name());
        }
        let _ = write!(out, ";q=0.{weight},");
        weight = weight.saturating_sub(1);
    }
    let _ = write!(out, "*/*;q=0.{weight}");
    out
}

/// The format that a protocol is read as.
#[must_use]
pub const fn format_of_protocol(protocol: ScrapeProtocol) -> Format {
    match protocol {
        ScrapeProtocol::PrometheusProto => Format::Protobuf,
        ScrapeProtocol::PrometheusText0_0_4 | ScrapeProtocol::PrometheusText1_0_0 => Format::Text,
        ScrapeProtocol::OpenMetricsText0_0_1 | ScrapeProtocol::OpenMetricsText1_0_0 => Format::OpenMetrics,
    }
}

fn format_of_media(media: &str) -> Option<Format> {
    match media {
        "text/plain" => Some(Format::Text),
        "application/openmetrics-text" => Some(Format::OpenMetrics),
        "application/vnd.google.protobuf" => Some(Format::Protobuf),
        _ => None,
    }
}

/// The format of an answer with this `Content-Type`; the fallback where that says nothing usable.
///
/// # Errors
/// When there is no fallback either, worded as Prometheus 3 does.
pub fn select_format(content_type: Option<&str>, fallback: Option<Format>) -> Result<Format, String> {
    let content_type = content_type.unwrap_or_default();
    if content_type.is_empty() {
        return fallback.ok_or_else(|| {
            "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol specified for target"
                .to_owned()
        });
    }
    let quoted = super::lexer::Quote(content_type.as_bytes());
    match parse_media(content_type) {
        None => fallback
            .ok_or_else(|| format!("cannot parse Content-Type {quoted} and no fallback_scrape_protocol for target")),
        Some(media) => format_of_media(&media).or(fallback).ok_or_else(|| {
            format!("received unsupported Content-Type {quoted} and no fallback_scrape_protocol specified for target")
        }),
    }
}

/// The media type in lower case; none where it or a parameter is malformed (RFC 9110, section 8.3.1).
fn parse_media(content_type: &str) -> Option<String> {
    let mut parts = content_type.split(';');
    let media = parts.next()?.trim().to_ascii_lowercase();
    let mut words = media.split('/');
    if !(words.next().is_some_and(is_token) && words.next().is_none_or(is_token) && words.next().is_none()) {
        return None;
    }
    for parameter in parts.map(str::trim).filter(|p| !p.is_empty()) {
        let (name, value) = parameter.split_once('=')?;
        let quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
        if !is_token(name) || !(quoted || is_token(value)) {
            return None;
        }
    }
    Some(media)
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_as_prometheus_builds_it() {
        assert_eq!(
            accept_header(&ScrapeProtocol::DEFAULT, NameEscaping::AllowUtf8),
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        );
    }

    #[test]
    fn content_types_select_formats_or_say_why_not() {
        for (header, format) in [
            ("text/plain; version=0.0.4; charset=utf-8", Format::Text),
            (
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
                Format::OpenMetrics,
            ),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
                Format::Protobuf,
            ),
            ("TEXT/PLAIN", Format::Text),
        ] {
            assert_eq!(select_format(Some(header), None), Ok(format));
        }
        assert_eq!(
            select_format(Some("text/html"), None).unwrap_err(),
            "received unsupported Content-Type \"text/html\" and no fallback_scrape_protocol specified for target"
        );
        assert!(
            select_format(Some("a/b/c"), None)
                .unwrap_err()
                .starts_with("cannot parse Content-Type")
        );
        assert!(select_format(None, None).unwrap_err().contains("blank Content-Type"));
        assert_eq!(select_format(None, Some(Format::Text)), Ok(Format::Text));
        assert_eq!(select_format(Some("text/html"), Some(Format::Text)), Ok(Format::Text));
    }
}
