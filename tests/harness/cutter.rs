//! A TCP proxy that cuts connections in the middle of what comes back over them, or passes only so much a second.

use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Most that is passed on at once: what a connection waits for another one to pass on.
const PIECE_BYTES: usize = 16 << 10;

/// What all connections share in one direction.
struct Way {
    /// When the next piece may be passed on.
    free_at: Mutex<Instant>,
    passed: AtomicU64,
}

impl Way {
    fn new() -> Self {
        Self {
            free_at: Mutex::new(Instant::now()),
            passed: AtomicU64::new(0),
        }
    }

    /// Waits for its turn, at so many bytes a second; connections take turns, piece by piece.
    async fn pass(&self, bytes: usize, bytes_per_second: u64) {
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
        if bytes_per_second == u64::MAX {
            return;
        }
        let turn = {
            let mut free_at = self.free_at.lock();
            let turn = (*free_at).max(Instant::now());
            *free_at = turn + Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
            *free_at
        };
        tokio::time::sleep_until(turn).await;
    }
}

struct Shared {
    to: SocketAddr,
    /// A connection over which more bytes than this came back since it was said is cut.
    cut_after: AtomicU64,
    /// How often that was said.
    armed: AtomicU64,
    cuts: AtomicU64,
    bytes_per_second: AtomicU64,
    there: Way,
    back: Way,
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
            bytes_per_second: AtomicU64::new(u64::MAX),
            there: Way::new(),
            back: Way::new(),
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

    /// From now on all connections together pass so many bytes a second, in each direction.
    pub fn slow_down(&self, bytes_per_second: u64) {
        self.shared.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }

    /// As fast as it can be.
    pub fn speed_up(&self) {
        self.slow_down(u64::MAX);
    }

    /// Bytes that went, by all connections so far, to who listens.
    pub fn passed(&self) -> u64 {
        self.shared.there.passed.load(Ordering::Relaxed)
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
        () = there(&shared, from_client, to_server) => {}
        () = back(&shared, from_server, to_client) => {}
    }
}

async fn there(shared: &Shared, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut some = vec![0; PIECE_BYTES];
    while let Ok(n @ 1..) = from.read(&mut some).await {
        shared
            .there
            .pass(n, shared.bytes_per_second.load(Ordering::SeqCst))
            .await;
        if to.write_all(&some[..n]).await.is_err() {
            return;
        }
    }
}

async fn back(shared: &Shared, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut some = vec![0; PIECE_BYTES];
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
        shared
            .back
            .pass(n, shared.bytes_per_second.load(Ordering::SeqCst))
            .await;
        if to.write_all(&some[..n]).await.is_err() {
            return;
        }
    }
}
