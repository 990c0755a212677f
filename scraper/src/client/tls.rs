//! TLS options into a rustls configuration.

use super::ClientError;
use crate::config::http::{TlsConfig, TlsVersion};
use crate::config::{SecretSource, TextSource};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use std::path::PathBuf;
use std::sync::Arc;

/// Where Linux distributions keep their roots; the first that is there is taken.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

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

/// None where the options are all defaults: the client's own configuration serves.
pub(super) async fn client_config(config: &TlsConfig, http2: bool) -> Result<Option<ClientConfig>, ClientError> {
    if *config == TlsConfig::default() {
        return Ok(None);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(config)?)
        .map_err(|e| ClientError(format!("TLS versions: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(config, provider).await?);
    let mut built = match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => {
            let (chain, key) = (certificates(cert, "cert").await?, private_key(key).await?);
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
    Ok(Some(built))
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

async fn read(source: &TextSource, what: &str) -> Result<Vec<u8>, ClientError> {
    match source {
        TextSource::Inline(text) => Ok(text.clone().into_bytes()),
        TextSource::File(path) => tokio::fs::read(path)
            .await
            .map_err(|e| ClientError(format!("unable to read {what} file {}: {e}", path.display()))),
    }
}

async fn certificates(source: &TextSource, what: &str) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let pem = read(source, what).await?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(ClientError(format!("tls_config: {what} holds no PEM certificate"))),
        Err(e) => Err(ClientError(format!("tls_config: {what} is not PEM: {e}"))),
    }
}

async fn private_key(source: &SecretSource) -> Result<PrivateKeyDer<'static>, ClientError> {
    let pem = match source {
        SecretSource::Inline(secret) => secret.expose().as_bytes().to_vec(),
        SecretSource::File(path) => tokio::fs::read(path)
            .await
            .map_err(|e| ClientError(format!("unable to read key file {}: {e}", path.display())))?,
    };
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|e| ClientError(format!("tls_config: key is not a PEM private key: {e}")))
}

async fn verifier(
    config: &TlsConfig,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, ClientError> {
    if config.insecure_skip_verify {
        return Ok(Arc::new(NoVerifier(provider)));
    }
    let roots = match &config.ca {
        Some(ca) => certificates(ca, "ca").await?,
        None => system_roots().await?,
    };
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(roots);
    if usable == 0 {
        return Err(ClientError(
            "tls_config: none of the CA certificates can be used".to_owned(),
        ));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|e| ClientError(format!("tls_config: ca: {e}")))?;
    match &config.server_name {
        None => Ok(inner),
        Some(name) => {
            let name = ServerName::try_from(name.clone())
                .map_err(|_| ClientError(format!("tls_config: server_name {name:?} is not a host name")))?;
            Ok(Arc::new(NamedVerifier { inner, name }))
        }
    }
}

async fn system_roots() -> Result<Vec<CertificateDer<'static>>, ClientError> {
    for path in SYSTEM_ROOTS {
        if let Ok(pem) = tokio::fs::read(path).await {
            return Ok(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect());
        }
    }
    Err(ClientError(
        "tls_config: the system has no CA certificates; set ca or ca_file".to_owned(),
    ))
}

/// Checks the certificate against the configured name, whatever the URL says.
#[derive(Debug)]
struct NamedVerifier {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// `insecure_skip_verify`: any certificate will do.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
