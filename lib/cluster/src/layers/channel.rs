//! A connection to one peer with its layers.

use super::{CallMetrics, Membership, TraceLayer};
use crate::clients::PeerNetwork;
use crate::tls::{ClusterTls, lazily};
use gnomon_model::Clock;
use gnomon_proto::ServiceError;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Endpoint;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder};

/// A connection that is made when first used and made again when lost; cloning shares it.
pub type PeerChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// What a peer may send of one stream before it is read here.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// Streams that have room at the same time. A merge waits for the next series of one stream while the others are full: were
/// there room for fewer, those would keep it from coming.
const MOST_STREAMS: u32 = 1024;

/// How connections to peers behave.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    pub connect_timeout: Duration,
    /// Until an answer begins. A caller's own deadline comes before it.
    pub call_timeout: Duration,
    /// Calls under way to one peer; more are turned away at once.
    pub max_calls: usize,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// Mutual TLS; none is plain text.
    pub tls: Option<Arc<ClusterTls>>,
    /// Calls say which cluster they are for, once that is known here.
    pub membership: Membership,
    /// In a simulation, what the services of other nodes are reached by; none is gRPC.
    pub network: Option<Arc<dyn PeerNetwork>>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(120),
            max_calls: 1024,
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(5),
            tls: None,
            membership: Membership::default(),
            network: None,
        }
    }
}

/// An address that no connection can be made to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer address {address:?} is not host:port: {why}")]
pub struct BadAddress {
    pub address: String,
    pub why: String,
}

/// Builds the connection to `address` (host:port); nothing is sent yet.
///
/// # Errors
/// When the address cannot be one.
pub fn connect(
    address: &str,
    options: &ChannelOptions,
    metrics: &CallMetrics,
    clock: &Arc<dyn Clock>,
) -> Result<PeerChannel, BadAddress> {
    connect_as(address, None, options, metrics, clock)
}

/// The same where the peer is known by another name than its address: `name` is what its certificate has to have.
///
/// # Errors
/// As [`connect`].
pub fn connect_as(
    address: &str,
    name: Option<&str>,
    options: &ChannelOptions,
    metrics: &CallMetrics,
    clock: &Arc<dyn Clock>,
) -> Result<PeerChannel, BadAddress> {
    let bad = |error: tonic::transport::Error| BadAddress {
        address: address.to_owned(),
        why: error.to_string(),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(bad)?
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(15)))
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES * MOST_STREAMS);
    let channel = lazily(endpoint, address, name, options.tls.as_ref())?;
    let membership = options.membership.clone();
    let peer: Arc<str> = address.into();
    let max_calls = options.max_calls;
    let stack = ServiceBuilder::new()
        .layer(TraceLayer {
            peer: peer.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        })
        .map_request(move |request| membership.named(request))
        .map_err(move |error: BoxError| refusal(error, &peer, max_calls))
        .load_shed()
        .concurrency_limit(max_calls)
        .timeout(options.call_timeout)
        .service(channel);
    Ok(BoxCloneSyncService::new(stack))
}

/// Errors of the layers and the connection as a status, which callers understand.
fn refusal(error: BoxError, peer: &str, max_calls: usize) -> Status {
    if error.is::<tower::load_shed::error::Overloaded>() {
        return ServiceError::Busy(format!("{max_calls} calls to {peer} are under way already")).into();
    }
    if error.is::<tower::timeout::error::Elapsed>() {
        return Status::deadline_exceeded(format!("{peer} did not answer in time"));
    }
    let status = explained(Status::from_error(error));
    // Calls that were under way end with that too: they may have been carried out.
    match status.message().contains(NO_PONG) {
        true => Status::unknown(status.message()),
        false => status,
    }
}

/// What the library says of a connection whose peer does not answer pings.
const NO_PONG: &str = "keep-alive timed out";

/// A status that tells of its causes: of a connection that cannot be made, the library says only that it cannot.
pub(crate) fn explained(status: Status) -> Status {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(&status);
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    if text == status.message() {
        return status;
    }
    Status::with_metadata(status.code(), text, status.metadata().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use gnomon_model::SystemClock;
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    fn call(channel: &PeerChannel) -> impl Future<Output = Result<http::Response<Body>, Status>> {
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = "/gnomon.v1.ShardWrite/Append".parse().unwrap();
        channel.clone().oneshot(request)
    }

    #[tokio::test]
    async fn a_peer_that_answers_no_pings_may_have_done_what_it_was_asked_to() {
        // Connections are made; nobody answers.
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = ChannelOptions {
            keepalive_interval: Duration::from_millis(50),
            keepalive_timeout: Duration::from_millis(50),
            ..ChannelOptions::default()
        };
        let metrics = CallMetrics::register(&prometheus::Registry::new()).unwrap();
        let address = peer.local_addr().unwrap().to_string();
        let channel = connect(&address, &options, &metrics, &SystemClock::shared()).unwrap();
        let status = call(&channel).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unknown, "{status}");
    }

    #[tokio::test]
    async fn a_call_too_many_is_busy_and_does_not_wait() {
        // Connections are made; nobody answers.
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = ChannelOptions {
            max_calls: 2,
            ..ChannelOptions::default()
        };
        let metrics = CallMetrics::register(&prometheus::Registry::new()).unwrap();
        let address = peer.local_addr().unwrap().to_string();
        let channel = connect(&address, &options, &metrics, &SystemClock::shared()).unwrap();
        let (mut first, mut second) = (Box::pin(call(&channel)), Box::pin(call(&channel)));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        let refused = call(&channel).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "what an older build goes by");
        let error = ServiceError::from(refused);
        assert!(
            matches!(&error, ServiceError::Busy(why) if why.contains("2 calls to")),
            "{error}"
        );
        drop(first);
        assert!(poll!(Box::pin(call(&channel))).is_pending(), "there is room again");
    }
}
