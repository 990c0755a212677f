//! Starts real processes on free ports with temp folders, and ends them by their own id.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by several binaries, each of which uses a part of it"
)]

pub mod client;
pub mod disk;
pub mod peers;
pub mod remote;

pub use client::Http;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long anything may take before a test gives up; generous, since machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Waits until `check` gives something; panics with `what` after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A child process that is killed when it goes out of scope; its output is kept in a file.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    pub fn start(name: &str, command: &mut Command, log: PathBuf) -> Self {
        let open = || File::options().create(true).append(true).open(&log).expect("log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: cannot start {command:?}: {e}"));
        Self {
            child,
            name: name.to_owned(),
            log,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time it has taken so far: unlike the clock, it does not depend on what else the machine does.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // User and system time are the fields 14 and 15; the name before them may hold blanks. USER_HZ is 100.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let ticks: u64 = fields.take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// What it has printed so far, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// kill -9, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .expect("kill");
        assert!(done.success(), "kill {signal} {}", self.name);
    }

    /// Ctrl-C; the exit code once it has ended. Panics after [`PATIENCE`].
    pub async fn interrupt(&mut self) -> Option<i32> {
        self.signal("-INT");
        let status = eventually("the process to end after SIGINT", async || {
            self.child.try_wait().expect("wait")
        })
        .await;
        status.code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let lines: Vec<_> = BufReader::new(self.log().as_bytes())
                .lines()
                .map_while(Result::ok)
                .collect();
            eprintln!("--- end of the log of {} ---", self.name);
            for line in &lines[lines.len().saturating_sub(40)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// The binary of this build, or the one that `GNOMON_TEST_BINARY` names (a release build, say).
fn binary() -> PathBuf {
    std::env::var_os("GNOMON_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_gnomon").into(), PathBuf::from)
}

/// A gnomon node: one process with its data folder.
pub struct Node {
    pub process: Process,
    pub http: Http,
    folder: PathBuf,
    args: Vec<String>,
}

impl Node {
    /// Starts `--target=all` in `folder` with the configuration `yaml` and further arguments, and waits until ready.
    pub async fn start(folder: &Path, yaml: &str, more: &[&str]) -> Self {
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, yaml).expect("configuration");
        let mut args = vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address=127.0.0.1:{}", free_port()),
            format!("--cluster.listen-address=127.0.0.1:{}", free_port()),
        ];
        args.extend(more.iter().map(|a| (*a).to_owned()));
        Self::spawn(folder, args).await
    }

    async fn spawn(folder: &Path, args: Vec<String>) -> Self {
        let address = args
            .iter()
            .find_map(|a| a.strip_prefix("--web.listen-address="))
            .expect("an address")
            .to_owned();
        let mut process = Process::start("gnomon", Command::new(binary()).args(&args), folder.join("gnomon.log"));
        let http = Http::new(&format!("http://{address}"));
        eventually("gnomon to be ready", async || {
            assert!(!process.has_ended(), "gnomon ended at its start:\n{}", process.log());
            http.is_ready().await.then_some(())
        })
        .await;
        Self {
            process,
            http,
            folder: folder.to_owned(),
            args,
        }
    }

    /// kill -9 and start again, with the same arguments; the time from start to ready.
    pub async fn kill_and_restart(mut self) -> (Self, Duration) {
        self.process.kill();
        self.restart().await
    }

    /// Starts again after an end; the time from start to ready.
    pub async fn restart(self) -> (Self, Duration) {
        let began = tokio::time::Instant::now();
        let Self {
            folder, args, process, ..
        } = self;
        drop(process);
        let node = Self::spawn(&folder, args).await;
        (node, began.elapsed())
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.join("prometheus.yml")
    }
}
