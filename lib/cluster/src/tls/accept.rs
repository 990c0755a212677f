//! Accepting connections of which some, or all, begin with a handshake. Many run side by side, within limits; whoever
//! dawdles keeps a place for some seconds, and those of its own address only.

use super::Secured;
use super::refusals::Refusals;
use async_trait::async_trait;
use gnomon_model::Clock;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts, Registry};
use rustls::ServerConfig;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

/// Connections that wait to be served, handshake done.
const DONE: usize = 64;
/// After an error of the listener: too many open files, mostly.
const PAUSE: Duration = Duration::from_millis(200);
/// How requests of HTTP/1 begin, as Go's server knows them.
const HTTP: [&[u8; 5]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
/// What Go's server says to them where it expects TLS.
const NOT_HTTP: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// Of such a request so much is read, so that its client reads the answer too.
const REQUEST_BYTES: usize = 8 << 10;

/// What a listener offers to the next connection.
#[async_trait]
pub trait Offer: Send + Sync + 'static {
    /// None is plain text.
    async fn tls(&self) -> Option<Arc<ServerConfig>>;

    /// Whether those who speak HTTP where TLS is expected are told so.
    fn is_for_browsers(&self) -> bool {
        false
    }
}

/// Bounds on handshakes under way.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    pub all: usize,
    /// Of one address (of IPv6: one /64); more are closed at once.
    pub of_address: usize,
    pub within: Duration,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            all: 1024,
            of_address: 256,
            within: Duration::from_secs(5),
        }
    }
}

/// One per process.
#[derive(Clone, Debug)]
pub struct HandshakeMetrics(IntCounterVec);

impl HandshakeMetrics {
    /// # Errors
    /// When `registry` has a metric of this name already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = IntCounterVec::new(
            Opts::new(
                "gnomon_tls_handshakes_total",
                "TLS handshakes of a listener by outcome: done, failed (a wrong certificate, or no TLS), late (not done in \
                 time), crowded (too many of one address under way).",
            ),
            &["listener", "outcome"],
        )?;
        registry.register(Box::new(counter.clone()))?;
        Ok(Self(counter))
    }

    #[must_use]
    pub fn of(&self, listener: &str, outcome: &str) -> u64 {
        self.0.with_label_values(&[listener, outcome]).get()
    }
}

/// Accepts connections of `listener` until the receiver is dropped.
pub fn accept(
    listener: TcpListener,
    name: &'static str,
    offer: Arc<dyn Offer>,
    limits: HandshakeLimits,
    metrics: HandshakeMetrics,
    clock: Arc<dyn Clock>,
) -> mpsc::Receiver<(Secured, SocketAddr)> {
    let (done, receiver) = mpsc::channel(DONE);
    let door = Arc::new(Door {
        name,
        offer,
        limits,
        metrics,
        by_address: Mutex::default(),
        refusals: Refusals::new(clock),
    });
    tokio::spawn(door.run(listener, done));
    receiver
}

struct Door {
    name: &'static str,
    offer: Arc<dyn Offer>,
    limits: HandshakeLimits,
    metrics: HandshakeMetrics,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    refusals: Refusals<IpAddr>,
}

/// A place among the handshakes under way.
struct Place {
    door: Arc<Door>,
    address: IpAddr,
    _of_all: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.door.by_address.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Whom an address belongs to: one customer is given a whole /64 of IPv6.
fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

impl Door {
    async fn run(self: Arc<Self>, listener: TcpListener, done: mpsc::Sender<(Secured, SocketAddr)>) {
        let room = Arc::new(Semaphore::new(self.limits.all));
        loop {
            // Nobody is accepted without a place: the system's queue holds those that come meanwhile.
            let place = tokio::select! {
                () = done.closed() => return,
                place = Arc::clone(&room).acquire_owned() => place,
            };
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                () = done.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.admit(stream, address, place, &done),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, listener = self.name, "cannot accept connections");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        of_all: OwnedSemaphorePermit,
        done: &mpsc::Sender<(Secured, SocketAddr)>,
    ) {
        let owner = owner(address.ip());
        {
            let mut by_address = self.by_address.lock();
            let count = by_address.entry(owner).or_default();
            if *count >= self.limits.of_address {
                drop(by_address);
                self.count("crowded");
                self.say(address, "too many handshakes of this address are under way");
                return;
            }
            *count += 1;
        }
        let place = Place {
            door: Arc::clone(self),
            address: owner,
            _of_all: of_all,
        };
        let (this, done) = (Arc::clone(self), done.clone());
        tokio::spawn(async move {
            // Small answers would wait for Nagle's algorithm.
            let _ = stream.set_nodelay(true);
            let begun = tokio::time::timeout(this.limits.within, this.begin(stream, address)).await;
            match begun {
                // With its place, until it is taken: those that wait for that are bounded too.
                Ok(Some(secured)) => drop(done.send((secured, address)).await),
                Ok(None) => {}
                Err(_) => {
                    this.count("late");
                    this.say(address, "the handshake was not done in time");
                }
            }
            drop(place);
        });
    }

    async fn begin(&self, stream: TcpStream, address: SocketAddr) -> Option<Secured> {
        let Some(config) = self.offer.tls().await else {
            return Some(Secured::Plain(stream));
        };
        if self.offer.is_for_browsers() && is_http(&stream).await {
            self.count("failed");
            self.say(address, "HTTP without TLS");
            // It may have gone.
            let _ = say_what_is_spoken(stream).await;
            return None;
        }
        match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => {
                self.count("done");
                Some(Secured::Tls(Box::new(stream)))
            }
            Err(error) => {
                self.count("failed");
                self.say(address, &error.to_string());
                None
            }
        }
    }

    fn count(&self, outcome: &str) {
        self.metrics.0.with_label_values(&[self.name, outcome]).inc();
    }

    fn say(&self, address: SocketAddr, why: &str) {
        if let Some(more) = self.refusals.tell(owner(address.ip()), why) {
            tracing::warn!(listener = self.name, peer = %address, why, more, "a TLS connection was refused");
        }
    }
}

/// Whether the first bytes are those of a request. Where they come in pieces, it is not known and not waited for.
async fn is_http(stream: &TcpStream) -> bool {
    let mut first = [0; 5];
    matches!(stream.peek(&mut first).await, Ok(5)) && HTTP.contains(&&first)
}

async fn say_what_is_spoken(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = vec![0; REQUEST_BYTES];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    stream.write_all(NOT_HTTP).await?;
    stream.shutdown().await
}

/// The peer went away before it was accepted; the listener is well.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
    )
}
