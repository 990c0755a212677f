//! The same remote-write load into gnomon, Debian's Prometheus and VictoriaMetrics, one after the other in one run:
//! samples per CPU second, memory, restart after kill -9. Prints a Markdown table.
//!
//! `make bench`; SERIES, ROUNDS and SENDERS in the environment change the load.

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::{Http, Process, free_port, peers, remote};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

struct Load {
    series: usize,
    rounds: usize,
    senders: usize,
    per_request: usize,
    end_ms: i64,
}

const STEP_MS: i64 = 15_000;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

impl Load {
    /// One request: `per_request` series from `first` on, one sample each. Labels are like a node exporter's; a third
    /// of the values is constant, a third counts, a third moves.
    fn body(&self, first: usize, round: usize) -> Vec<u8> {
        let at = self.end_ms - (self.rounds - round) as i64 * STEP_MS;
        let series = (first..(first + self.per_request).min(self.series)).map(|i| {
            let instance = format!("10.0.{}.{}:9100", i / 1000 / 250, i / 1000 % 250);
            let (cpu, mode) = (
                (i % 8).to_string(),
                ["idle", "iowait", "irq", "nice", "softirq", "user"][i % 6],
            );
            let name = format!("node_metric_{}_total", i % 1000 / 10);
            let labels = [
                ("__name__", name.as_str()),
                ("cpu", &cpu),
                ("device", &format!("dev{}", i % 10)),
                ("instance", &instance),
                ("job", "node"),
                ("mode", mode),
            ];
            let value = match i % 3 {
                0 => i as f64,
                1 => (round * (i % 97 + 1)) as f64,
                _ => ((i * 31 + round * 17) % 1009) as f64 / 8.0,
            };
            remote::time_series(&labels, &[(at, value)])
        });
        remote::body(series.collect())
    }
}

struct Server {
    name: &'static str,
    program: std::path::PathBuf,
    args: Vec<String>,
    http: Http,
    ready: &'static str,
}

#[derive(Debug)]
struct Figures {
    cpu: f64,
    wall: f64,
    peak_anonymous_mib: f64,
    resident_peak_mib: f64,
    restart: Duration,
}

/// User and system CPU seconds of a process so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn status_mib(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

impl Server {
    async fn start(&self, folder: &Path) -> (Process, Duration) {
        let began = tokio::time::Instant::now();
        let process = Process::start(
            self.name,
            Command::new(&self.program).args(&self.args),
            folder.join(format!("{}.log", self.name)),
        );
        harness::eventually("the server to be ready", async || {
            let answer = self.http.client().get(self.http.url(self.ready)).send().await;
            answer.is_ok_and(|r| r.status().is_success()).then_some(())
        })
        .await;
        (process, began.elapsed())
    }

    async fn send(http: Http, body: Vec<u8>) {
        loop {
            match remote::send(&http, body.clone()).await {
                Ok((code, _)) if (200..300).contains(&code) => return,
                Ok((503 | 429, _)) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok((code, text)) => panic!("{}: {code} {text}", http.url("")),
            }
        }
    }

    async fn run(&self, load: Arc<Load>, folder: &Path) -> Figures {
        let (mut process, _) = self.start(folder).await;
        let began = tokio::time::Instant::now();
        let before = cpu_seconds(process.id());
        let mut peak_anonymous_mib: f64 = 0.0;
        for round in 0..load.rounds {
            let mut senders = tokio::task::JoinSet::new();
            for sender in 0..load.senders {
                let (load, http) = (Arc::clone(&load), self.http.clone());
                senders.spawn(async move {
                    let stride = load.senders * load.per_request;
                    for first in (sender * load.per_request..load.series).step_by(stride) {
                        Self::send(http.clone(), load.body(first, round)).await;
                    }
                });
            }
            while senders.join_next().await.is_some() {}
            peak_anonymous_mib = peak_anonymous_mib.max(status_mib(process.id(), "RssAnon:"));
        }
        // What the server put off (compaction, garbage) counts as well.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let cpu = cpu_seconds(process.id()) - before;
        let wall = began.elapsed().as_secs_f64();
        let resident_peak_mib = status_mib(process.id(), "VmHWM:");
        process.kill();
        let (_process, restart) = self.start(folder).await;
        Figures {
            cpu,
            wall,
            peak_anonymous_mib,
            resident_peak_mib,
            restart,
        }
    }
}

fn servers(folder: &Path) -> Vec<Server> {
    let address = || format!("127.0.0.1:{}", free_port());
    let data = |name: &str| folder.join(name).display().to_string();
    let config = folder.join("empty.yml");
    std::fs::write(&config, "").expect("configuration");
    let mut found = Vec::new();
    let at = address();
    found.push(Server {
        name: "gnomon",
        program: env!("CARGO_BIN_EXE_gnomon").into(),
        args: vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", data("gnomon")),
            format!("--web.listen-address={at}"),
            format!("--cluster.listen-address={}", address()),
            "--web.enable-remote-write-receiver".into(),
        ],
        http: Http::new(&format!("http://{at}")),
        ready: "/-/ready",
    });
    if let Some(program) = peers::find("prometheus", "prometheus") {
        let at = address();
        found.push(Server {
            name: "prometheus",
            program,
            args: vec![
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", data("prometheus")),
                format!("--web.listen-address={at}"),
                "--web.enable-remote-write-receiver".into(),
            ],
            http: Http::new(&format!("http://{at}")),
            ready: "/-/ready",
        });
    }
    if let Some(program) = peers::find("victoria-metrics", "victoria-metrics") {
        let at = address();
        found.push(Server {
            name: "victoria-metrics",
            program,
            args: vec![
                format!("-storageDataPath={}", data("victoria")),
                format!("-httpListenAddr={at}"),
            ],
            http: Http::new(&format!("http://{at}")),
            ready: "/health",
        });
    }
    found
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // cargo passes --bench; there is nothing to choose.
    let end_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let load = Arc::new(Load {
        series: number("SERIES", 100_000),
        rounds: number("ROUNDS", 40),
        senders: number("SENDERS", 4),
        per_request: 2_000,
        end_ms,
    });
    let folder = tempfile::tempdir().expect("temp folder");
    let samples = (load.series * load.rounds) as f64;
    println!(
        "{} series, {} rounds of one sample each, {} senders\n",
        load.series, load.rounds, load.senders
    );
    println!(
        "| server | CPU s per million samples | samples per CPU second | anonymous KiB per series | peak resident MiB | wall s | restart to ready s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for server in servers(folder.path()) {
        let f = server.run(Arc::clone(&load), folder.path()).await;
        println!(
            "| {} | {:.2} | {:.0} | {:.2} | {:.0} | {:.1} | {:.2} |",
            server.name,
            f.cpu / samples * 1e6,
            samples / f.cpu,
            f.peak_anonymous_mib * 1024.0 / load.series as f64,
            f.resident_peak_mib,
            f.wall,
            f.restart.as_secs_f64()
        );
    }
}
