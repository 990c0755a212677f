//! The servers that are compared, each with its defaults and a data folder of its own.

use crate::harness::{Http, Process, eventually, free_port, peers};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) struct Server {
    pub(crate) name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    pub(crate) http: Http,
    ready: &'static str,
    /// Added to every query: one server keeps results unless told not to.
    pub(crate) query_more: &'static str,
}

/// Which servers there are; each run gets new folders and ports.
pub(crate) const NAMES: [&str; 3] = ["gnomon", "prometheus", "victoria-metrics"];
/// Another build of it, to compare with.
pub(crate) const BEFORE: &str = "gnomon-before";

impl Server {
    /// The server `name` with data below `folder`, none where its program is missing. With `scrapes_itself` it has
    /// one scrape job: itself.
    pub(crate) fn new(name: &str, folder: &Path, scrapes_itself: bool) -> Option<Self> {
        let address = format!("127.0.0.1:{}", free_port());
        let config = folder.join(format!("{name}.yml"));
        let text = if scrapes_itself {
            format!("scrape_configs:\n- job_name: self\n  static_configs:\n  - targets: ['{address}']\n")
        } else {
            String::new()
        };
        std::fs::write(&config, text).expect("configuration");
        let (config, data) = (config.display(), folder.join(name));
        let data = data.display();
        let http = Http::new(&format!("http://{address}"));
        Some(match name {
            "gnomon" | "gnomon-before" => Self {
                name: if name == "gnomon" { "gnomon" } else { "gnomon-before" },
                program: Self::own_program(name)?,
                args: vec![
                    format!("--config.file={config}"),
                    format!("--storage.tsdb.path={data}"),
                    format!("--web.listen-address={address}"),
                    format!("--cluster.listen-address=127.0.0.1:{}", free_port()),
                    "--web.enable-remote-write-receiver".into(),
                ],
                http,
                ready: "/-/ready",
                // Results are evaluated, each time.
                query_more: "&nocache=1",
            },
            "prometheus" => Self {
                name: "prometheus",
                program: peers::find("prometheus", "prometheus")?,
                args: vec![
                    format!("--config.file={config}"),
                    format!("--storage.tsdb.path={data}"),
                    format!("--web.listen-address={address}"),
                    "--web.enable-remote-write-receiver".into(),
                ],
                http,
                ready: "/-/ready",
                query_more: "",
            },
            _ => Self {
                name: "victoria-metrics",
                program: peers::find("victoria-metrics", "victoria-metrics")?,
                args: vec![
                    format!("-promscrape.config={config}"),
                    format!("-storageDataPath={data}"),
                    format!("-httpListenAddr={address}"),
                    // Else the newest 30 s are left out of every answer.
                    "-search.latencyOffset=0s".into(),
                ],
                http,
                ready: "/health",
                query_more: "&nocache=1",
            },
        })
    }

    /// GNOMON and BEFORE in the environment name other binaries than the one that was built; the latter has to.
    fn own_program(name: &str) -> Option<PathBuf> {
        let built = || PathBuf::from(env!("CARGO_BIN_EXE_gnomon"));
        if name == "gnomon" {
            return Some(std::env::var_os("GNOMON").map_or_else(built, PathBuf::from));
        }
        std::env::var_os("BEFORE").map(PathBuf::from)
    }

    /// Whether it is gnomon, of whatever build.
    pub(crate) fn is_gnomon(&self) -> bool {
        self.name.starts_with("gnomon")
    }

    /// With one more flag.
    pub(crate) fn with_flag(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Without the role that scrapes, and the process that scrapes for it by `config`, with its data below `folder`; only
    /// of gnomon. (Two processes of one cluster: what the second one pushes travels over gRPC.)
    pub(crate) fn apart(mut self, folder: &Path, config: &Path) -> (Self, Command) {
        let listens = |arg: &&String| arg.starts_with("--cluster.listen-address=");
        let address = self.args.iter().find(listens).and_then(|arg| arg.split('=').nth(1));
        let peers = format!("--cluster.peers={}", address.expect("gnomon's arguments"));
        let blocks = format!("--storage.object-store=file://{}", folder.join("blocks").display());
        let mut scraper = Command::new(&self.program);
        scraper.args([
            "--target=scraper".to_owned(),
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("scraper").display()),
            format!("--web.listen-address=127.0.0.1:{}", free_port()),
            format!("--cluster.listen-address=127.0.0.1:{}", free_port()),
            peers.clone(),
            blocks.clone(),
        ]);
        self.args
            .extend(["--target=ingester,querier,compactor".to_owned(), peers, blocks]);
        (self, scraper)
    }

    /// Starts it; the time until it says that it is ready.
    pub(crate) async fn start(&self, folder: &Path) -> (Process, Duration) {
        let began = tokio::time::Instant::now();
        let process = Process::start(
            self.name,
            Command::new(&self.program).args(&self.args),
            folder.join(format!("{}.log", self.name)),
        );
        eventually("the server to be ready", async || {
            let answer = self.http.client().get(self.http.url(self.ready)).send().await;
            answer.is_ok_and(|r| r.status().is_success()).then_some(())
        })
        .await;
        (process, began.elapsed())
    }

    /// What its `--version` says first.
    pub(crate) fn version(&self) -> String {
        let flag = if self.name == "victoria-metrics" {
            "-version"
        } else {
            "--version"
        };
        let said = Command::new(&self.program).arg(flag).output();
        let said = said.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&said).into_owned();
        let line = text.lines().next().unwrap_or_default().trim();
        // Debian builds VictoriaMetrics without a version in it.
        if line.is_empty() {
            format!("{}, as its package is", self.name)
        } else {
            line.to_owned()
        }
    }
}
