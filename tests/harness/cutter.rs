//! A TCP proxy that cuts connections in the middle of what comes back over them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Shared {
    to: SocketAddr,
    /// A connection over which more bytes than this came back since it was said is cut.
    cut_after: AtomicU64,
    /// How often that was said.
    armed: AtomicU64,
    cuts: AtomicU64,
}

/// Ends, with all its connections, when it goes out of scope.
pub struct Cutter {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Cutter {
    /// Before whoever listens, or will, on a port of this machine.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            to: SocketAddr::from(([127, 0, 0, 1], port)),
            cut_after: AtomicU64::new(u64::MAX),
            armed: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        });
        let stop = CancellationToken::new();
        let (serving, stopped) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                let serve = stopped.clone().run_until_cancelled_owned(serve(shared, client));
                tokio::spawn(serve);
            }
        }));
        Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts the next connection over which so many bytes come back from now on.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.cut_after.store(bytes, Ordering::SeqCst);
        self.shared.armed.fetch_add(1, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

async fn serve(shared: Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(shared.to).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // When one way ends the halves are dropped, and both connections with them.
    tokio::select! {
        () = there(from_client, to_server) => {}
        () = back(&shared, from_server, to_client) => {}
    }
}

async fn there(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn back(shared: &Shared, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut some = vec![0; 16 << 10];
    let (mut armed, mut came) = (0, 0);
    while let Ok(n @ 1..) = from.read(&mut some).await {
        let now = shared.armed.load(Ordering::SeqCst);
        came = if now == armed { came + n as u64 } else { n as u64 };
        armed = now;
        let limit = shared.cut_after.load(Ordering::SeqCst);
        // One connection, once.
        let is_cut = came > limit && shared.cut_after.swap(u64::MAX, Ordering::SeqCst) != u64::MAX;
        if is_cut {
            shared.cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to.write_all(&some[..n]).await.is_err() {
            return;
        }
    }
}
