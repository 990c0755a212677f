//! A server's TLS from the web configuration and the files that it names.

use super::clients::Clients;
use super::config::{ClientAuth, Pem, Source, TlsServer};
use gnomon_cluster::tls::{Files, Leaf, TlsError, certificates, private_key, roots};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::path::Path;
use std::sync::Arc;

/// Of a text: its bytes, and where it comes from.
fn read(source: &Source, web: &Path, files: &mut Files) -> Result<(Vec<u8>, String), TlsError> {
    let from = format!("{}:{}: {}", web.display(), source.mark, source.field);
    match &source.pem {
        Pem::Inline(text) => Ok((text.expose().as_bytes().to_vec(), from)),
        Pem::File(path) => match files.read(path) {
            Ok(bytes) => Ok((bytes, format!("{from}: {}", path.display()))),
            Err(error) => Err(TlsError::new(format!("{from}: {error}"))),
        },
    }
}

/// With the certificate that it shows.
pub(super) fn server_config(
    tls: &TlsServer,
    http2: bool,
    web: &Path,
    files: &mut Files,
) -> Result<(ServerConfig, Leaf), TlsError> {
    // All are read first: whichever is wrong, a change of any is looked at again.
    let (cert, key) = (read(&tls.cert, web, files), read(&tls.key, web, files));
    let ca = tls.client_ca.as_ref().map(|ca| read(ca, web, files)).transpose();
    let ((cert, cert_from), (key, key_from)) = (cert?, key?);
    let chain = certificates(&cert, &cert_from)?;
    let leaf = Leaf::of(&chain, &cert_from);
    let private = private_key(&key, &key_from)?;
    let provider = Arc::new(CryptoProvider {
        cipher_suites: tls.suites.clone(),
        kx_groups: tls.curves.clone(),
        ..aws_lc_rs::default_provider()
    });
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&tls.versions)
        .map_err(|error| TlsError::new(format!("{}: tls_server_config: {error}", web.display())))?;
    let builder = if tls.client_auth == ClientAuth::None {
        builder.with_no_client_auth()
    } else {
        let verifier = match ca? {
            Some((pem, from)) if tls.client_auth.is_verified() => {
                let roots = Arc::new(roots(&pem, &from)?);
                let built = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
                Some(built.map_err(|error| TlsError::new(format!("{from}: {error}")))?)
            }
            _ => None,
        };
        let sans = tls.allowed_sans.clone();
        let clients = Clients::new(verifier, tls.client_auth.is_required(), sans, provider);
        builder.with_client_cert_verifier(Arc::new(clients))
    };
    let mut config = builder
        .with_single_cert(chain, private)
        .map_err(|error| TlsError::new(format!("{cert_from} and {key_from} cannot be used together: {error}")))?;
    config.ignore_client_order = tls.prefer_server_suites;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    if tls.client_auth != ClientAuth::None {
        // The certificate of a session that is resumed would not be checked again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok((config, leaf))
}
