//! Connections to peers, plain or inside mutual TLS, made when first used and made again when lost: each with the
//! certificates of that moment.

use super::{ClusterTls, TlsError};
use crate::layers::BadAddress;
use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower::{BoxError, Service};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Connects `endpoint` to `address` (host:port), which has to show a certificate for `name`, or for its host where none
/// is given. Nothing is sent yet.
pub(crate) fn lazily(
    endpoint: Endpoint,
    address: &str,
    name: Option<&str>,
    tls: Option<&Arc<ClusterTls>>,
) -> Result<Channel, BadAddress> {
    let Some(tls) = tls else {
        return Ok(endpoint.connect_lazy());
    };
    let host = name.unwrap_or_else(|| host_of(address));
    let name = ServerName::try_from(host.to_owned()).map_err(|error| BadAddress {
        address: address.to_owned(),
        why: format!("{host:?} is no name that a certificate can have: {error}"),
    })?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEP_ALIVE));
    let connector = Connector {
        tcp,
        tls: Arc::clone(tls),
        name,
        address: address.into(),
    };
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// Without the port and, of an IPv6 address, the brackets.
pub(crate) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[derive(Clone)]
struct Connector {
    tcp: HttpConnector,
    tls: Arc<ClusterTls>,
    name: ServerName<'static>,
    address: Arc<str>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.tcp.call(uri);
        let Self { tls, name, address, .. } = self.clone();
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            let failed = |error: std::io::Error| {
                tls.refused(&address, &name, &error);
                TlsError(format!("TLS with {address}: {error}"))
            };
            let client = tokio_rustls::TlsConnector::from(tls.client().await);
            let mut stream = client.connect(name.clone(), stream).await.map_err(failed)?;
            // In TLS 1.3 the other side looks at our certificate after the handshake is over for us. Its first bytes,
            // which are HTTP/2's settings, say that it is taken; else there is an alert that says why not.
            if stream.fill_buf().await.map_err(failed)?.is_empty() {
                return Err(TlsError(format!("TLS with {address}: the peer closed the connection at once")).into());
            }
            Ok(TokioIo::new(stream))
        })
    }
}
