//! The shell commands of the README, as a newcomer pastes them.

use crate::harness::{Http, Process, binary, eventually, free_port, package};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What the README gives for four processes, on ports that are free; and the HTTP ports among them.
fn block(repository: &Path) -> (String, Vec<u16>) {
    let readme = std::fs::read_to_string(repository.join("README.md")).expect("README.md");
    let block = readme
        .split("```sh\n")
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.starts_with("role()"))
        .expect("the commands for four processes");
    let ports: Vec<(String, u16)> = (9090..=9098).map(|port: u16| (port.to_string(), free_port())).collect();
    let mut block = block.replace("target/release/gnomon", "\"$GNOMON\"");
    // In two steps, lest a free port is taken for one of the README's.
    for (from, _) in &ports {
        block = block.replace(from.as_str(), &format!("<{from}>"));
    }
    for (from, to) in &ports {
        block = block.replace(&format!("<{from}>"), &to.to_string());
    }
    let http = ports[..4].iter().map(|(_, to)| *to).collect();
    (block, http)
}

/// A shell that runs the commands, and ends what they started when it is told to; at the latest when this is dropped.
struct Shell {
    process: Process,
    stop: PathBuf,
}

impl Shell {
    fn start(folder: &Path, block: &str) -> Self {
        let stop = folder.join("stop");
        assert!(Command::new("mkfifo").arg(&stop).status().expect("mkfifo").success());
        let script = format!("{block}\nread _ <stop\nkill $(jobs -p)\nwait\n");
        let mut command = Command::new("bash");
        // `-m`: jobs as in a shell at a terminal.
        command.args(["-m", "-c", script.as_str()]).current_dir(folder);
        command.env("GNOMON", binary());
        let process = Process::start("bash", &mut command, folder.join("log"));
        Self { process, stop }
    }

    /// The shell waits for a line.
    fn tell(&self) {
        let mut line = Command::new("timeout");
        let line = line.args(["5", "sh", "-c", "echo now >\"$0\""]).arg(&self.stop);
        assert!(line.status().expect("sh").success(), "the shell does not listen");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if self.process.has_ended() {
            return;
        }
        self.tell();
        for _ in 0..100 {
            if self.process.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_readme_start_four_processes_and_stop_them() {
    let repository = &package();
    let folder = tempfile::tempdir().expect("temp folder");
    let (block, ports) = block(repository);
    let configuration = repository.join("deploy/quickstart/prometheus.yml");
    let copied = folder.path().join("deploy/quickstart");
    std::fs::create_dir_all(&copied).expect("folder");
    std::fs::copy(configuration, copied.join("prometheus.yml")).expect("the quickstart's configuration");
    let mut shell = Shell::start(folder.path(), &block);
    for port in &ports {
        let http = Http::new(&format!("http://127.0.0.1:{port}"));
        eventually("a process to be ready", async || http.is_ready().await.then_some(())).await;
    }
    let querier = Http::new(&format!("http://127.0.0.1:{}", ports[0]));
    eventually("a sample of each target", async || {
        let up = querier.query("count(up)", super::now()).await;
        up["result"][0]["value"][1].as_str().filter(|n| *n == "2").map(|_| ())
    })
    .await;
    shell.tell();
    assert_eq!(shell.process.ended().await, Some(0));
    for port in &ports {
        // (A connection of another test may have been given its number since.)
        assert!(
            std::net::TcpStream::connect(("127.0.0.1", *port)).is_err(),
            "somebody still listens on port {port}"
        );
    }
}
