//! Standard output that is full, or that nobody reads.

use crate::harness::client::Http;
use crate::harness::{binary, eventually, free_port};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Takes nothing: there is no room.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("/dev/full").into()
}

/// A node that is killed when it goes out of scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node whose standard output is full, and its standard error too; where it serves HTTP.
fn start(folder: &Path) -> (Running, String) {
    let config = folder.join("prometheus.yml");
    std::fs::write(&config, "").expect("configuration");
    let address = format!("127.0.0.1:{}", free_port());
    let child = Command::new(binary())
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--cluster.listen-address=127.0.0.1:{}", free_port()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(full())
        .stderr(full())
        .spawn();
    (Running(child.expect("gnomon runs")), format!("http://{address}"))
}

/// Exit code, and what was said of errors, where standard output is full.
fn run(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary())
        .args(args)
        .current_dir(folder)
        .stdout(full())
        .output()
        .expect("gnomon runs");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Exit code, and what was said of errors, where nobody reads.
fn run_unread(args: &[&str]) -> (Option<i32>, String) {
    let child = Command::new(binary())
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("gnomon runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an end");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test]
async fn a_node_goes_on_and_a_command_says_that_its_result_is_lost() {
    let folder = tempfile::tempdir().expect("temp folder");
    let (mut node, server) = start(folder.path());
    let http = Http::new(&server);
    eventually("the node to be ready", async || http.is_ready().await.then_some(())).await;
    let server = format!("--server={server}");
    let data = format!("--storage.tsdb.path={}", folder.path().join("data").display());
    for (args, code) in [
        (&["query", "--json", &server, "1"][..], 1),
        (&["query", &server, "1"][..], 1),
        (&["cluster", "status", &server][..], 1),
        (&["cluster", "status", "--json", &server][..], 1),
        (&["bucket", "check", "--json", &data][..], 2),
        (&["check", "config", "prometheus.yml"][..], 1),
    ] {
        let (got, errors) = run(folder.path(), args);
        assert_eq!(got, Some(code), "{args:?}: {errors}");
        assert!(
            errors.contains("standard output cannot be written"),
            "{args:?}: {errors}"
        );
        assert!(!errors.contains("panicked"), "{args:?}: {errors}");
    }
    assert_eq!(run(folder.path(), &["--version"]).0, Some(1));
    for args in [&["query", &server, "1"][..], &["cluster", "status", &server]] {
        assert_eq!(run_unread(args), (Some(0), String::new()), "{args:?}");
    }
    assert!(node.0.try_wait().expect("wait").is_none(), "the node has ended");
    assert!(http.is_ready().await);
}

#[tokio::test]
async fn an_export_whose_last_line_is_lost_has_its_files() {
    let folder = tempfile::tempdir().expect("temp folder");
    std::fs::write(folder.path().join("a.gnb"), crate::block::block(false, 1.0).await).expect("a file");
    for format in ["parquet", "prometheus"] {
        let args = [
            "block",
            "export",
            &format!("--format={format}"),
            &format!("--output={format}"),
            "a.gnb",
        ];
        let (code, errors) = run(folder.path(), &args);
        assert_eq!(code, Some(1), "{format}: {errors}");
        assert!(
            errors.contains("standard output cannot be written"),
            "{format}: {errors}"
        );
        let written = std::fs::read_dir(folder.path().join(format)).expect("the folder");
        assert_eq!(written.count(), 1, "{format}");
    }
}
