//! TLS options into a rustls configuration. What reads files here blocks.

use super::ClientError;
use super::verify::{Taken, Verifier};
use crate::config::http::{TlsConfig, TlsVersion};
use crate::config::{SecretSource, TextSource};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use tracing::warn;

/// Where Linux distributions keep their roots; the first that is there is taken. As Go's, `SSL_CERT_FILE` stands in.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where they keep them one by one; `SSL_CERT_DIR` stands in, a list with colons.
const SYSTEM_ROOT_FOLDERS: &str = "/etc/ssl/certs:/etc/pki/tls/certs";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// By the system's roots, which are read once in a process, as Go does: it takes some milliseconds, and there may be
/// hundreds of jobs. None where there are no roots.
static BY_SYSTEM_ROOTS: LazyLock<Option<Arc<WebPkiServerVerifier>>> = LazyLock::new(|| {
    let by_roots = by_roots(system_roots()).unwrap_or_default();
    if by_roots.is_none() {
        warn!("the system has no CA certificates: targets behind TLS need a ca_file");
    }
    by_roots
});

/// The files that a client with these options is made of.
pub(super) fn files(config: &TlsConfig) -> Vec<PathBuf> {
    let texts = [&config.ca, &config.cert]
        .into_iter()
        .flatten()
        .filter_map(|t| match t {
            TextSource::File(path) => Some(path.clone()),
            TextSource::Inline(_) => None,
        });
    let key = config.key.iter().filter_map(|k| match k {
        SecretSource::File(path) => Some(path.clone()),
        SecretSource::Inline(_) => None,
    });
    texts.chain(key).collect()
}

/// The same but for what is read from files.
pub(super) fn without_files(config: &TlsConfig) -> TlsConfig {
    let mut without = config.clone();
    without.ca = without.ca.filter(|ca| matches!(ca, TextSource::Inline(_)));
    let is_inline =
        matches!(without.cert, Some(TextSource::Inline(_))) && matches!(without.key, Some(SecretSource::Inline(_)));
    if !is_inline {
        (without.cert, without.key) = (None, None);
    }
    without
}

/// # Errors
/// When a file cannot be read or what it holds cannot be used.
pub(super) fn client_config(config: &TlsConfig, http2: bool) -> Result<ClientConfig, ClientError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&versions(config)?)
        .map_err(|e| ClientError(format!("TLS versions: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(config)?);
    let mut built = match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => {
            let (chain, key) = (certificates(cert, "cert")?, private_key(key)?);
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| ClientError(format!("client certificate and key: {e}")))?
        }
        _ => builder.with_no_client_auth(),
    };
    built.alpn_protocols = vec![b"http/1.1".to_vec()];
    if http2 {
        built.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(built)
}

fn versions(config: &TlsConfig) -> Result<Vec<&'static SupportedProtocolVersion>, ClientError> {
    let least = config.min_version.unwrap_or(TlsVersion::Tls12);
    let most = config.max_version.unwrap_or(TlsVersion::Tls13);
    let known = [
        (TlsVersion::Tls12, &rustls::version::TLS12),
        (TlsVersion::Tls13, &rustls::version::TLS13),
    ];
    let chosen: Vec<_> = known
        .into_iter()
        .filter(|(v, _)| least <= *v && *v <= most)
        .map(|(_, supported)| supported)
        .collect();
    if chosen.is_empty() {
        return Err(ClientError(
            "tls_config: min_version and max_version leave neither TLS12 nor TLS13, which are what there is".to_owned(),
        ));
    }
    Ok(chosen)
}

fn read(source: &TextSource, what: &str) -> Result<Vec<u8>, ClientError> {
    match source {
        TextSource::Inline(text) => Ok(text.clone().into_bytes()),
        TextSource::File(path) => {
            std::fs::read(path).map_err(|e| ClientError(format!("unable to read {what} file {}: {e}", path.display())))
        }
    }
}

fn named(source: &TextSource, what: &str) -> String {
    match source {
        TextSource::Inline(_) => what.to_owned(),
        TextSource::File(path) => format!("{what} file {}", path.display()),
    }
}

fn certificates(source: &TextSource, what: &str) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let pem = read(source, what)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(ClientError(format!(
            "tls_config: {} holds no PEM certificate",
            named(source, what)
        ))),
        Err(e) => Err(ClientError(format!(
            "tls_config: {} is not PEM: {e}",
            named(source, what)
        ))),
    }
}

fn private_key(source: &SecretSource) -> Result<PrivateKeyDer<'static>, ClientError> {
    let pem = match source {
        SecretSource::Inline(secret) => secret.expose().as_bytes().to_vec(),
        SecretSource::File(path) => {
            std::fs::read(path).map_err(|e| ClientError(format!("unable to read key file {}: {e}", path.display())))?
        }
    };
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|e| ClientError(format!("tls_config: key is not a PEM private key: {e}")))
}

fn verifier(config: &TlsConfig) -> Result<Arc<dyn ServerCertVerifier>, ClientError> {
    if config.insecure_skip_verify {
        return Ok(Arc::new(Verifier {
            taken: Taken::Any,
            provider: Arc::clone(&PROVIDER),
        }));
    }
    let name = config.server_name.as_ref().map(|name| {
        ServerName::try_from(name.clone())
            .map_err(|_| ClientError(format!("tls_config: server_name {name:?} is not a host name")))
    });
    let (inner, own) = roots(config)?;
    let name = name.transpose()?;
    Ok(Arc::new(Verifier {
        taken: Taken::ByRoots { inner, own, name },
        provider: Arc::clone(&PROVIDER),
    }))
}

type Roots = (Option<Arc<WebPkiServerVerifier>>, Vec<CertificateDer<'static>>);

/// What certificates are checked by, and the roots of `ca_file`.
fn roots(config: &TlsConfig) -> Result<Roots, ClientError> {
    let Some(ca) = &config.ca else {
        return Ok((BY_SYSTEM_ROOTS.clone(), Vec::new()));
    };
    let own = certificates(ca, "ca")?;
    match by_roots(own.clone())? {
        Some(inner) => Ok((Some(inner), own)),
        None => Err(ClientError(
            "tls_config: none of the CA certificates can be used".to_owned(),
        )),
    }
}

/// None where none of the roots can be used.
fn by_roots(roots: Vec<CertificateDer<'static>>) -> Result<Option<Arc<WebPkiServerVerifier>>, ClientError> {
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(roots);
    if usable == 0 {
        return Ok(None);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&PROVIDER))
        .build()
        .map(Some)
        .map_err(|e| ClientError(format!("tls_config: ca: {e}")))
}

/// Those of the file; those of folders where these are asked for, or there is no file.
fn system_roots() -> Vec<CertificateDer<'static>> {
    let parse = |pem: Vec<u8>| -> Vec<_> { CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect() };
    let mut roots = match std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        Some(path) => std::fs::read(path).ok(),
        None => SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok()),
    }
    .map(parse)
    .unwrap_or_default();
    let folders = std::env::var("SSL_CERT_DIR").ok().filter(|folders| !folders.is_empty());
    if folders.is_none() && !roots.is_empty() {
        return roots;
    }
    for folder in folders.as_deref().unwrap_or(SYSTEM_ROOT_FOLDERS).split(':') {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| path.is_file());
        roots.extend(files.filter_map(|path| std::fs::read(path).ok()).flat_map(parse));
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_share_the_systems_roots() {
        let named = TlsConfig {
            server_name: Some("a.example".to_owned()),
            ..TlsConfig::default()
        };
        let (one, other) = (roots(&TlsConfig::default()).unwrap().0, roots(&named).unwrap().0);
        match (one, other) {
            (Some(one), Some(other)) => assert!(Arc::ptr_eq(&one, &other)),
            (one, other) => assert!(one.is_none() && other.is_none(), "a system without roots"),
        }
    }
}
