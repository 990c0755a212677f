//! Targets behind TLS.

use super::*;
use crate::config::http::{TlsConfig, TlsVersion};
use crate::config::{Scheme, Secret, SecretSource, TextSource};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};

const CA: &str = include_str!("pki/ca.pem");
const SERVER: &str = include_str!("pki/server.pem");
const SERVER_KEY: &str = include_str!("pki/server.key");
/// An authority's and a server's at once, as `openssl req -x509` makes it; then one that was until 2021, of the same key.
const SELF: &str = include_str!("pki/self.pem");
const EXPIRED: &str = include_str!("pki/expired.pem");
const SELF_KEY: &str = include_str!("pki/self.key");
const CLIENT: &str = include_str!("pki/client.pem");
const CLIENT_KEY: &str = include_str!("pki/client.key");

fn certs(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(Result::unwrap)
        .collect()
}

fn serve(clients: bool) -> String {
    serve_as(SERVER, SERVER_KEY, clients)
}

/// A server on a thread; ends with the process. Its address.
fn serve_as(cert: &str, key: &str, clients: bool) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if clients {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certs(CA));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = Arc::new(builder.with_single_cert(certs(cert), key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), socket);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let _ = stream.write_all(&testing::ok(&[("Content-Type", "text/plain")], b"a 1\n"));
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    address
}

fn secure(address: &str, tls: TlsConfig) -> ScrapeConfig {
    let mut config = job(address);
    config.scheme = Scheme::Https;
    config.scrape_interval = Duration::from_millis(500);
    config.scrape_timeout = Duration::from_millis(500);
    config.http.tls = tls;
    config
}

fn trusting() -> TlsConfig {
    TlsConfig {
        ca: Some(TextSource::Inline(CA.to_owned())),
        ..TlsConfig::default()
    }
}

#[tokio::test]
async fn a_certificate_of_a_known_authority_is_taken_and_others_are_not() {
    let address = serve(false);
    Rig::scraping(secure(&address, trusting())).await.good().await;
    let unknown = Rig::scraping(secure(&address, TlsConfig::default()))
        .await
        .failed()
        .await;
    assert_eq!(
        unknown.last_error,
        format!(
            "Get \"https://{address}/metrics\": tls: failed to verify certificate: x509: certificate signed by unknown \
             authority"
        )
    );
    let insecure = TlsConfig {
        insecure_skip_verify: true,
        ..TlsConfig::default()
    };
    Rig::scraping(secure(&address, insecure)).await.good().await;
}

#[tokio::test]
async fn the_configured_server_name_is_checked() {
    let address = serve(false);
    let named = |name: &str| TlsConfig {
        server_name: Some(name.to_owned()),
        ..trusting()
    };
    Rig::scraping(secure(&address, named("scraped.example")))
        .await
        .good()
        .await;
    let wrong = Rig::scraping(secure(&address, named("other.example")))
        .await
        .failed()
        .await;
    assert!(
        wrong
            .last_error
            .ends_with("x509: certificate is valid for scraped.example, not other.example"),
        "{}",
        wrong.last_error
    );
}

#[tokio::test]
async fn client_certificates_are_shown() {
    let address = serve(true);
    let folder = tempfile::tempdir().unwrap();
    let cert = folder.path().join("client.pem");
    std::fs::write(&cert, CLIENT).unwrap();
    let with = TlsConfig {
        cert: Some(TextSource::File(cert)),
        key: Some(SecretSource::Inline(Secret::new(CLIENT_KEY))),
        min_version: Some(TlsVersion::Tls12),
        max_version: Some(TlsVersion::Tls12),
        ..trusting()
    };
    Rig::scraping(secure(&address, with)).await.good().await;
    Rig::scraping(secure(&address, trusting())).await.failed().await;
}

#[tokio::test]
async fn versions_that_there_are_not_are_refused() {
    let old = TlsConfig {
        max_version: Some(TlsVersion::Tls11),
        ..trusting()
    };
    let rig = Rig::new();
    let config = Arc::new(secure("127.0.0.1:1", old));
    let error = rig.scraper.apply_config(vec![config]).await.unwrap_err();
    assert!(error.to_string().contains("max_version"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_taken_where_it_is_the_ca_file() {
    let address = serve_as(SELF, SELF_KEY, false);
    let trusting = |ca: &str| TlsConfig {
        ca: Some(TextSource::Inline(ca.to_owned())),
        ..TlsConfig::default()
    };
    Rig::scraping(secure(&address, trusting(SELF))).await.good().await;
    let refused = async |address: &str, tls: TlsConfig, why: &str| {
        let error = Rig::scraping(secure(address, tls)).await.failed().await.last_error;
        let (_, x509) = error.split_once("tls: failed to verify certificate: x509: ").unwrap();
        assert!(x509.starts_with(why), "{x509}");
    };
    let other = trusting(CA);
    refused(&address, other, "certificate signed by unknown authority").await;
    let system = TlsConfig::default();
    refused(&address, system, "certificate signed by unknown authority").await;
    let misnamed = TlsConfig {
        server_name: Some("other.example".to_owned()),
        ..trusting(SELF)
    };
    let names = "certificate is valid for scraped.example, not other.example";
    refused(&address, misnamed, names).await;
    let old = serve_as(EXPIRED, SELF_KEY, false);
    let expired = "certificate has expired or is not yet valid: current time ";
    refused(&old, trusting(EXPIRED), expired).await;
    // Of the same name and key as the trusted one, and yet another.
    refused(&address, trusting(EXPIRED), "certificate signed by unknown authority").await;
}

/// Prometheus starts too, but scrapes such a job only once it is told to read its configuration again.
#[tokio::test]
async fn a_file_that_is_missing_at_the_start_keeps_its_job_down_until_it_is_there() {
    let address = serve(false);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let with = TlsConfig {
        ca: Some(TextSource::File(ca.clone())),
        ..trusting()
    };
    let rig = Rig::scraping(secure(&address, with.clone())).await;
    let down = rig.failed().await;
    assert!(
        down.last_error.contains(&ca.display().to_string()),
        "{}",
        down.last_error
    );
    // What is in force is not replaced by what cannot be used.
    let other = TlsConfig {
        ca: Some(TextSource::File(folder.path().join("other.pem"))),
        ..with
    };
    let changed = vec![Arc::new(secure(&address, other))];
    assert!(rig.scraper.apply_config(changed).await.is_err());
    std::fs::write(&ca, CA).unwrap();
    rig.good().await;
}
