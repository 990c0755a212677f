//! What stands between nodes: on each host a relay before its gRPC port, which delays, stalls and ends connections as a file
//! says. It is this test's own binary, started once more in the host's network namespace.

use crate::harness::Process;
use crate::net::Net;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::net::sockopt::set_socket_linger;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Names the file, the port to listen at, the port to relay to, and the seed; the test does nothing without it.
const VARIABLE: &str = "GNOMON_NEMESIS_RELAY";
/// How often the file is read.
const READ_EVERY: Duration = Duration::from_millis(100);

/// What a relay does to what comes to its host.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// Before each piece is passed on.
    pub(crate) delay_ms: u64,
    /// Of 100 connections so many pass nothing on, neither way.
    pub(crate) stalled: u64,
    /// Of 100 connections that pass something on so many are ended each second.
    pub(crate) ended: u64,
}

/// The relay of a host.
pub(crate) struct Relay {
    _process: Process,
    file: PathBuf,
}

impl Relay {
    pub(crate) fn start(net: &Net, host: usize, folder: &Path, from: u16, to: u16, seed: u64) -> Self {
        let file = folder.join("wire");
        let program = std::env::current_exe().expect("this test's binary");
        let mut command = net.on(host);
        command
            .arg(program)
            .args(["--exact", "wire::relays_where_it_is_told_to", "--nocapture"])
            .env(
                VARIABLE,
                format!("{} {from} {to} {}", file.display(), seed + host as u64),
            );
        let relay = Self {
            _process: Process::start(&format!("relay {host}"), &mut command, folder.join("wire.log")),
            file,
        };
        relay.make(Trouble::default());
        relay
    }

    pub(crate) fn make(&self, trouble: Trouble) {
        let Trouble {
            delay_ms,
            stalled,
            ended,
        } = trouble;
        let written = self.file.with_extension("new");
        std::fs::write(&written, format!("{delay_ms} {stalled} {ended}")).expect("wire");
        std::fs::rename(written, &self.file).expect("wire");
    }
}

/// The present trouble, for all connections.
#[derive(Default)]
struct Present([AtomicU64; 3]);

impl Present {
    fn get(&self) -> Trouble {
        let [delay_ms, stalled, ended] = [0, 1, 2].map(|i| self.0[i].load(Ordering::Relaxed));
        Trouble {
            delay_ms,
            stalled,
            ended,
        }
    }

    fn read(&self, file: &str) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for (number, present) in text.split(' ').zip(&self.0) {
            present.store(number.parse().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

#[test]
fn relays_where_it_is_told_to() {
    let Ok(told) = std::env::var(VARIABLE) else { return };
    let told: Vec<&str> = told.split(' ').collect();
    let [file, from, to, seed] = told[..] else {
        panic!("{VARIABLE}: {told:?}");
    };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (from, to) = (number(from) as u16, number(to) as u16);
    let mut seeds = StdRng::seed_from_u64(number(seed));
    let present = Arc::new(Present::default());
    let (shown, file) = (present.clone(), file.to_owned());
    std::thread::spawn(move || {
        loop {
            shown.read(&file);
            std::thread::sleep(READ_EVERY);
        }
    });
    let listener = TcpListener::bind(("0.0.0.0", from)).expect("the port");
    for client in listener.incoming().flatten() {
        // Whoever is not there refuses, as it would without a relay.
        let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
            continue;
        };
        let luck = seeds.random_range(0..100);
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let is_reset = Arc::new(AtomicBool::new(false));
        for (source, sink) in [(&client, &server), (&server, &client)] {
            let (Ok(source), Ok(sink)) = (source.try_clone(), sink.try_clone()) else {
                continue;
            };
            let rng = StdRng::seed_from_u64(seeds.random_range(0..u64::MAX));
            let (present, is_reset) = (present.clone(), is_reset.clone());
            std::thread::spawn(move || {
                if pass(&source, &sink, &present, luck, rng) == End::Reset {
                    is_reset.store(true, Ordering::Relaxed);
                    for stream in [&source, &sink] {
                        // Closed like that it is reset; the other way's thread wakes, and closes its side.
                        let _ = set_socket_linger(stream, Some(Duration::ZERO));
                        let _ = stream.shutdown(Shutdown::Read);
                    }
                } else if !is_reset.load(Ordering::Relaxed) {
                    let _ = source.shutdown(Shutdown::Both);
                    let _ = sink.shutdown(Shutdown::Both);
                }
            });
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As one that is closed.
    Closed,
    /// As by a host that does not know it any more.
    Reset,
}

/// Until one of the two ends, or chance ends both.
fn pass(mut source: &TcpStream, mut sink: &TcpStream, present: &Present, luck: u64, mut rng: StdRng) -> End {
    let mut some = vec![0; 64 << 10];
    let mut judged = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    loop {
        let count = match source.read(&mut some) {
            Ok(0) | Err(_) => return End::Closed,
            Ok(count) => count,
        };
        while luck < present.get().stalled {
            std::thread::sleep(READ_EVERY);
        }
        let Trouble { delay_ms, ended, .. } = present.get();
        std::thread::sleep(Duration::from_millis(delay_ms));
        let second = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        if second != judged {
            judged = second;
            if rng.random_range(0..100) < ended {
                return if rng.random() { End::Reset } else { End::Closed };
            }
        }
        if sink.write_all(&some[..count]).is_err() {
            return End::Closed;
        }
    }
}
