//! A proxy before a server of an object store that goes wrong by a seed, as networks and servers do: answers that ask to come again,
//! answers that are slow, connections torn in the middle of what is sent or of what is answered, answers lost after the
//! effect, answers that stall.
//!
//! One request for each connection to the server; the client's connections end where a fault ends them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What can happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 503 or 500, and the server hears nothing.
    Unavailable,
    /// The answer comes late.
    Slow,
    /// Half of the request comes to the server, then the connection is torn.
    TornRequest,
    /// Half of the answer comes to the client, then the connection is torn.
    TornAnswer,
    /// The server does it, and the client hears nothing.
    LostAnswer,
    /// Half of the answer comes, then nothing for longer than the client waits.
    Stalled,
}

pub const FAULTS: [Fault; 6] = [
    Fault::Unavailable,
    Fault::Slow,
    Fault::TornRequest,
    Fault::TornAnswer,
    Fault::LostAnswer,
    Fault::Stalled,
];

const SLOW: Duration = Duration::from_millis(400);
/// Longer than clients of these tests wait.
const STALL: Duration = Duration::from_secs(10);

/// Is told of an object that was put, by its client's address and its path, before the client is answered.
pub type Told = Box<dyn Fn(IpAddr, &str) + Send + Sync>;

struct Shared {
    server: SocketAddr,
    random: Mutex<u64>,
    /// Of 1000 requests so many go wrong.
    per_mille: AtomicU64,
    /// How often each fault came up, in the order of [`FAULTS`].
    counts: [AtomicU64; 6],
    requests: AtomicU64,
    /// The same by method; `LIST` for listings.
    by_method: Mutex<BTreeMap<String, u64>>,
    /// Of answers to `GET`, listings left out, with their heads.
    got_bytes: AtomicU64,
    /// Before each request, milliseconds.
    delay_ms: AtomicU64,
    /// Connections end at once.
    is_away: AtomicBool,
    stop: AtomicBool,
    told_of_puts: Mutex<Option<Arc<Told>>>,
    /// Completions of uploads in parts keep their answers.
    keeps_what_is_read_once: bool,
}

/// Ends with this.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Before a server, `http://host:port`.
    pub fn start(endpoint: &str, seed: u64, per_mille: u64, keeps_what_is_read_once: bool) -> Self {
        Self::start_at("127.0.0.1", endpoint, seed, per_mille, keeps_what_is_read_once)
    }

    /// The same at another address of this machine.
    pub fn start_at(host: &str, endpoint: &str, seed: u64, per_mille: u64, keeps_what_is_read_once: bool) -> Self {
        let server = endpoint.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            random: Mutex::new(seed),
            per_mille: AtomicU64::new(per_mille),
            counts: Default::default(),
            requests: AtomicU64::new(0),
            by_method: Mutex::default(),
            got_bytes: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            told_of_puts: Mutex::default(),
            keeps_what_is_read_once,
        });
        let served = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if served.stop.load(Ordering::Relaxed) {
                    return;
                }
                let served = served.clone();
                if let Ok(client) = client {
                    std::thread::spawn(move || serve(&served, client));
                }
            }
        });
        Self { address, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.fail(0);
        self.delay(Duration::ZERO);
        self.go_away(false);
    }

    /// From now on so many of 1000 requests go wrong.
    pub fn fail(&self, per_mille: u64) {
        self.shared.per_mille.store(per_mille, Ordering::Relaxed);
    }

    /// From now on every request waits before it is made.
    pub fn delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap();
        self.shared.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// From now on nobody is answered, or everybody again.
    pub fn go_away(&self, away: bool) {
        self.shared.is_away.store(away, Ordering::Relaxed);
    }

    /// From now on `told` is called for every object that is put in one request; with none nobody is told.
    pub fn tell_of_puts(&self, told: Option<Told>) {
        *self.shared.told_of_puts.lock().unwrap() = told.map(Arc::new);
    }

    /// How often each fault came up.
    pub fn counts(&self) -> Vec<(Fault, u64)> {
        let counts = self.shared.counts.iter().map(|count| count.load(Ordering::Relaxed));
        FAULTS.into_iter().zip(counts).collect()
    }

    /// Requests that came.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The same by method; listings are `LIST`.
    pub fn by_method(&self) -> BTreeMap<String, u64> {
        self.shared.by_method.lock().unwrap().clone()
    }

    /// Bytes of answers to `GET`, with their heads; those of listings do not count.
    pub fn got_bytes(&self) -> u64 {
        self.shared.got_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The listener hears of it with the next connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn random(&self) -> u64 {
        let mut state = self.random.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fault(&self, head: &str) -> Option<Fault> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let method = match head.split_whitespace().next() {
            _ if is_listing(head) => "LIST",
            Some(method) => method,
            None => "",
        };
        *self.by_method.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        if self.random() % 1000 >= self.per_mille.load(Ordering::Relaxed) {
            return None;
        }
        let at = (self.random() % FAULTS.len() as u64) as usize;
        let fault = FAULTS[at];
        // The client does not make a conditional put again whose answer is lost: whoever founds a cluster is told. Nor does
        // it read the answers to these again: who asked does it all once more, which the acceptance suite does not.
        let is_read_once = head.starts_with("POST") || is_listing(head);
        let conditions = ["if-none-match", "x-goog-if-generation-match"];
        let is_conditional = conditions.iter().any(|name| header(head, name).is_some());
        let is_kept = (self.keeps_what_is_read_once && is_read_once) || is_conditional;
        let loses = matches!(fault, Fault::TornAnswer | Fault::LostAnswer | Fault::Stalled);
        let loses = loses || fault == Fault::TornRequest;
        if is_kept && loses {
            return None;
        }
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        Some(fault)
    }
}

/// A request or an answer up to its empty line, and what of its body has come with it.
pub fn read_head(mut stream: impl Read) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut some = [0; 16 << 10];
    loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = bytes.split_off(at + 4);
            return Some((String::from_utf8(bytes).ok()?, body));
        }
        match stream.read(&mut some) {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&some[..n]),
        }
    }
}

/// By S3's and Google's way of asking, or by Azure's.
fn is_listing(head: &str) -> bool {
    let line = head.lines().next().unwrap_or_default();
    line.contains("list-type=") || line.contains("comp=list&") || line.contains("comp=list ")
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn serve(shared: &Shared, mut client: TcpStream) {
    let _ = client.set_read_timeout(Some(Duration::from_secs(60)));
    while !shared.stop.load(Ordering::Relaxed) {
        let Some((head, mut body)) = read_head(&mut client) else {
            return;
        };
        let length: usize = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
        let mut rest = vec![0; length.saturating_sub(body.len())];
        if client.read_exact(&mut rest).is_err() {
            return;
        }
        body.extend_from_slice(&rest);
        std::thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed)));
        if shared.is_away.load(Ordering::Relaxed) {
            return;
        }
        if !answer(shared, &mut client, &head, &body) {
            let _ = client.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn tell(shared: &Shared, client: &TcpStream, head: &str, answer: &[u8]) {
    let told = shared.told_of_puts.lock().unwrap().clone();
    let (Some(told), Ok(from)) = (told, client.peer_addr()) else {
        return;
    };
    let mut words = head.split_whitespace();
    if let (Some("PUT"), Some(path)) = (words.next(), words.next())
        && answer.starts_with(b"HTTP/1.1 200")
        && !path.contains('?')
    {
        told(from.ip(), path);
    }
}

/// Whether the client's connection goes on.
fn answer(shared: &Shared, client: &mut TcpStream, head: &str, body: &[u8]) -> bool {
    let fault = shared.fault(head);
    match fault {
        Some(Fault::Unavailable) => {
            let status = ["503 Slow Down", "500 Internal Server Error"][(shared.random() % 2) as usize];
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            return client.write_all(text.as_bytes()).is_ok();
        }
        Some(Fault::Slow) => std::thread::sleep(SLOW),
        _ => {}
    }
    let Ok(mut server) = TcpStream::connect(shared.server) else {
        return false;
    };
    let lines = head
        .trim_end()
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let lines: Vec<&str> = lines.collect();
    let request = format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"));
    if fault == Some(Fault::TornRequest) {
        let _ = server.write_all(request.as_bytes());
        let _ = server.write_all(&body[..body.len() / 2]);
        // A request without a body is torn before its end.
        return false;
    }
    if server
        .write_all(request.as_bytes())
        .and_then(|()| server.write_all(body))
        .is_err()
    {
        return false;
    }
    let mut whole = Vec::new();
    if server.read_to_end(&mut whole).is_err() {
        return false;
    }
    tell(shared, client, head, &whole);
    if head.starts_with("GET ") && !is_listing(head) {
        shared.got_bytes.fetch_add(whole.len() as u64, Ordering::Relaxed);
    }
    let half = whole.len() / 2;
    match fault {
        Some(Fault::LostAnswer) => false,
        Some(Fault::TornAnswer) => {
            let _ = client.write_all(&whole[..half]);
            false
        }
        Some(Fault::Stalled) => {
            let _ = client.write_all(&whole[..half]);
            std::thread::sleep(STALL);
            false
        }
        // The server closes: so is what the client is told.
        _ => {
            let _ = client.write_all(&whole);
            false
        }
    }
}
