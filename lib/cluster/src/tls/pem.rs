//! Certificates and keys out of PEM texts. Errors name where the text comes from, never what is in it.

use super::TlsError;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// All certificates of a text, in its order.
///
/// # Errors
/// When there is none, or the text is not PEM. `from` says where it comes from.
pub fn certificates(pem: &[u8], from: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError(format!(
            "{from}: holds no PEM certificate (-----BEGIN CERTIFICATE-----)"
        ))),
        Err(error) => Err(TlsError(format!("{from}: is not PEM: {error}"))),
    }
}

/// # Errors
/// When there is no key that can be used without a password. `from` says where the text comes from.
pub fn private_key(pem: &[u8], from: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| TlsError(format!("{from}: holds no PEM private key without a password: {error}")))
}

/// The authorities whose certificates a text holds.
///
/// # Errors
/// When one of them cannot be used. `from` says where the text comes from.
pub fn roots(pem: &[u8], from: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for (n, certificate) in certificates(pem, from)?.into_iter().enumerate() {
        store
            .add(certificate)
            .map_err(|error| TlsError(format!("{from}: certificate {}: {error}", n + 1)))?;
    }
    Ok(store)
}
