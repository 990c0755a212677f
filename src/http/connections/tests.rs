//! Over real connections.

use super::super::{ConnectionLimits, Routes, serve};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures::StreamExt as _;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_millis(600);
/// Longer than the limit.
const LONG: Duration = Duration::from_millis(1800);
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    /// `/slow` was asked for.
    begun: Arc<Notify>,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    async fn start(connections: usize) -> Self {
        let begun = Arc::new(Notify::new());
        let begins = Arc::clone(&begun);
        let slow = move || async move {
            begins.notify_one();
            tokio::time::sleep(LONG).await;
            "slow"
        };
        let drops = || async {
            let drops = futures::stream::iter(["a", "b", "c"]).then(|drop| async move {
                tokio::time::sleep(LONG / 2).await;
                Ok::<_, Infallible>(drop)
            });
            Body::from_stream(drops)
        };
        let routes = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/slow", get(slow))
            .route("/large", get(|| async { vec![0u8; 64 << 20] }))
            .route("/drops", get(drops));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let limits = ConnectionLimits::new(Some(LIMIT), connections);
        let ended = tokio::spawn(serve(listener, Routes::new(routes), None, limits, stop.clone()));
        Self {
            address,
            stop,
            begun,
            ended,
        }
    }

    /// A connection on which this was sent.
    async fn sent(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

/// All that comes until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // Reset or closed in good order.
    let _ = read.expect("the connection stays open");
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn connections_that_bring_no_request_are_closed() {
    let server = Server::start(8).await;
    for half in [
        "",
        "G",
        "PRI * HTT",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: ",
    ] {
        assert_eq!(rest(server.sent(half).await).await, "", "{half:?}");
    }
    let kept = rest(server.sent("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await).await;
    assert!(kept.starts_with("HTTP/1.1 200") && kept.ends_with("hello"), "{kept}");
}

#[tokio::test]
async fn answers_may_take_longer_than_requests() {
    let server = Server::start(8).await;
    let (slow, drops) = (
        server.sent("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await,
        server.sent("GET /drops HTTP/1.0\r\n\r\n").await,
    );
    let (slow, drops) = tokio::join!(rest(slow), rest(drops));
    assert!(slow.ends_with("slow"), "{slow}");
    assert!(drops.ends_with("abc"), "{drops}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_are_given_up_and_slow_ones_are_not() {
    let server = Server::start(8).await;
    let silent = server.sent("GET /large HTTP/1.0\r\n\r\n").await;
    let mut slow = server.sent("GET /large HTTP/1.0\r\n\r\n").await;
    let mut bytes = vec![0; 8 << 20];
    let mut taken = 0;
    loop {
        let read = tokio::time::timeout(PATIENCE, slow.read(&mut bytes)).await;
        match read.unwrap().unwrap() {
            0 => break,
            count => taken += count,
        }
        tokio::time::sleep(LIMIT / 20).await;
    }
    assert!(taken > 64 << 20, "{taken}");
    tokio::time::sleep(LONG).await;
    let mut silent = silent;
    let mut rest = Vec::new();
    // Only what was on its way.
    let _ = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.len() < 48 << 20, "{}", rest.len());
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let server = Server::start(1).await;
    let first = server.sent("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.begun.notified().await;
    let mut byte = [0];
    let mut second = server.sent("GET / HTTP/1.0\r\n\r\n").await;
    let early = tokio::time::timeout(LONG / 3, second.read(&mut byte)).await;
    assert!(early.is_err(), "served beside the first");
    assert!(rest(first).await.ends_with("slow"));
    assert!(rest(second).await.ends_with("hello"));
}

#[tokio::test]
async fn requests_may_have_many_headers() {
    let server = Server::start(8).await;
    let ask = async |count: usize| {
        let headers: String = (0..count).map(|n| format!("X-{n}: a\r\n")).collect();
        rest(server.sent(&format!("GET / HTTP/1.0\r\n{headers}\r\n")).await).await
    };
    assert!(ask(900).await.starts_with("HTTP/1.0 200"));
    assert!(ask(1100).await.contains(" 431 "));
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_idle_connections_go() {
    let server = Server::start(8).await;
    let idle = server.sent("").await;
    let slow = server.sent("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.begun.notified().await;
    server.stop.cancel();
    assert_eq!(rest(idle).await, "");
    assert!(rest(slow).await.ends_with("slow"));
    tokio::time::timeout(PATIENCE, server.ended)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
