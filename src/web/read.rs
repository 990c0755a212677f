//! The file's fields.

use super::config::{ClientAuth, Pem, Rate, Source, TlsServer, WebConfig};
use gnomon_model::yaml::{At, Fields, YamlError};
use gnomon_scraper::config::Secret;
use http::{HeaderName, HeaderValue};
use rustls::SupportedCipherSuite;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, DEFAULT_CIPHER_SUITES, DEFAULT_KX_GROUPS, kx_group};
use rustls::version::{TLS12, TLS13};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Headers that may be set, and their values where only some make sense.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

/// Cipher suites that Go has and this build has not: they encrypt in a way (CBC), or exchange keys in one (RSA), that is
/// no longer thought safe.
const SUITES_LEFT_OUT: [&str; 9] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
];

pub(super) fn root(mut root: Fields<'_>, folder: &Path) -> Result<WebConfig, YamlError> {
    let mut warnings = Vec::new();
    let tls = match root.get("tls_server_config") {
        Some(at) => tls(at.fields()?, folder, &mut warnings)?,
        None => None,
    };
    let (mut http2, mut extra) = (true, Vec::new());
    if let Some(at) = root.get("http_server_config") {
        let mut http = at.fields()?;
        http2 = http.flag("http2", true)?;
        extra = http.read("headers", headers)?.unwrap_or_default();
        http.finish()?;
    }
    let config = WebConfig {
        tls,
        http2,
        headers: extra,
        users: root.read("basic_auth_users", users)?.unwrap_or_default(),
        rate: root.read("rate_limit", rate)?.flatten(),
        warnings,
    };
    root.finish()?;
    Ok(config)
}

/// None where nothing is asked for: as the toolkit decides it, ciphers and the like alone are no wish for TLS.
fn tls(mut fields: Fields<'_>, folder: &Path, warnings: &mut Vec<String>) -> Result<Option<TlsServer>, YamlError> {
    let cert = source(&mut fields, "cert", "cert_file", folder)?;
    let key = source(&mut fields, "key", "key_file", folder)?;
    let client_ca = source(&mut fields, "client_ca", "client_ca_file", folder)?;
    let client_auth = fields.read("client_auth_type", client_auth)?.flatten();
    let allowed_sans = fields.read("client_allowed_sans", At::texts)?;
    let suites = fields.read("cipher_suites", |at| suites(at, warnings))?;
    let curves = fields.read("curve_preferences", |at| curves(at, warnings))?;
    let prefer_server_suites = fields.flag("prefer_server_cipher_suites", true)?;
    let least = fields.read("min_version", version)?.unwrap_or(12);
    let most = fields.read("max_version", version)?.unwrap_or(13);
    if least < 12 {
        warnings.push("tls_server_config.min_version: TLS 1.2 is the oldest version there is here".to_owned());
    }
    let versions: Vec<_> = [(12, &TLS12), (13, &TLS13)]
        .into_iter()
        .filter_map(|(number, version)| (least <= number && number <= most).then_some(version))
        .collect();
    if versions.is_empty() {
        let message = "min_version and max_version leave neither TLS12 nor TLS13, which are what there is";
        return Err(fields.error_at("max_version", message));
    }
    let is_wanted = cert.is_some() || key.is_some() || client_ca.is_some() || client_auth.is_some();
    let client_auth = client_auth.unwrap_or(ClientAuth::None);
    if allowed_sans.is_some() && !client_auth.is_required() {
        let message = "needs client_auth_type RequireAndVerifyClientCert (or RequireAnyClientCert)";
        return Err(fields.error_at("client_allowed_sans", message));
    }
    if !is_wanted {
        fields.finish()?;
        return Ok(None);
    }
    let Some(cert) = cert else {
        return Err(fields.error("cert_file (or cert) is missing"));
    };
    let Some(key) = key else {
        return Err(fields.error("key_file (or key) is missing"));
    };
    if client_ca.is_some() && client_auth == ClientAuth::None {
        let name = if fields.get("client_ca").is_some() {
            "client_ca"
        } else {
            "client_ca_file"
        };
        return Err(fields.error_at(
            name,
            "has no meaning without client_auth_type: RequireAndVerifyClientCert, most likely",
        ));
    }
    if client_ca.is_none() && client_auth.is_verified() {
        return Err(fields.error_at(
            "client_auth_type",
            "needs client_ca_file (or client_ca): the authorities of the clients",
        ));
    }
    fields.finish()?;
    Ok(Some(TlsServer {
        cert,
        key,
        client_ca,
        client_auth,
        allowed_sans,
        suites: suites.unwrap_or_else(|| DEFAULT_CIPHER_SUITES.to_vec()),
        curves: curves.unwrap_or_else(|| DEFAULT_KX_GROUPS.to_vec()),
        prefer_server_suites,
        versions,
    }))
}

fn source(
    fields: &mut Fields<'_>,
    inline: &'static str,
    file: &'static str,
    folder: &Path,
) -> Result<Option<Source>, YamlError> {
    let is_set = |at: &At<'_>| at.text().map(|text| !text.is_empty());
    let mut of = |name: &'static str| match fields.get(name) {
        Some(at) if is_set(&at)? => Ok::<_, YamlError>(Some(at)),
        _ => Ok(None),
    };
    let (text, path) = (of(inline)?, of(file)?);
    let source = |at: &At<'_>, pem| Source {
        pem,
        mark: at.mark(),
        field: at.path().to_owned(),
    };
    match (text, path) {
        (Some(_), Some(at)) => Err(at.error(format!("{inline} is set too: leave one of them out"))),
        (Some(at), None) => Ok(Some(source(&at, Pem::Inline(Secret::new(at.text()?))))),
        // As the toolkit has it: relative to the web configuration.
        (None, Some(at)) => Ok(Some(source(&at, Pem::File(folder.join(at.text()?))))),
        (None, None) => Ok(None),
    }
}

/// An empty one is none.
fn client_auth(at: &At<'_>) -> Result<Option<ClientAuth>, YamlError> {
    Ok(Some(match at.text()? {
        "" => return Ok(None),
        "NoClientCert" => ClientAuth::None,
        "RequestClientCert" => ClientAuth::Request,
        // The second is what the toolkit called it once.
        "RequireAnyClientCert" | "RequireClientCert" => ClientAuth::RequireAny,
        "VerifyClientCertIfGiven" => ClientAuth::VerifyIfGiven,
        "RequireAndVerifyClientCert" => ClientAuth::RequireAndVerify,
        other => {
            return Err(at.error(format!(
                "{other:?} is none of NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven and \
                 RequireAndVerifyClientCert"
            )));
        }
    }))
}

fn version(at: &At<'_>) -> Result<u8, YamlError> {
    match at.text()? {
        "TLS10" => Ok(10),
        "TLS11" => Ok(11),
        "TLS12" => Ok(12),
        "TLS13" => Ok(13),
        other => Err(at.error(format!("{other:?} is none of TLS10, TLS11, TLS12 and TLS13"))),
    }
}

/// `TLS_AES_128_GCM_SHA256` is called `TLS13_AES_128_GCM_SHA256` in the library.
fn go_name(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
}

/// Only those of TLS 1.2 can be chosen, as in Go.
fn suites(at: &At<'_>, warnings: &mut Vec<String>) -> Result<Vec<SupportedCipherSuite>, YamlError> {
    let is_of_13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
    let mut chosen = Vec::new();
    let items = at.items()?;
    for item in &items {
        let name = item.text()?;
        match ALL_CIPHER_SUITES.iter().find(|suite| go_name(suite) == name) {
            Some(suite) if !is_of_13(suite) => chosen.push(*suite),
            Some(_) => {}
            None if SUITES_LEFT_OUT.contains(&name) => {
                warnings.push(format!("{}: {name} is left out: it is not safe enough", item.path()));
            }
            None => return Err(item.error(format!("unknown cipher suite {name:?}"))),
        }
    }
    if chosen.is_empty() && !items.is_empty() {
        warnings.push(format!("{}: none is left for TLS 1.2", at.path()));
    }
    if items.is_empty() {
        return Ok(DEFAULT_CIPHER_SUITES.to_vec());
    }
    let newest = DEFAULT_CIPHER_SUITES.iter().copied().filter(is_of_13);
    Ok(newest.chain(chosen).collect())
}

fn curves(at: &At<'_>, warnings: &mut Vec<String>) -> Result<Vec<&'static dyn SupportedKxGroup>, YamlError> {
    let mut chosen: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    let items = at.items()?;
    for item in &items {
        match item.text()? {
            "X25519" => chosen.push(kx_group::X25519),
            "CurveP256" => chosen.push(kx_group::SECP256R1),
            "CurveP384" => chosen.push(kx_group::SECP384R1),
            "CurveP521" => warnings.push(format!("{}: CurveP521 is not there and is left out", item.path())),
            other => {
                let message = format!("{other:?} is none of X25519, CurveP256, CurveP384 and CurveP521");
                return Err(item.error(message));
            }
        }
    }
    if items.is_empty() {
        return Ok(DEFAULT_KX_GROUPS.to_vec());
    }
    if chosen.is_empty() {
        return Err(at.error("no curve is left"));
    }
    Ok(chosen)
}

fn headers(at: &At<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, YamlError> {
    let mut all = Vec::new();
    for (name, value) in at.entries()? {
        let Some((_, accepted)) = HEADERS.iter().find(|(known, _)| *known == name) else {
            let known = HEADERS.map(|(name, _)| name).join(", ");
            return Err(value.error(format!("{name:?} cannot be set: {known} can")));
        };
        let text = if value.is_null() { "" } else { value.text()? };
        if text.is_empty() {
            continue;
        }
        if !accepted.is_empty() && !accepted.contains(&text) {
            return Err(value.error(format!("{text:?} is not {}", accepted.join(" or "))));
        }
        let header = HeaderName::try_from(name).map_err(|e| value.error(e))?;
        let text = HeaderValue::try_from(text).map_err(|_| value.error("is no value that a header can have"))?;
        all.push((header, text));
    }
    Ok(all)
}

/// Messages do not say which user: names are nobody's business in a log.
fn users(at: &At<'_>) -> Result<BTreeMap<String, Secret>, YamlError> {
    let mut all = BTreeMap::new();
    for (name, hash) in at.entries()? {
        let bad = |message: &str| YamlError {
            mark: hash.mark(),
            ..at.error(message)
        };
        let text = hash.text().map_err(|_| bad("a bcrypt hash belongs here"))?;
        let parts: Result<bcrypt::HashParts, _> = text.parse();
        let is_good = parts.is_ok_and(|parts| (4..=31).contains(&parts.get_cost()));
        if !is_good {
            return Err(bad("not a bcrypt hash ($2y$10$…, as `htpasswd -nB USER` makes them)"));
        }
        all.insert(name.to_owned(), Secret::new(text));
    }
    Ok(all)
}

/// None where the interval is 0, which is no limit.
fn rate(at: &At<'_>) -> Result<Option<Rate>, YamlError> {
    let mut fields = at.fields()?;
    let interval = fields.read("interval", go_duration)?.unwrap_or(Duration::ZERO);
    let burst = fields.read("burst", At::count)?.unwrap_or(0);
    if !interval.is_zero() && burst == 0 {
        return Err(fields.error_at("burst", "must be 1 or more: nobody would be served"));
    }
    fields.finish()?;
    Ok((!interval.is_zero()).then_some(Rate { interval, burst }))
}

/// As Go writes them: `1s`, `1.5s`, `1m30s`, `250ms`.
fn go_duration(at: &At<'_>) -> Result<Duration, YamlError> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let text = at.text()?;
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() && text != "0" {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        match (number.parse::<f64>(), factor) {
            (Ok(number), Some(factor)) => seconds += number * factor,
            _ => return Err(at.error(format!("{text:?} is no duration such as 1s, 1.5s or 250ms"))),
        }
        rest = after;
    }
    if text.is_empty() {
        return Err(at.error("a duration is missing"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| at.error(format!("{text:?} is too long")))
}
