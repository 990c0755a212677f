//! Files and flags that users bring, good, bad and hostile, through the binary.

use crate::harness::{Node, Process, eventually, peers, shared};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `gnomon ARGS`; exit code and all that it says. One that does not end is a failure.
async fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut process = Process::start(
        "gnomon check",
        Command::new(env!("CARGO_BIN_EXE_gnomon")).args(args),
        folder.path().join("log"),
    );
    let code = process.ended().await;
    (code, process.log())
}

async fn check_config(path: &Path) -> (Option<i32>, String) {
    run(&[
        "check".as_ref(),
        "config".as_ref(),
        "--syntax-only".as_ref(),
        path.as_os_str(),
    ])
    .await
}

fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(folder).expect("folder");
    let mut found: Vec<PathBuf> = listing.map(|entry| entry.expect("entry").path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(end));
    found.sort();
    found
}

#[tokio::test]
async fn expositions_are_accepted_or_refused_as_the_openmetrics_suite_says() {
    let Some(folder) = shared("openmetrics") else { return };
    let mut wrong = Vec::new();
    let cases = files(&folder, "");
    for case in &cases {
        let text = std::fs::read_to_string(case.join("test.json")).expect("test.json");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let good = json["shouldParse"].as_bool().expect("shouldParse");
        let file = case.join("metrics");
        let args = ["check", "metrics", "--strict", file.to_str().expect("a path")];
        let (code, said) = run(&args).await;
        let placed = said.contains(&format!("{}:", file.display()));
        if code != Some(if good { 0 } else { 1 }) || placed == good {
            wrong.push(format!("{}: {code:?} {said}", case.display()));
        }
    }
    assert!(cases.len() > 130, "{} cases", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that Prometheus refuses and gnomon does not: the file it includes is not in the set, which is no mistake.
const NOT_REFUSED: &str = "scrape_config_files_global.bad.yml";

#[tokio::test]
async fn configurations_are_accepted_or_refused_as_prometheus_own_tests_say() {
    let Some(folder) = shared("configtest") else { return };
    let mut wrong = Vec::new();
    let (good, bad) = (files(&folder, ".good.yml"), files(&folder, ".bad.yml"));
    for path in &good {
        let (code, said) = check_config(path).await;
        if code != Some(0) {
            wrong.push(format!("{code:?} {said}"));
        }
    }
    for path in bad.iter().filter(|path| !path.ends_with(NOT_REFUSED)) {
        let (code, said) = check_config(path).await;
        // FILE:LINE:COLUMN: FIELD: WHY (of an included file, that one's name).
        let place = said.strip_prefix(&format!("{}/", folder.display()));
        let parts: Vec<_> = place.unwrap_or("").splitn(5, ':').collect();
        let number = |at: usize| parts.get(at).is_some_and(|part| part.parse::<u32>().is_ok());
        let named = parts.get(3).is_some_and(|field| !field.trim().is_empty());
        if code != Some(1) || !number(1) || !number(2) || !named {
            wrong.push(format!("{}: {code:?} {said}", path.display()));
        }
    }
    assert!(good.len() > 20 && bad.len() > 80, "{} and {}", good.len(), bad.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Several at once: all are reported, and one bad one is enough.
    let args = [&good[0], &bad[0], &good[1]].map(|p| p.to_str().expect("a path"));
    let (code, said) = run(&[&["check", "config", "--syntax-only"], &args[..]].concat()).await;
    let all = args.iter().all(|path| said.contains(path));
    assert!(code == Some(1) && all && said.contains(": good, "), "{said}");
}

/// Texts that are no good, and what is said of them after the file's name.
fn hostile() -> Vec<(Vec<u8>, &'static str)> {
    let job = |rest: &str| format!("scrape_configs:\n- job_name: x\n  {rest}\n");
    let mut cases: Vec<(Vec<u8>, &str)> = Vec::new();
    for (text, said) in [
        ("global: 5\n", ":1:9: global: a map belongs here"),
        ("- global\n", ":1:1: a map belongs here"),
        ("just a text\n", ":1:1: a map belongs here"),
        (
            "global: {scrape_interval: [1s]}\n",
            ":1:27: global.scrape_interval: a list, where a duration belongs",
        ),
        (
            "global: {scrape_interval: {s: 1}}\n",
            "global.scrape_interval: a map, where a duration belongs",
        ),
        (
            "scrape_configs: {job_name: x}\n",
            ":1:17: scrape_configs: a list belongs here",
        ),
        ("scrape_configs: [x]\n", ":1:18: scrape_configs[0]: a map belongs here"),
        ("scrape_configs: [~]\n", "scrape_configs[0]"),
        ("global:\n\tscrape_interval: 15s\n", ":2:"),
        ("global: *nope\n", ":1:"),
        ("a: &a [*a]\n", ":1:8: an alias stands within what it names"),
        ("a: {<<: 5}\n", ":1:9: map merge (<<)"),
        ("global: {}\nglobal: {}\n", ":2:1: key \"global\" already set in map"),
        ("global: {scrape_interval: 1s\n", ":"),
        ("global: \"\n", ":"),
        ("? [a]\n: b\n", "the name of a field is not a text"),
        (
            "global: {external_labels: {a: [b]}}\n",
            "global.external_labels.a: a list",
        ),
        (
            "global: {external_labels: {a: !!binary aGk=}}\n",
            "global.external_labels.a: a !!binary value",
        ),
        ("global: {scrape_interval: 1d2w}\n", "global.scrape_interval"),
        ("global: {scrape_interval: 1.5h}\n", "global.scrape_interval"),
        ("global: {scrape_interval: -1s}\n", "global.scrape_interval"),
        ("global: {scrape_interval: 9999999y}\n", "global.scrape_interval"),
        (
            "globa: {}\n",
            ":1:1: globa: unknown field \"globa\"; is \"global\" meant?",
        ),
        (
            "global: {scrape_intervall: 1s}\n",
            ":1:10: global.scrape_intervall: unknown field",
        ),
        (
            "storage: {tsdb: {retentio: 1}}\n",
            ":1:18: storage.tsdb.retentio: unknown field",
        ),
        ("alerting: {alertmanager: []}\n", "alerting.alertmanager: unknown field"),
        ("rule_files: ['a/*/b.yml']\n", "rule_files[0]: invalid rule file path"),
        ("scrape_config_files: [5, {}]\n", "scrape_config_files[1]: a map"),
        (
            "remote_write: [{url: 'http://a:1/', urll: x}]\n",
            "remote_write[0].urll",
        ),
        ("a\u{0}b: 1\n", ":1:"),
        ("global: !!python/object:os.system {x: 1}\n", "global.x: unknown field"),
    ] {
        cases.push((text.into(), said));
    }
    for (rest, said) in [
        ("scrape_interval: 10s\n  scrape_timeout: 11s", "scrape_timeout"),
        (
            "sample_limit: 99999999999999999999999",
            ":3:17: scrape_configs[0].sample_limit:",
        ),
        (
            "sample_limit: -1",
            ":3:17: scrape_configs[0].sample_limit: must not be negative",
        ),
        (
            "sample_limit: many",
            "scrape_configs[0].sample_limit: \"many\" is not a whole number",
        ),
        ("body_size_limit: 1PARSEC", ":3:20: scrape_configs[0].body_size_limit:"),
        (
            "honor_labels: maybe",
            "scrape_configs[0].honor_labels: \"maybe\" is neither true nor false",
        ),
        ("scheme: gopher", "scrape_configs[0].scheme:"),
        ("metrics_pat: /x", ":3:3: scrape_configs[0].metrics_pat: unknown field"),
        (
            "static_configs: [{target: [a]}]",
            "scrape_configs[0].static_configs[0].target: unknown field",
        ),
        (
            "static_configs: [{targets: a:1}]",
            "scrape_configs[0].static_configs[0].targets: a list belongs here",
        ),
        (
            "static_configs: [{targets: ['http://a:1/x']}]",
            "scrape_configs[0].static_configs[0].targets[0]",
        ),
        (
            "static_configs: [{targets: [a:1], labels: {a: [1]}}]",
            "static_configs[0].labels.a",
        ),
        ("file_sd_configs: [{files: []}]", "scrape_configs[0].file_sd_configs[0]"),
        (
            "file_sd_configs: [{files: [x.toml]}]",
            "scrape_configs[0].file_sd_configs[0].files[0]",
        ),
        (
            "relabel_configs: [{regex: '('}]",
            ":3:29: scrape_configs[0].relabel_configs[0].regex:",
        ),
        (
            "relabel_configs: [{regex: '(((a{1000}){1000}){1000})'}]",
            "scrape_configs[0].relabel_configs[0].regex:",
        ),
        (
            "relabel_configs: [{action: explode}]",
            "scrape_configs[0].relabel_configs[0].action:",
        ),
        (
            "relabel_configs: [{action: hashmod, target_label: a}]",
            "scrape_configs[0].relabel_configs[0]",
        ),
        (
            "relabel_configs: [{regexp: a}]",
            "scrape_configs[0].relabel_configs[0].regexp: unknown field",
        ),
        (
            "basic_auth: {user: a}",
            "scrape_configs[0].basic_auth.user: unknown field",
        ),
        (
            "basic_auth: {username: a, password: b, password_file: c}",
            "scrape_configs[0].basic_auth",
        ),
        (
            "tls_config: {min_version: TLS09}",
            "scrape_configs[0].tls_config.min_version",
        ),
        ("scrape_protocols: [Smoke]", "scrape_configs[0].scrape_protocols[0]"),
        ("proxy_url: '::'", "scrape_configs[0].proxy_url"),
        ("params: [a]", "scrape_configs[0].params: a map belongs here"),
        (
            "dns_sd_configs: [{names: [a], typ: A}]",
            "scrape_configs[0].dns_sd_configs[0].typ: unknown field",
        ),
    ] {
        cases.push((job(rest).into(), said));
    }
    cases.push((
        job("\n- job_name: x").into(),
        "scrape_configs[1].job_name: found multiple scrape configs",
    ));
    cases.push(("scrape_configs: [{}]".into(), "scrape_configs[0]: job_name is empty"));
    // What no editor makes.
    cases.push((vec![0xff; 4096], ": is not UTF-8 text"));
    cases.push((
        "\u{feff}global: {}\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect(),
        ": is not UTF-8 text",
    ));
    cases.push(((0..=255_u8).cycle().take(1 << 16).collect(), ": is not UTF-8 text"));
    let bomb: String = (1..40)
        .map(|i| format!("l{i}: &l{i} [{}]\n", vec![format!("*l{}", i - 1); 9].join(",")))
        .collect();
    cases.push((
        format!("l0: &l0 [lol, lol, lol]\n{bomb}").into(),
        "the document grows too large by its aliases",
    ));
    cases.push(("[".repeat(200_000).into(), ":"));
    cases.push((
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into(),
        "nested more than 256 levels deep",
    ));
    cases.push(("a: ".repeat(50_000).into(), ":1:"));
    cases.push(("- ".repeat(50_000).into(), ":"));
    cases.push((
        format!("global: {{scrape_interval: {}}}\n", "9".repeat(1 << 20)).into(),
        ":1:27: global.scrape_interval:",
    ));
    cases.push((format!("{}: 1\n", "k".repeat(1 << 20)).into(), ":1:"));
    cases.push((
        job(&format!("relabel_configs: [{{regex: '{}'}}]", "(a|".repeat(100_000))).into(),
        "regex:",
    ));
    cases
}

#[tokio::test]
async fn hostile_configurations_get_a_short_clear_error() {
    let folder = tempfile::tempdir().expect("temp folder");
    let path = folder.path().join("hostile.yml");
    let mut wrong = Vec::new();
    for (bytes, expected) in hostile() {
        std::fs::write(&path, &bytes).expect("write");
        let (code, said) = check_config(&path).await;
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        let after_name = said.strip_prefix(&path.display().to_string()).unwrap_or("");
        // A text of a mebibyte is not shown back to its writer.
        if code != Some(1) || !after_name.contains(expected) || said.len() > 2000 || said.contains("panicked") {
            let said: String = said.chars().take(500).collect();
            wrong.push(format!("{what:?}: {code:?}, {expected:?} is not in {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn odd_but_good_configurations_are_taken() {
    let folder = tempfile::tempdir().expect("temp folder");
    let path = folder.path().join("odd.yml");
    let many: String = (0..5000)
        .map(|i| format!("- {{job_name: j{i}, static_configs: [{{targets: ['a:{i}']}}]}}\n"))
        .collect();
    for text in [
        String::new(),
        "\n\n# nothing\n".to_owned(),
        "---\n...\n".to_owned(),
        "null\n".to_owned(),
        "{}".to_owned(),
        "\u{feff}global: {scrape_interval: 5s}\n".to_owned(),
        "global:\r\n  scrape_interval: 5s\r\nscrape_configs:\r\n- job_name: x\r\n".to_owned(),
        r#"{"scrape_configs": [{"job_name": "json", "static_configs": [{"targets": ["a:1"]}]}]}"#.to_owned(),
        "x: &d {scrape_interval: 7s}\n".replace("x:", "global:"),
        "scrape_configs:\n- &a {job_name: x, scrape_interval: 7s}\n- {<<: *a, job_name: y}\n".to_owned(),
        "global: {scrape_interval: 5s}\n--- \nglobal: [the second document is not read]\n".to_owned(),
        format!("scrape_configs: [{{job_name: {}}}]\n", "j".repeat(1 << 20)),
        format!("scrape_configs:\n{many}"),
        "scrape_config_files: ['none-*.yml']\n".to_owned(),
    ] {
        std::fs::write(&path, &text).expect("write");
        let (code, said) = check_config(&path).await;
        let shown: String = text.chars().take(100).collect();
        assert_eq!(code, Some(0), "{shown:?}: {said}");
    }
}

#[tokio::test]
async fn files_that_include_themselves_or_are_no_files_are_refused() {
    let folder = tempfile::tempdir().expect("temp folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("main.yml"), "scrape_config_files: ['main.yml']\n").expect("write");
    let (code, said) = check_config(&path("main.yml")).await;
    assert!(
        code == Some(1) && said.contains("main.yml:1:1: scrape_config_files: unknown field"),
        "{said}"
    );
    std::fs::write(path("twice.yml"), "scrape_config_files: ['job.yml', 'jo*.yml']\n").expect("write");
    std::fs::write(path("job.yml"), "scrape_configs: [{job_name: a}]\n").expect("write");
    let (code, said) = check_config(&path("twice.yml")).await;
    assert!(
        code == Some(1) && said.contains("job.yml:1:19: scrape_configs[0].job_name: found multiple"),
        "{said}"
    );
    for (file, expected) in [
        (path("absent.yml"), "cannot be read: No such file"),
        (folder.path().to_owned(), "cannot be read: Is a directory"),
        (PathBuf::from("/dev/zero"), "is larger than"),
    ] {
        let (code, said) = check_config(&file).await;
        let named = said.starts_with(&format!("{}: ", file.display()));
        assert!(code == Some(1) && named && said.contains(expected), "{said}");
    }
    let (code, said) = run(&["check", "config"]).await;
    assert!(code == Some(2) && said.contains("FILE"), "{said}");
}

/// `prometheus.yml` of Debian's package, as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_that_debian_ships_starts_unchanged() {
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let root = program.ancestors().nth(3).expect("a folder above usr/bin");
    let file = root.join("etc/prometheus/prometheus.yml");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let folder = tempfile::tempdir().expect("temp folder");
    let node = Node::start(folder.path(), &text, &[]).await;
    eventually("the jobs of the file", async || {
        let targets = node.http.api("/api/v1/targets").await;
        let jobs: Vec<_> = targets["activeTargets"]
            .as_array()?
            .iter()
            .map(|t| t["scrapePool"].clone())
            .collect();
        (jobs == ["node", "prometheus"]).then_some(())
    })
    .await;
    // What it asks for and does not get is said once, and counted.
    let said = node.process.log();
    assert_eq!(said.matches("alerting has no effect").count(), 1, "{said}");
    let (_, metrics) = node.http.get("/metrics").await;
    assert!(
        metrics.contains("gnomon_config_unsupported_section{section=\"alerting\"} 1"),
        "{metrics}"
    );
    let (code, said) = run(&["check", "config", "--strict", file.to_str().expect("a path")]).await;
    assert!(
        code == Some(1) && said.contains("alerting is not supported yet"),
        "{said}"
    );
}

/// The arguments that the Prometheus operator gives its server; only folders and ports are the test's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_arguments_start_unchanged() {
    let folder = tempfile::tempdir().expect("temp folder");
    let web_config = folder.path().join("web-config.yaml");
    std::fs::write(&web_config, "{}\n").expect("write");
    let web_config = format!("--web.config.file={}", web_config.display());
    let arguments = [
        "--web.console.templates=/etc/prometheus/consoles",
        "--web.console.libraries=/etc/prometheus/console_libraries",
        "--storage.tsdb.retention.time=24h",
        "--storage.tsdb.retention.size=10GB",
        "--web.enable-lifecycle",
        "--web.enable-admin-api",
        "--web.external-url=http://prometheus-k8s.monitoring:9090/some/path",
        "--web.route-prefix=/",
        "--storage.tsdb.wal-compression",
        "--no-storage.tsdb.allow-overlapping-compaction",
        "--storage.tsdb.min-block-duration=2h",
        "--storage.tsdb.max-block-duration=2h",
        "--enable-feature=exemplar-storage,memory-snapshot-on-shutdown",
        "--query.lookback-delta=5m",
        "--query.max-concurrency=20",
        "--query.max-samples=50000000",
        "--query.timeout=2m",
        "--storage.remote.flush-deadline=1m",
        "--rules.alert.for-outage-tolerance=1h",
        "--web.page-title=monitoring/k8s",
        "--log.level=info",
        "--log.format=logfmt",
        &web_config,
    ];
    let yaml = "global:\n  evaluation_interval: 30s\n  scrape_interval: 30s\n  external_labels:\n    \
                prometheus: monitoring/k8s\n    prometheus_replica: prometheus-k8s-0\nrule_files:\n\
                - /etc/prometheus/rules/*.yaml\nscrape_configs: []\nalerting:\n  alert_relabel_configs:\n  \
                - action: labeldrop\n    regex: prometheus_replica\n  alertmanagers:\n  - path_prefix: /\n    \
                scheme: http\n    kubernetes_sd_configs:\n    - role: endpoints\n      namespaces:\n        names: [monitoring]\n";
    let mut node = Node::start(folder.path(), yaml, &arguments).await;
    let flags = node.http.api("/api/v1/status/flags").await;
    for (name, value) in [
        ("web.route-prefix", "/"),
        ("storage.tsdb.retention.time", "24h"),
        ("storage.tsdb.allow-overlapping-compaction", "false"),
        ("web.enable-lifecycle", "true"),
    ] {
        assert_eq!(flags[name], value, "{name}");
    }
    assert_eq!(node.http.post("/-/reload", "text/plain", vec![]).await.0, 200);
    assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
    // A file that asks for passwords is not taken for one that does not.
    std::fs::write(folder.path().join("web-config.yaml"), "{basic_auth_users: {a: b}}\n").expect("write");
    let config = format!("--config.file={}", node.config_file().display());
    let data = format!("--storage.tsdb.path={}", folder.path().join("data").display());
    let (code, said) = run(&[&config, &data, &web_config]).await;
    assert!(
        code == Some(1) && said.contains("web-config.yaml:1:24: basic_auth_users"),
        "{said}"
    );
}
