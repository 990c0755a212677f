//! HTTP servers that behave well or badly, on loopback.

use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server whose answers are written by hand, byte by byte if need be.
pub(crate) struct Server {
    pub(crate) address: String,
    /// Heads of the requests so far.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

type Answer = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Server {
    /// `answer` is given the head of each request and the socket to write to.
    pub(crate) async fn start(answer: impl Fn(String, TcpStream) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match socket.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    seen.lock().push(head.clone());
                    answer(head, socket).await;
                });
            }
        });
        Self { address, heads, task }
    }

    /// Always the same answer, after which the connection is closed.
    pub(crate) async fn fixed(answer: Vec<u8>) -> Self {
        let answer = Arc::new(answer);
        Self::start(move |_, mut socket| {
            let answer = Arc::clone(&answer);
            Box::pin(async move {
                let _ = socket.write_all(&answer).await;
                let _ = socket.shutdown().await;
            })
        })
        .await
    }

    /// 200 with a body of this type.
    pub(crate) async fn exposing(content_type: &str, body: impl AsRef<[u8]>) -> Self {
        Self::fixed(ok(&[("Content-Type", content_type)], body.as_ref())).await
    }

    pub(crate) async fn exposing_text(body: &str) -> Self {
        Self::exposing("text/plain; version=0.0.4", body).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole answer with its length.
pub(crate) fn ok(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut answer = String::from("HTTP/1.1 200 OK\r\nConnection: close\r\n");
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(body);
    answer
}
