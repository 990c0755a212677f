//! `make cluster`: the script, with a real S3 server, under the ports and the folder of this test.

#[path = "../../lib/tsdb/tests/weed/mod.rs"]
mod weed;

use crate::harness::guard::Guard;
use crate::harness::{Block, Http, binary, client, eventually, package, send_signal};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Ports that the script takes, one after the other; of the S3 server's last three it takes those 10,000 above too.
const PORTS: u16 = 20;
const PROCESSES: u16 = 8;

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A block of which so many ports after the first, and those 10,000 above, were free a moment ago; the latter are nobody's
/// block.
fn free_block() -> Block {
    Block::claim(|first| {
        let mut ports = first + 1..=first + PORTS;
        (15_000..20_000).contains(&first) && ports.all(|port| is_free(port) && is_free(port + 10_000))
    })
}

struct Local {
    data: PathBuf,
    ports: Block,
    weed: PathBuf,
}

impl Local {
    /// What the script says; fails where it does.
    async fn script(&self, what: &str) -> String {
        let mut command = Command::new("bash");
        command
            .arg(package().join("deploy/local/cluster.sh"))
            .arg(what)
            .env("GNOMON", binary())
            .env("WEED", &self.weed)
            .env("DATA", &self.data)
            .env("PORT", (self.ports.first + 1).to_string());
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("no panic").expect("bash");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{what}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    fn http(&self, at: u16) -> Http {
        Http::new(&format!("http://127.0.0.1:{}", self.ports.first + 1 + at))
    }

    /// Ids of the processes that the script has noted.
    fn noted(&self) -> Vec<u32> {
        let folders = std::fs::read_dir(&self.data).into_iter().flatten().flatten();
        let pid = |folder: std::fs::DirEntry| std::fs::read_to_string(folder.path().join("pid")).ok();
        folders
            .filter_map(pid)
            .filter_map(|id| id.trim().parse().ok())
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_starts_a_cluster_tells_where_it_is_and_ends_it() {
    let Some(weed) = weed::find() else { return };
    let folder = tempfile::tempdir().expect("temp folder");
    let data = folder.path().join("data");
    let _guard = Guard::of(&data);
    let local = Local {
        data,
        ports: free_block(),
        weed,
    };

    let said = local.script("up").await;
    for at in 0..PROCESSES {
        let url = format!("http://127.0.0.1:{}", local.ports.first + 1 + at);
        assert!(said.contains(&url), "{url} in {said}");
        assert!(local.http(at).is_ready().await, "{url} is not ready");
    }
    let ids = local.noted();
    assert_eq!(ids.len(), usize::from(PROCESSES) + 1, "and the S3 server");

    // It scrapes its own eight processes, and both queriers answer from all shards.
    for at in 0..2 {
        eventually("all of them in an answer", async || {
            let query = client::encode("sum(up{job=\"gnomon\"})");
            let (_, text) = local.http(at).get(&format!("/api/v1/query?query={query}")).await;
            text.contains("\"8\"]").then_some(())
        })
        .await;
    }
    // Again, which changes nothing.
    local.script("up").await;
    assert_eq!(local.noted(), ids);

    local.script("down").await;
    assert_eq!(local.noted(), Vec::<u32>::new());
    let programs = [binary(), local.weed.clone()].map(|program| program.canonicalize().expect("a program"));
    let is_left = |id: &u32| std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| programs.contains(&exe));
    assert_eq!(ids.into_iter().filter(is_left).collect::<Vec<_>>(), Vec::<u32>::new());
}

/// Whoever holds the pipe stands for the test's process; it is killed.
#[tokio::test]
async fn what_a_script_started_ends_with_the_test() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut holder = Command::new("sleep")
        .arg("600")
        .stdout(Stdio::piped())
        .spawn()
        .expect("sleep");
    let pipe = holder.stdout.take().expect("a pipe");
    let mut guard = Guard::while_open(folder.path(), pipe.into());
    let script = "setsid sleep 600 >/dev/null 2>&1 & echo $!";
    let started = |data: &Path| {
        let mut command = Command::new("sh");
        let output = command.args(["-c", script]).env("DATA", data).output().expect("sh");
        let id = String::from_utf8(output.stdout).expect("a number");
        id.trim().parse::<u32>().expect("a number")
    };
    let (own, other) = (started(folder.path()), started(&folder.path().join("other")));
    assert!(send_signal(own, "-0") && send_signal(other, "-0"));

    holder.kill().expect("it runs");
    holder.wait().expect("it has ended");
    guard.ended();
    // It may still be on its way out; and until init, or who stands for it, has looked, an id stays.
    eventually("it to have ended", async || {
        let state = std::fs::read_to_string(format!("/proc/{own}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
    assert!(send_signal(other, "-9"), "only what has this folder");
}
