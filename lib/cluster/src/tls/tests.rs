//! Nodes with certificates that are good, and with all others.

pub(crate) mod pki;

use super::*;
use crate::clients::{Remote, meta_server};
use crate::layers::{CallMetrics, ChannelOptions, Retries, connect, connect_as};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::{Clock, ManualClock, SystemClock, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState};
use pki::{Authority, Pair, replace};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

const DEADLINE: Duration = Duration::from_secs(20);
const NAMES: [&str; 2] = ["127.0.0.1", "node.test"];

struct Meta;

#[async_trait]
impl MetaService for Meta {
    async fn propose(&self, _: MetaCommand) -> Result<MetaResponse, ServiceError> {
        Ok(MetaResponse::default())
    }
    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Ok(Arc::new(MetaState {
            revision: 7,
            ..MetaState::default()
        }))
    }
    async fn watch(&self, _: u64) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        Ok(futures::stream::pending().boxed())
    }
}

/// A node's folder with certificates, and both ends made of them.
struct Ends {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    tls: Arc<ClusterTls>,
}

impl Ends {
    fn try_new(pair: &Pair, authorities: &str) -> Result<Self, TlsError> {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(TimestampMs(0)));
        replace(&folder.path().join("ca.pem"), authorities);
        let (cert, key) = pair.write(folder.path());
        let ca = folder.path().join("ca.pem");
        let tls = ClusterTls::open(TlsFiles { cert, key, ca }, clock.clone())?;
        Ok(Self { folder, clock, tls })
    }

    fn new(pair: &Pair, authority: &Authority) -> Self {
        Self::try_new(pair, &authority.cert).unwrap()
    }

    /// Other files; they are looked at by the next handshake.
    fn turn(&self, pair: &Pair, authorities: &str) {
        replace(&self.folder.path().join("ca.pem"), authorities);
        pair.write(self.folder.path());
        self.clock.advance(Duration::from_secs(2));
    }
}

/// Tells where it listens; ends with the runtime of its test.
struct Node {
    address: String,
    metrics: HandshakeMetrics,
}

impl Node {
    async fn serve(tls: Arc<ClusterTls>, limits: HandshakeLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let metrics = HandshakeMetrics::register(&prometheus::Registry::new()).unwrap();
        let offer: Arc<dyn Offer> = tls;
        let accepted = accept(
            listener,
            "cluster",
            offer,
            limits,
            metrics.clone(),
            SystemClock::shared(),
        );
        let incoming = ReceiverStream::new(accepted).map(|(stream, _)| Ok::<_, std::io::Error>(stream));
        let server = Server::builder().add_service(meta_server(Arc::new(Meta)));
        tokio::spawn(server.serve_with_incoming(incoming));
        Self { address, metrics }
    }

    async fn of(ends: &Ends) -> Self {
        Self::serve(ends.tls.clone(), HandshakeLimits::default()).await
    }

    /// Waits until so many handshakes have ended so.
    async fn until(&self, outcome: &str, count: u64) {
        let waiting = async {
            while self.metrics.of("cluster", outcome) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.unwrap();
    }
}

fn channel(tls: Option<Arc<ClusterTls>>) -> ChannelOptions {
    ChannelOptions {
        tls,
        ..ChannelOptions::default()
    }
}

fn metrics() -> CallMetrics {
    CallMetrics::register(&prometheus::Registry::new()).unwrap()
}

fn client(address: &str, tls: Option<Arc<ClusterTls>>) -> Remote {
    let metrics = metrics();
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let channel = connect(address, &channel(tls), &metrics, &clock).unwrap();
    Remote::new(channel, Retries::new(0, metrics))
}

async fn ask(client: &Remote) -> Result<u64, ServiceError> {
    let meta = client.meta();
    let asked = tokio::time::timeout(DEADLINE, meta.read()).await.unwrap();
    asked.map(|state| state.revision)
}

#[tokio::test]
async fn nodes_of_one_authority_talk_and_no_others() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = Ends::new(&ours.pair(&NAMES), &ours);
    let node = Node::of(&good).await;
    assert_eq!(ask(&client(&node.address, Some(good.tls.clone()))).await, Ok(7));
    let callers = [
        (ours.expired(&NAMES), "CertificateExpired"),
        (theirs.pair(&NAMES), "UnknownCA"),
    ];
    for (pair, alert) in callers {
        let caller = Ends::new(&pair, &ours);
        let error = ask(&client(&node.address, Some(caller.tls))).await.unwrap_err();
        assert!(
            matches!(&error, ServiceError::Unavailable(why) if why.contains(alert)),
            "{error:?}"
        );
    }
    let answerers = [
        (ours.expired(&NAMES), "certificate expired"),
        (
            ours.pair(&["elsewhere.test"]),
            "certificate not valid for name \"127.0.0.1\"; certificate is only valid for DnsName(\"elsewhere.test\")",
        ),
        (theirs.pair(&NAMES), "UnknownIssuer"),
    ];
    for (pair, why) in answerers {
        let other = Node::of(&Ends::new(&pair, &ours)).await;
        let error = ask(&client(&other.address, Some(good.tls.clone()))).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ServiceError::Unavailable(_)), "{text}");
        assert!(text.contains(why) && text.contains(&other.address), "{text}");
        let told = good.tls.refusals.said();
        let is_told = told
            .iter()
            .any(|(peer, said)| **peer == *other.address && said.contains(why));
        assert!(is_told, "whoever connects says so in its log: {told:?}");
        other.until("failed", 1).await;
    }
    node.until("failed", 2).await;
}

#[tokio::test]
async fn a_peer_that_was_found_by_name_shows_a_certificate_for_the_name() {
    let ours = Authority::new("ours");
    let ends = Ends::new(&ours.pair(&["node.test"]), &ours);
    let node = Node::of(&ends).await;
    let ask_as = async |name| {
        let (metrics, clock) = (metrics(), SystemClock::shared());
        let channel = connect_as(&node.address, name, &channel(Some(ends.tls.clone())), &metrics, &clock).unwrap();
        ask(&Remote::new(channel, Retries::new(0, metrics))).await
    };
    assert_eq!(ask_as(Some("node.test")).await, Ok(7));
    assert!(ask_as(None).await.is_err(), "not by its address");
    let (metrics, clock) = (metrics(), SystemClock::shared());
    let refused = connect("a b:1", &channel(Some(ends.tls.clone())), &metrics, &clock);
    assert!(refused.is_err(), "no name at all");
}

#[tokio::test]
async fn who_shows_no_certificate_gets_nothing() {
    let ours = Authority::new("ours");
    let ends = Ends::new(&ours.pair(&NAMES), &ours);
    let node = Node::of(&ends).await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let anonymous = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(ours.cert.as_bytes(), "ca").unwrap())
        .with_no_client_auth();
    let stream = TcpStream::connect(&node.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(anonymous));
    let name = ServerName::try_from("node.test").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(DEADLINE, stream.read(&mut byte)).await.unwrap();
    let why = read.unwrap_err().to_string();
    assert!(why.contains("CertificateRequired"), "{why}");
    node.until("failed", 1).await;
}

#[tokio::test]
async fn plain_text_and_tls_do_not_mix() {
    let ours = Authority::new("ours");
    let ends = Ends::new(&ours.pair(&NAMES), &ours);
    let secured = Node::of(&ends).await;
    assert!(ask(&client(&secured.address, None)).await.is_err());
    secured.until("failed", 1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().add_service(meta_server(Arc::new(Meta)));
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    assert_eq!(ask(&client(&address, None)).await, Ok(7));
    let error = ask(&client(&address, Some(ends.tls.clone()))).await.unwrap_err();
    assert!(
        matches!(&error, ServiceError::Unavailable(why) if why.contains("TLS with")),
        "{error:?}"
    );
}

/// The certificate that a new connection is shown, in DER.
async fn shown(address: &str, as_client: &ClusterTls) -> Vec<u8> {
    let connector = tokio_rustls::TlsConnector::from(as_client.client().await);
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("node.test").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(pair: &Pair) -> Vec<u8> {
    certificates(pair.cert.as_bytes(), "pair").unwrap()[0].to_vec()
}

/// From one authority to the next without a call that fails: both are trusted, then all show the new one's
/// certificates, then the old one is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_exchanged_while_calls_go_on() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let both = format!("{}{}", old.cert, new.cert);
    let (first, last) = (old.pair(&NAMES), new.pair(&NAMES));
    let (answers, asks) = (Ends::new(&first, &old), Ends::new(&first, &old));
    let node = Node::of(&answers).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let (address, tls, stopped) = (node.address.clone(), asks.tls.clone(), stop.clone());
    let calling = tokio::spawn(async move {
        // One connection lives through all of it; each call of the others makes a new one.
        let long_lived = client(&address, Some(tls.clone()));
        let mut calls = 0;
        while !stopped.is_cancelled() {
            assert_eq!(ask(&long_lived).await, Ok(7));
            assert_eq!(ask(&client(&address, Some(tls.clone()))).await, Ok(7));
            calls += 1;
        }
        calls
    });
    let steps = [(&first, &both), (&last, &both), (&last, &new.cert)];
    for (pair, authorities) in steps {
        answers.turn(pair, authorities);
        asks.turn(pair, authorities);
        // A call that is looking at the files just now may have seen half of them.
        let mut tries = 0;
        while shown(&node.address, &asks.tls).await != der(pair) {
            tries += 1;
            assert!(tries < 100, "the certificate is not taken into use");
            answers.clock.advance(Duration::from_secs(2));
            asks.clock.advance(Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let done = node.metrics.of("cluster", "done");
        node.until("done", done + 10).await;
    }
    stop.cancel();
    assert!(calling.await.unwrap() >= 10);
    assert_eq!(node.metrics.of("cluster", "failed"), 0);
    let left_behind = Ends::try_new(&first, &both).unwrap();
    let error = ask(&client(&node.address, Some(left_behind.tls))).await.unwrap_err();
    assert!(error.to_string().contains("UnknownCA"), "{error}");
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_last_good_ones() {
    let ours = Authority::new("ours");
    let (first, next) = (ours.pair(&NAMES), ours.pair(&NAMES));
    let ends = Ends::new(&first, &ours);
    let node = Node::of(&ends).await;
    let of_two = Pair {
        cert: next.cert.clone(),
        key: first.key.clone(),
    };
    let no_pem = Pair {
        cert: "not a certificate".to_owned(),
        key: first.key.clone(),
    };
    for broken in [of_two, no_pem] {
        ends.turn(&broken, &ours.cert);
        assert_eq!(shown(&node.address, &ends.tls).await, der(&first));
    }
    // Until then its clock said 1970.
    ends.clock.advance(Duration::from_secs(1_790_000_000));
    ends.turn(&ours.expired(&NAMES), &ours.cert);
    assert_eq!(shown(&node.address, &ends.tls).await, der(&first));
    std::fs::remove_file(ends.folder.path().join("node.pem")).unwrap();
    ends.clock.advance(Duration::from_secs(2));
    assert_eq!(shown(&node.address, &ends.tls).await, der(&first));
    ends.turn(&next, &ours.cert);
    assert_eq!(shown(&node.address, &ends.tls).await, der(&next));
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_taken_half() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "first").unwrap();
    let clock = Arc::new(ManualClock::at(TimestampMs(0)));
    let of = path.clone();
    let make = move |_: Option<&String>| {
        let mut files = Files::default();
        let text = files.read(&of).map(|bytes| String::from_utf8(bytes).unwrap());
        // Whoever writes it goes on after it was read.
        if text.as_deref() == Ok("half") {
            std::fs::write(&of, "half and half").unwrap();
        }
        Made { value: text, files }
    };
    let reread = Reread::first("a file", clock.clone(), make).unwrap();
    std::fs::write(&path, "half").unwrap();
    clock.advance(Duration::from_secs(2));
    assert_eq!(*reread.newest().await, "first");
    clock.advance(Duration::from_secs(2));
    assert_eq!(*reread.newest().await, "half and half");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.pair(&NAMES);
    let mixed = Pair {
        cert: good.cert.clone(),
        key: theirs.pair(&NAMES).key,
    };
    let without_cert = Pair {
        cert: good.key.clone(),
        key: good.key.clone(),
    };
    let without_key = Pair {
        cert: good.cert.clone(),
        key: good.cert.clone(),
    };
    for (pair, authorities, part) in [
        (&mixed, ours.cert.as_str(), "node.pem and "),
        (&without_cert, ours.cert.as_str(), "node.pem: holds no PEM certificate"),
        (&without_key, ours.cert.as_str(), "node.key: holds no PEM private key"),
        (&good, "", "ca.pem: holds no PEM certificate"),
    ] {
        let error = Ends::try_new(pair, authorities).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!error.contains("PRIVATE KEY--"), "{error}");
    }
    let gone = TlsFiles {
        cert: "/nonexistent/node.pem".into(),
        key: "/nonexistent/node.key".into(),
        ca: "/nonexistent/ca.pem".into(),
    };
    let error = ClusterTls::open(gone, SystemClock::shared()).err().unwrap().to_string();
    assert_eq!(error, "/nonexistent/node.pem: there is no such file");
}

/// Connections that begin and say nothing keep their own places for a while, and nobody else's.
#[tokio::test]
async fn those_who_dawdle_do_not_keep_others_out() {
    let ours = Authority::new("ours");
    let ends = Ends::new(&ours.pair(&NAMES), &ours);
    let limits = HandshakeLimits {
        all: 3,
        of_address: 2,
        within: Duration::from_millis(300),
    };
    let node = Node::serve(ends.tls.clone(), limits).await;
    let mut idle = Vec::new();
    for half in [&b""[..], &b"\x16\x03\x01\x02\x00"[..]] {
        let mut stream = TcpStream::connect(&node.address).await.unwrap();
        stream.write_all(half).await.unwrap();
        idle.push(stream);
    }
    let mut third = TcpStream::connect(&node.address).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(DEADLINE, third.read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "closed at once");
    assert_eq!(node.metrics.of("cluster", "crowded"), 1);
    node.until("late", 2).await;
    for stream in &mut idle {
        let read = tokio::time::timeout(DEADLINE, stream.read(&mut byte)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "closed in the end");
    }
    assert_eq!(ask(&client(&node.address, Some(ends.tls.clone()))).await, Ok(7));
}
