//! Debian's Prometheus, with which gnomon's answers are compared.

use super::{Http, Process, eventually, free_port};
use std::path::Path;
use std::process::Command;

/// One that runs; it ends with this.
pub struct Prometheus {
    pub process: Process,
    pub http: Http,
}

impl Prometheus {
    /// Starts it with the configuration `yaml` and further flags, and does not wait. Its files are `name` in `folder`.
    pub fn launch(program: &Path, folder: &Path, name: &str, yaml: &str, more: &[&str]) -> Self {
        Self::launch_at(free_port(), program, folder, name, yaml, more)
    }

    /// The same on a port that is known before.
    pub fn launch_at(port: u16, program: &Path, folder: &Path, name: &str, yaml: &str, more: &[&str]) -> Self {
        let config = folder.join(format!("{name}.yml"));
        std::fs::write(&config, yaml).expect("configuration");
        let process = Process::start(
            "prometheus",
            Command::new(program)
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", folder.join(name).display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .args(more),
            folder.join(format!("{name}.log")),
        );
        let http = Http::new(&format!("http://127.0.0.1:{port}"));
        Self { process, http }
    }

    /// Starts it without a configuration, to be written to, and waits until it is ready. It keeps samples of any age,
    /// and knows native histograms.
    pub async fn for_remote_write(program: &Path, folder: &Path) -> Self {
        let flags = [
            "--web.enable-remote-write-receiver",
            "--enable-feature=native-histograms",
            "--storage.tsdb.retention.time=100y",
        ];
        let reference = Self::launch(program, folder, "reference", "", &flags);
        reference.until_ready().await;
        reference
    }

    pub async fn until_ready(&self) {
        eventually("prometheus to be ready", async || {
            self.http.is_ready().await.then_some(())
        })
        .await;
    }
}
