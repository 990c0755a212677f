//! Whether a target's certificate is taken.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;

/// Which certificates are taken.
#[derive(Debug)]
pub(super) enum Taken {
    /// `insecure_skip_verify`: any will do.
    Any,
    /// What leads to a root and, as Go does, a root of `ca_file` that a target shows as its own.
    ByRoots {
        /// None: there are no roots, and no certificate is taken.
        inner: Option<Arc<WebPkiServerVerifier>>,
        /// Those of `ca_file`.
        own: Vec<CertificateDer<'static>>,
        /// Checked in place of the host of the URL.
        name: Option<ServerName<'static>>,
    },
}

#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) taken: Taken,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Whether the certificate was refused for being an authority's (`CA:TRUE`) and nothing else.
///
/// Its time was checked before that (webpki, `check_issuer_independent_properties`), its name was not.
pub(super) fn is_authority(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity")
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Taken::ByRoots { inner, own, name } = &self.taken else {
            return Ok(ServerCertVerified::assertion());
        };
        let Some(inner) = inner else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let name = name.as_ref().unwrap_or(server_name);
        match inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(why)) if is_authority(&why) && own.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
