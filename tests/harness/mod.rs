//! Starts real processes on free ports with temp folders, and ends them by their own id.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by several binaries, each of which uses a part of it"
)]

pub mod chunks;
pub mod client;
pub mod cutter;
pub mod disk;
pub mod exporter;
pub mod families;
pub mod guard;
pub mod peers;
pub mod reference;
pub mod remote;
pub mod ticks;

pub use client::Http;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How long anything may take before a test gives up; generous, since machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of this package, as cargo says it now: what comes from a cache was built elsewhere, it may be.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// A folder of the test data that is kept beside the repository; none (with a word) where it is absent.
pub fn shared(name: &str) -> Option<PathBuf> {
    let beside = || package().join("../shared");
    let folder = std::env::var_os("GNOMON_SHARED")
        .map_or_else(beside, PathBuf::from)
        .join(name);
    if !folder.is_dir() {
        eprintln!("skipped: {} is absent", folder.display());
        return None;
    }
    Some(folder)
}

/// A port that was free a moment ago. None that systems give to outgoing connections (from 32768 on, by default), so that a
/// node that is started again finds it free, and none of another process of tests: see [`Block`].
pub fn free_port() -> u16 {
    static BLOCK: LazyLock<Block> = LazyLock::new(|| Block::claim(|_| true));
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    for _ in 1..Block::PORTS {
        let port = BLOCK.first + 1 + GIVEN.fetch_add(1, Ordering::Relaxed) % (Block::PORTS - 1);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!(
        "all ports from {} to {} are taken",
        BLOCK.first,
        BLOCK.first + Block::PORTS
    )
}

/// Ports that this process has for itself among processes of tests, for as long as it listens at the first of them.
pub struct Block {
    pub first: u16,
    _claim: TcpListener,
}

impl Block {
    const PORTS: u16 = 100;
    const BLOCKS: u16 = 150;

    /// A block whose first port `suits`. Processes begin to look at different ones.
    pub fn claim(suits: impl Fn(u16) -> bool) -> Self {
        let start = std::process::id() % u32::from(Self::BLOCKS);
        let blocks = (start..)
            .take(Self::BLOCKS.into())
            .map(|block| block % u32::from(Self::BLOCKS));
        let mut firsts = blocks.map(|block| 10_000 + u16::try_from(block).expect("below 150") * Self::PORTS);
        let claimed = firsts.find_map(|first| {
            suits(first).then_some(())?;
            let claim = TcpListener::bind(("127.0.0.1", first)).ok()?;
            Some(Self { first, _claim: claim })
        });
        claimed.expect("a block of ports below 25000 that no other process of tests has")
    }
}

/// Waits until `check` gives something; panics with `what` after [`PATIENCE`].
pub async fn eventually<T>(what: &str, check: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, check).await
}

/// The same for what takes longer.
pub async fn eventually_within<T>(patience: Duration, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + patience;
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

    /// Memory that it has for itself now, in bytes, without what it has mapped from files.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let held = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = held.and_then(|held| held.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or_default() << 10
    }

    /// The most memory that it has had so far, as the system says it.
    pub fn peak_memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.unwrap_or("not known").trim().to_owned()
    }

    /// What it has printed so far, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// The exit code once it has ended by itself (none where a signal ended it). Panics after [`PATIENCE`].
    pub async fn ended(&mut self) -> Option<i32> {
        let what = format!("{} to end by itself", self.name);
        let status = eventually(&what, async || self.child.try_wait().expect("wait")).await;
        status.code()
    }

    /// kill -9, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: &str) {
        assert!(send_signal(self.id(), signal), "kill {signal} {}", self.name);
    }

    /// Ctrl-C; the exit code once it has ended. Panics after [`PATIENCE`].
    pub async fn interrupt(&mut self) -> Option<i32> {
        self.signal("-INT");
        self.ended().await
    }
}

/// To a process by its id; whether it is there.
pub fn send_signal(process: u32, signal: &str) -> bool {
    // The shell's own: a bare Debian has no program of that name.
    let mut command = Command::new("sh");
    command.args(["-c", "kill \"$0\" \"$1\"", signal, &process.to_string()]);
    command.status().expect("sh").success()
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
pub fn binary() -> PathBuf {
    std::env::var_os("GNOMON_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_gnomon").into(), PathBuf::from)
}

/// A gnomon node: one process with its data folder.
pub struct Node {
    pub process: Process,
    pub http: Http,
    folder: PathBuf,
    args: Vec<String>,
    surroundings: Surroundings,
}

/// What a process finds besides its arguments.
#[derive(Default)]
struct Surroundings {
    /// Another build; none is [`binary`].
    program: Option<PathBuf>,
    environment: Vec<(String, String)>,
    /// Of what it may allocate; none is no limit.
    memory_kib: Option<u64>,
    /// What stands in place of /etc/hosts.
    hosts: Option<PathBuf>,
}

impl Surroundings {
    /// The binary, started by a shell that first takes memory away from it, or shows it other names.
    fn command(&self) -> Command {
        let program = self.program.clone().unwrap_or_else(binary);
        let mut command = match (&self.hosts, self.memory_kib) {
            (Some(hosts), _) => {
                let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
                let mut command = Command::new("unshare");
                command
                    .args(["--mount", "--map-root-user", "sh", "-c", script])
                    .arg(hosts)
                    .arg(program);
                command
            }
            (None, Some(kib)) => {
                let script = format!("ulimit -d {kib} && exec \"$0\" \"$@\"");
                let mut command = Command::new("sh");
                command.args(["-c", &script]).arg(program);
                command
            }
            (None, None) => Command::new(program),
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Whether a process can be shown another /etc/hosts.
pub fn can_name_hosts() -> bool {
    let tried = Command::new("unshare")
        .args([
            "--mount",
            "--map-root-user",
            "mount",
            "--bind",
            "/etc/hosts",
            "/etc/hosts",
        ])
        .output();
    tried.is_ok_and(|tried| tried.status.success())
}

impl Node {
    /// Starts `--target=all` in `folder` with the configuration `yaml` and further arguments, and waits until ready.
    pub async fn start(folder: &Path, yaml: &str, more: &[&str]) -> Self {
        Self::start_with(folder, yaml, more, &[]).await
    }

    /// The same, with more in its environment.
    pub async fn start_with(folder: &Path, yaml: &str, more: &[&str], environment: &[(&str, String)]) -> Self {
        let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), v.clone()));
        let surroundings = Surroundings {
            environment: environment.collect(),
            ..Surroundings::default()
        };
        Self::spawn_in(folder, Self::arguments(folder, yaml, more), surroundings).await
    }

    /// The same, with a limit on what it may allocate.
    pub async fn start_limited(folder: &Path, yaml: &str, more: &[&str], memory_kib: Option<u64>) -> Self {
        let surroundings = Surroundings {
            memory_kib,
            ..Surroundings::default()
        };
        Self::spawn_in(folder, Self::arguments(folder, yaml, more), surroundings).await
    }

    fn arguments(folder: &Path, yaml: &str, more: &[&str]) -> Vec<String> {
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, yaml).expect("configuration");
        let mut args = vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--cluster.listen-address=127.0.0.1:{}", free_port()),
        ];
        args.extend(more.iter().map(|a| (*a).to_owned()));
        if !more.iter().any(|a| a.starts_with("--web.listen-address=")) {
            args.push(format!("--web.listen-address=127.0.0.1:{}", free_port()));
        }
        args
    }

    /// Starts with these arguments alone, and waits until ready.
    pub async fn spawn(folder: &Path, args: Vec<String>) -> Self {
        Self::spawn_in(folder, args, Surroundings::default()).await
    }

    async fn spawn_in(folder: &Path, args: Vec<String>, surroundings: Surroundings) -> Self {
        let mut node = Self::launch_in(folder, args, surroundings);
        node.until_ready().await;
        node
    }

    /// Starts, and does not wait.
    pub fn launch(folder: &Path, args: Vec<String>) -> Self {
        Self::launch_in(folder, args, Surroundings::default())
    }

    /// Starts another build, and does not wait.
    pub fn launch_build(program: &Path, folder: &Path, args: Vec<String>) -> Self {
        let surroundings = Surroundings {
            program: Some(program.to_owned()),
            ..Surroundings::default()
        };
        Self::launch_in(folder, args, surroundings)
    }

    /// The same, where `hosts` stands in place of /etc/hosts ([`can_name_hosts`]).
    pub fn launch_among(hosts: &Path, folder: &Path, args: Vec<String>) -> Self {
        let surroundings = Surroundings {
            hosts: Some(hosts.to_owned()),
            ..Surroundings::default()
        };
        Self::launch_in(folder, args, surroundings)
    }

    fn launch_in(folder: &Path, args: Vec<String>, surroundings: Surroundings) -> Self {
        let address = args
            .iter()
            .find_map(|a| a.strip_prefix("--web.listen-address="))
            .expect("an address")
            .to_owned();
        let process = Process::start("gnomon", surroundings.command().args(&args), folder.join("gnomon.log"));
        Self {
            process,
            http: Http::new(&format!("http://{address}")),
            folder: folder.to_owned(),
            args,
            surroundings,
        }
    }

    pub async fn until_ready(&mut self) {
        let (process, http) = (&mut self.process, &self.http);
        eventually("gnomon to be ready", async || {
            assert!(!process.has_ended(), "gnomon ended at its start:\n{}", process.log());
            http.is_ready().await.then_some(())
        })
        .await;
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
            folder,
            args,
            surroundings,
            process,
            ..
        } = self;
        drop(process);
        let node = Self::spawn_in(&folder, args, surroundings).await;
        (node, began.elapsed())
    }

    /// The flags it was started with.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.join("prometheus.yml")
    }
}
