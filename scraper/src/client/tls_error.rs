//! Failures of TLS in the words of Go's `crypto/tls` and `crypto/x509`.

use super::verify::is_authority;
use crate::rfc3339::utc_seconds;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError};

#[must_use]
pub(super) fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => {
            format!("tls: failed to verify certificate: x509: {}", of_certificate(why))
        }
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {}", of_alert(*alert)),
        rustls::Error::InvalidMessage(_) => "tls: first record does not look like a TLS handshake".to_owned(),
        other => format!("tls: {other}"),
    }
}

fn of_certificate(why: &CertificateError) -> String {
    let fixed = match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "certificate signed by unknown authority",
        CertificateError::Expired | CertificateError::NotValidYet => "certificate has expired or is not yet valid",
        CertificateError::ExpiredContext { time, not_after } => return of_time(*time, "after", *not_after),
        CertificateError::NotValidYetContext { time, not_before } => return of_time(*time, "before", *not_before),
        CertificateError::NotValidForName => "certificate is not valid for the name of the target",
        CertificateError::NotValidForNameContext { expected, presented } => return of_name(expected, presented),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage"
        }
        CertificateError::Revoked => "certificate has been revoked",
        CertificateError::BadEncoding => "malformed certificate",
        CertificateError::UnhandledCriticalExtension => "unhandled critical extension",
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "cannot verify signature: algorithm unimplemented"
        }
        why if is_authority(why) => {
            "certificate signed by unknown authority (it is an authority's own, CA:TRUE: taken only where it is in ca_file)"
        }
        CertificateError::Other(other) => return of_other(&other.to_string()),
        why => return why.to_string(),
    };
    fixed.to_owned()
}

/// What webpki has no other word for than the name of its error.
fn of_other(name: &str) -> String {
    match name {
        "UnsupportedCertVersion" => "certificate relies on legacy Common Name field, use SANs instead".to_owned(),
        "EndEntityUsedAsCa" => "certificate is not authorized to sign other certificates".to_owned(),
        "PathLenConstraintViolated" => "too many intermediates for path length constraint".to_owned(),
        "NameConstraintViolation" => {
            "a root or intermediate certificate is not authorized to sign for this name".to_owned()
        }
        other => format!("certificate not acceptable: {}", spaced(other)),
    }
}

fn of_time(time: UnixTime, side: &str, bound: UnixTime) -> String {
    let text = |time: UnixTime| utc_seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1000));
    format!(
        "certificate has expired or is not yet valid: current time {} is {side} {}",
        text(time),
        text(bound)
    )
}

/// `presented` are names as webpki writes them: `DnsName("a")`, `IpAddress(10.0.0.1)`.
fn of_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    let host = expected.to_str();
    let is_address = matches!(expected, ServerName::IpAddress(_));
    let kind = if is_address { "IpAddress(" } else { "DnsName(" };
    let names: Vec<&str> = presented
        .iter()
        .filter_map(|name| name.strip_prefix(kind)?.strip_suffix(')'))
        .map(|name| name.trim_matches('"'))
        .collect();
    match names.as_slice() {
        [] if is_address => {
            format!("cannot validate certificate for {host} because it doesn't contain any IP SANs")
        }
        [] => format!("certificate is not valid for any names, but wanted to match {host}"),
        names => format!("certificate is valid for {}, not {host}", names.join(", ")),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "unknown certificate authority".to_owned(),
        AlertDescription::CertificateExpired => "expired certificate".to_owned(),
        AlertDescription::CertificateRevoked => "revoked certificate".to_owned(),
        AlertDescription::CertificateUnknown => "unknown certificate".to_owned(),
        AlertDescription::DecryptError => "error decrypting message".to_owned(),
        AlertDescription::DecodeError => "error decoding message".to_owned(),
        AlertDescription::ProtocolVersion => "protocol version not supported".to_owned(),
        AlertDescription::InsufficientSecurity => "insufficient security level".to_owned(),
        AlertDescription::UnrecognisedName => "unrecognized name".to_owned(),
        other => spaced(&format!("{other:?}")),
    }
}

/// `HandshakeFailure` as `handshake failure`.
fn spaced(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (at, c) in name.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn refusals_are_worded_as_go_does() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = |expected: &str, presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from(expected.to_owned()).unwrap(),
            presented: presented.iter().map(|n| (*n).to_owned()).collect(),
        };
        let both = [
            r#"DnsName("a.example")"#,
            r#"DnsName("*.b.example")"#,
            "IpAddress(10.0.0.1)",
        ];
        for (why, text) in [
            (
                CertificateError::UnknownIssuer,
                "certificate signed by unknown authority",
            ),
            (
                name("x.example", &both),
                "certificate is valid for a.example, *.b.example, not x.example",
            ),
            (
                name("127.0.0.1", &both),
                "certificate is valid for 10.0.0.1, not 127.0.0.1",
            ),
            (
                name("127.0.0.1", &both[..2]),
                "cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs",
            ),
            (
                name("x.example", &[]),
                "certificate is not valid for any names, but wanted to match x.example",
            ),
            (
                CertificateError::ExpiredContext {
                    time: at(1_700_000_000),
                    not_after: at(951_782_400),
                },
                "certificate has expired or is not yet valid: current time 2023-11-14T22:13:20Z is after 2000-02-29T00:00:00Z",
            ),
        ] {
            let words = words(&rustls::Error::InvalidCertificate(why));
            assert_eq!(words, format!("tls: failed to verify certificate: x509: {text}"));
        }
        let alert = |alert| words(&rustls::Error::AlertReceived(alert));
        assert_eq!(
            alert(AlertDescription::CertificateRequired),
            "remote error: tls: certificate required"
        );
    }
}
