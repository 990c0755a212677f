//! A real S3 server: SeaweedFS' `weed`, as `make peers` fetches it, or as `GNOMON_WEED` names it.
#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries")]
#![allow(clippy::unwrap_used)]

#[path = "proxy.rs"]
pub mod proxy;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server's bucket.
pub const BUCKET: &str = "gnomon-test";

/// None (with a word) where it is missing; a failure where CI runs.
pub fn find() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let fetched = cache.or(home).map(|c| c.join("gnomon/peers/seaweedfs/bin/weed"));
    let named = std::env::var_os("GNOMON_WEED").map(PathBuf::from);
    let found = named.or(fetched).filter(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "weed (an S3 server) is missing: run `make peers`"
        );
        eprintln!("skipped: weed (an S3 server) is missing (`make peers` fetches it)");
    }
    found
}

/// Ports whose gRPC twins (10,000 above, as weed counts) exist; held until all are chosen.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    while held.len() < N {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let grpc = port
            .checked_add(10_000)
            .and_then(|p| TcpListener::bind(("127.0.0.1", p)).ok());
        if let Some(grpc) = grpc {
            held.push((port, listener, grpc));
        } else if port > 55_000 {
            // The system hands out ports of a range: one further down is asked for by number, where no other tests ask.
            let lower = (30_000..32_700).find_map(|p| TcpListener::bind(("127.0.0.1", p)).ok());
            let lower = lower.unwrap();
            let port = lower.local_addr().unwrap().port();
            let grpc = TcpListener::bind(("127.0.0.1", port + 10_000));
            if let Ok(grpc) = grpc {
                held.push((port, lower, grpc));
            }
        }
    }
    let mut ports = held.iter().map(|(port, _, _)| *port);
    std::array::from_fn(|_| ports.next().unwrap())
}

/// A server with its folder; it can be stopped and started again.
pub struct Server {
    program: PathBuf,
    ports: [u16; 4],
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    /// Returns once it has its bucket.
    pub fn start(program: PathBuf) -> Self {
        let mut server = Self {
            program,
            ports: free_ports(),
            child: None,
            folder: tempfile::tempdir().unwrap(),
        };
        server.start_again();
        server
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[3])
    }

    /// How a program is told of the server; it takes any key.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", "any".into()),
            ("AWS_SECRET_ACCESS_KEY", "any".into()),
        ]
    }

    /// From now on nobody answers.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// With the same ports and the same data.
    pub fn start_again(&mut self) {
        let [master, volume, filer, s3] = self.ports;
        let child = Command::new(&self.program)
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
            .args([
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=16",
            ])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .arg(format!("-dir={}", self.folder.path().display()))
            .args([format!("-master.port={master}"), format!("-volume.port={volume}")])
            .args([format!("-filer.port={filer}"), format!("-s3.port={s3}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..600 {
            // 409: it is there already.
            if matches!(request(s3, "PUT", &format!("/{BUCKET}")).0, 200 | 409) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("weed did not make a bucket within a minute");
    }

    /// Keys below a prefix of the bucket.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let (_, text) = request(self.ports[3], "GET", &format!("/{BUCKET}?list-type=2&prefix={prefix}"));
        let keys = text.split("<Key>").skip(1);
        keys.filter_map(|rest| rest.split_once("</Key>").map(|(key, _)| key.to_owned()))
            .collect()
    }
}

/// Status and answer of a request without a body; 0 while nobody answers.
fn request(port: u16, method: &str, path: &str) -> (u16, String) {
    let attempt = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let head = format!("Host: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close");
        stream.write_all(format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let text = attempt().unwrap_or_default();
    let code = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, text)
}
