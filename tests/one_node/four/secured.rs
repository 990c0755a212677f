//! Both ports with certificates, made and set up by the commands of docs/securing.md.

use super::{Four, config, now};
use crate::harness::exporter::Exporter;
use crate::harness::{Process, binary, client, eventually, free_port, package};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The document's blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let path = package().join("docs/securing.md");
    let text = std::fs::read_to_string(path).expect("docs/securing.md");
    let fence = format!("```{language}\n");
    let after = text.split(fence.as_str()).skip(1);
    after
        .filter_map(|rest| rest.split("```").next())
        .map(str::to_owned)
        .collect()
}

fn block(language: &str, with: &str) -> String {
    let found = blocks(language).into_iter().find(|block| block.contains(with));
    found.unwrap_or_else(|| panic!("no {language} block of docs/securing.md has {with:?}"))
}

fn shell(folder: &Path, script: &str) -> Output {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = binary().parent().expect("a folder").to_owned();
    let folders = std::iter::once(own).chain(std::env::split_paths(&path));
    Command::new("bash")
        .args(["-euc", script])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(folders).expect("folders"))
        .output()
        .expect("bash")
}

/// The document's commands need these; where one is not there, a word says so.
fn have(programs: &[&str]) -> bool {
    let is_there = |program: &&&str| shell(Path::new("/"), &format!("command -v {program}")).status.success();
    let missing = programs.iter().find(|program| !is_there(program));
    if let Some(program) = missing {
        eprintln!("skipped: there is no {program}");
    }
    missing.is_none()
}

fn succeeds(folder: &Path, script: &str) -> String {
    let done = shell(folder, script);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script}\n{said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The flags of the document, with whole paths.
fn between_nodes(folder: &Path) -> Vec<String> {
    let command = block("sh", "--cluster.tls");
    let flags = command.split_whitespace().filter(|word| word.starts_with("--"));
    let whole = |flag: &str| {
        let (name, file) = flag.split_once('=').expect("a file");
        format!("{name}={}", folder.join(file).display())
    };
    flags.map(whole).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_certificates_are_a_cluster_and_strangers_get_nothing() {
    if !have(&["openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("temp folder");
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    for authority in [&ours, &theirs] {
        std::fs::create_dir(authority).expect("folder");
        succeeds(authority, &block("sh", "openssl"));
    }
    let exporter = Exporter::start().await;
    exporter.say("jobs_total 5\n");
    let yaml = config("1s", &[("app", &[exporter.address.as_str()])]);
    let tls = between_nodes(&ours);
    let flags: Vec<&str> = tls.iter().map(String::as_str).collect();
    let mut four = Four::new(&folder.path().join("four"), &yaml).with_flags(&flags);
    four.start().await;
    eventually("a sample that went through all of it", async || {
        let found = client::series(&four.http("querier").query("jobs_total", now()).await);
        (found.len() == 1).then_some(())
    })
    .await;
    assert!(!four.log("ingester").contains("speak plain text"));

    for (name, certificates, why) in [("stranger", Some(&theirs), "received fatal alert"), ("naked", None, "")] {
        let mut flags = Vec::new();
        if let Some(certificates) = certificates {
            flags = between_nodes(certificates);
            // It trusts our authority, or would not speak to us at all.
            flags.pop();
            flags.push(format!("--cluster.tls.ca-file={}", ours.join("ca.pem").display()));
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        four = four.with_flags(&flags);
        four.launch_as(name, "querier");
        eventually(&format!("{name} to be refused"), async || {
            let log = four.log(name);
            let is_told = log
                .lines()
                .any(|line| line.contains("waiting for the metadata group") && line.contains(why));
            is_told.then_some(())
        })
        .await;
        assert_eq!(
            four.try_get(name, "/-/ready").await.expect("an answer").0,
            503,
            "{name}"
        );
        four.node(name).process.kill();
        four.forget(name);
    }
    let log = four.log("ingester");
    assert!(
        log.contains("a TLS connection was refused"),
        "the ingester says whom it refused"
    );

    let check = format!(
        "gnomon bucket check --storage.object-store=file://{} --cluster.peers=127.0.0.1:{}",
        folder.path().join("four/blocks").display(),
        four.peer()
    );
    let refused = shell(folder.path(), &check);
    assert_eq!(
        refused.status.code(),
        Some(2),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
    succeeds(folder.path(), &format!("{check} {}", tls.join(" ")));
    four.stop().await;
}

/// A server with the document's web configuration; where it listens.
fn start(folder: &Path) -> (Process, u16) {
    let server = block("sh", "--web.config.file");
    let flag = server
        .lines()
        .find(|line| line.starts_with("gnomon --web"))
        .expect("the server's command");
    let port = free_port();
    let mut command = Command::new(binary());
    command
        .current_dir(folder)
        .args(flag.split_whitespace().skip(1))
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg(format!("--cluster.listen-address=127.0.0.1:{}", free_port()));
    (Process::start("gnomon", &mut command, folder.join("log")), port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_web_configuration_does_what_it_says() {
    if !have(&["openssl", "curl"]) {
        return;
    }
    let temporary = tempfile::tempdir().expect("temp folder");
    let folder: PathBuf = temporary.path().to_owned();
    succeeds(&folder, &block("sh", "openssl"));
    std::fs::write(folder.join("web.yml"), block("yaml", "tls_server_config")).expect("web.yml");
    std::fs::write(folder.join("prometheus.yml"), "").expect("configuration");
    let commands = block("sh", "curl");
    let line = |with: &str| {
        commands
            .lines()
            .find(|line| line.starts_with(with))
            .expect("a command")
            .to_owned()
    };
    let checked = succeeds(&folder, &line("gnomon check"));
    assert_eq!(checked, "web.yml: good, TLS, 1 user\n");
    let (mut server, port) = start(&folder);
    let ask = line("curl").replace(":9090", &format!(":{port}"));
    eventually("the document's request to be answered", async || {
        let answer = shell(&folder, &format!("{ask} --silent"));
        String::from_utf8_lossy(&answer.stdout).contains("Ready").then_some(())
    })
    .await;
    let log = server.log();
    assert!(log.contains("gnomon is ready: https://127.0.0.1"), "{log}");
    let wrong = succeeds(&folder, &format!("{} --silent", ask.replace("wonder", "wander")));
    assert_eq!(wrong, "Unauthorized\n");
    let plain = succeeds(&folder, &format!("{} --silent", ask.replace("https", "http")));
    assert_eq!(plain, "Client sent an HTTP request to an HTTPS server.\n");
    assert_eq!(server.interrupt().await, Some(0));
}
