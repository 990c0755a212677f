//! Mutual TLS between nodes: both sides show a certificate of the cluster's own authority; who connects checks the name
//! of who answers as well.

use super::refusals::Refusals;
use super::reread::{Files, Made, Reread};
use super::{Leaf, Offer, TlsError, certificates, private_key, roots};
use async_trait::async_trait;
use gnomon_model::Clock;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use std::path::PathBuf;
use std::sync::Arc;

/// What gRPC speaks.
const HTTP2: &[u8] = b"h2";

/// Where a node's certificate, its key and the cluster's authority are, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's own certificate, then those between it and the authority, if there are any.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// One authority, or several while one takes over from another.
    pub ca: PathBuf,
}

struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    leaf: Leaf,
}

/// Both ends of a node's connections to others.
#[derive(Debug)]
pub struct ClusterTls {
    ends: Arc<Reread<Ends>>,
    /// Peers, by address, with which there is no TLS.
    pub(super) refusals: Refusals<Arc<str>>,
}

impl ClusterTls {
    /// # Errors
    /// When a file cannot be read, or they do not fit together; the message names the file.
    pub fn open(files: TlsFiles, clock: Arc<dyn Clock>) -> Result<Arc<Self>, TlsError> {
        let times = Arc::clone(&clock);
        let make = move |before: Option<&Ends>| {
            let mut read = Files::default();
            let value = ends(&files, &mut read).and_then(|ends| {
                ends.leaf.admitted(before.map(|before| &before.leaf), times.now())?;
                Ok(ends)
            });
            Made { value, files: read }
        };
        Ok(Arc::new(Self {
            ends: Reread::first("TLS between nodes", Arc::clone(&clock), make)?,
            refusals: Refusals::new(clock),
        }))
    }

    pub(super) async fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.ends.newest().await.client)
    }

    /// Looks at the files, so that what is wrong with them is in the log before it is needed.
    pub async fn look(&self) {
        self.ends.newest().await;
    }

    /// Says in the log that the certificate of the peer at `address`, which should be for `name`, is not taken here, or
    /// ours not there. Connections that broke off are left to those who call.
    pub(super) fn refused(&self, address: &Arc<str>, name: &ServerName<'_>, error: &std::io::Error) {
        let is_of_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        let why = error.to_string();
        if is_of_tls && let Some(more) = self.refusals.tell(Arc::clone(address), &why) {
            let expected = name.to_str();
            tracing::warn!(peer = %address, %expected, %why, more, "no TLS with a peer: it is not reached from here");
        }
    }
}

#[async_trait]
impl Offer for ClusterTls {
    async fn tls(&self) -> Option<Arc<ServerConfig>> {
        Some(Arc::clone(&self.ends.newest().await.server))
    }
}

/// All three files are read and tried, so that whatever is wrong is looked at again once it changes.
fn ends(files: &TlsFiles, read: &mut Files) -> Result<Ends, TlsError> {
    let (cert, key, ca) = (read.read(&files.cert), read.read(&files.key), read.read(&files.ca));
    let (cert_name, key_name) = (files.cert.display().to_string(), files.key.display().to_string());
    let ca_name = files.ca.display().to_string();
    let chain = certificates(&cert?, &cert_name)?;
    let leaf = Leaf::of(&chain, &cert_name);
    let key = private_key(&key?, &key_name)?;
    let roots = Arc::new(roots(&ca?, &ca_name)?);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let of_pair = |error| TlsError(format!("{cert_name} and {key_name} cannot be used together: {error}"));
    let of_ca = |error: rustls::server::VerifierBuilderError| TlsError(format!("{ca_name}: {error}"));
    let callers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::of_versions)?
        .with_client_cert_verifier(callers.build().map_err(of_ca)?)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(of_pair)?;
    server.alpn_protocols = vec![HTTP2.to_vec()];
    // A session that is resumed is not checked again: each connection is to be.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = client_builder(provider)?
        .with_webpki_verifier(servers(roots, &ca_name)?)
        .with_client_auth_cert(chain, key)
        .map_err(of_pair)?;
    client.alpn_protocols = vec![HTTP2.to_vec()];
    client.resumption = Resumption::disabled();
    Ok(Ends {
        server: Arc::new(server),
        client: Arc::new(client),
        leaf,
    })
}

fn client_builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::of_versions)
}

fn servers(roots: Arc<rustls::RootCertStore>, ca_name: &str) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| TlsError(format!("{ca_name}: {error}")))
}

impl TlsError {
    fn of_versions(error: rustls::Error) -> Self {
        Self(format!("TLS 1.3: {error}"))
    }
}
