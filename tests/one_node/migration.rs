//! `gnomon block import` and `export`, with blocks that a real Prometheus writes and reads.

use crate::harness::client::encode;
use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, Process, binary, eventually, peers, remote};
use gnomon_proto::prometheus::histogram::{Count, ZeroCount};
use gnomon_proto::prometheus::{BucketSpan, Histogram, TimeSeries};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const MINUTE: i64 = 60_000;
const H: i64 = 60 * MINUTE;

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

/// Exit code, what was printed, and what was said of errors.
fn gnomon(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).args(args).output().expect("gnomon runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn promtool(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("promtool runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success(),
        "promtool {args:?}: {text} {:?}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Blocks of two hours of `series` series with a sample each half minute from `start_ms` on, by promtool.
fn blocks_of_promtool(folder: &Path, start_ms: i64, hours: i64, series: usize) -> Option<PathBuf> {
    let tool = peers::find("prometheus", "promtool")?;
    let mut exposition = String::from("# TYPE m gauge\n");
    for n in 0..series {
        for at in (start_ms..start_ms + hours * H).step_by(30_000) {
            let (value, seconds) = ((at / 7000 % 1000) as f64 / 8.0 + n as f64, at / 1000);
            exposition.push_str(&format!(
                "m{{job=\"j{}\",instance=\"i{n}\"}} {value} {seconds}\n",
                n % 3
            ));
        }
    }
    exposition.push_str("# EOF\n");
    let file = folder.join("exposition");
    std::fs::write(&file, exposition).expect("a file");
    let blocks = folder.join("blocks");
    promtool(
        &tool,
        &["tsdb", "create-blocks-from", "openmetrics", text(&file), text(&blocks)],
    );
    // `promtool tsdb dump` wants to see the folder of a log.
    std::fs::create_dir(blocks.join("wal")).expect("a folder");
    Some(blocks)
}

fn dump(folder: &Path) -> Vec<String> {
    let Some(tool) = peers::find("prometheus", "promtool") else {
        return Vec::new();
    };
    let mut lines: Vec<_> = promtool(&tool, &["tsdb", "dump", text(folder)])
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

fn block_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut blocks: Vec<_> = paths.filter(|path| path.join("meta.json").is_file()).collect();
    blocks.sort();
    blocks
}

/// A gnomon that was started once in the folder and is stopped: the flag that names its data folder.
async fn founded(folder: &Path) -> String {
    let mut node = Node::start(folder, "", &[]).await;
    assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
    format!("--storage.tsdb.path={}", folder.join("data").display())
}

/// A window that ended some hours ago.
fn past() -> i64 {
    now_ms() / (2 * H) * 2 * H - 12 * H
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtools_blocks_come_in_once_and_go_out_the_same() {
    let folder = tempfile::tempdir().expect("temp folder");
    let Some(blocks) = blocks_of_promtool(folder.path(), past(), 6, 12) else {
        return;
    };
    let samples = 6 * 120 * 12;
    let path = format!("--storage.tsdb.path={}", folder.path().join("data").display());
    // No cluster is founded by an import.
    let (code, _, err) = gnomon(&["block", "import", text(&blocks), &path]);
    assert_eq!(code, Some(1), "{err}");
    for expected in ["no gnomon's data folder", "started once", "--cluster.peers"] {
        assert!(err.contains(expected), "{expected}: {err}");
    }
    assert!(!folder.path().join("data").exists());
    let path = founded(folder.path()).await;
    // What is older than retention says so.
    let (code, out, err) = gnomon(&[
        "block",
        "import",
        text(&blocks),
        &path,
        "--storage.tsdb.retention.time=1h",
    ]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("imported 0 samples") && out.contains("3 blocks are older"),
        "{out}"
    );
    assert!(err.contains("--storage.tsdb.retention.time"), "{err}");
    // What does not fit either.
    let (code, _, err) = gnomon(&[
        "block",
        "import",
        text(&blocks),
        &path,
        "--storage.tsdb.retention.size=64KB",
    ]);
    assert!(
        code == Some(1) && err.contains("--storage.tsdb.retention.size"),
        "{code:?} {err}"
    );

    // One block first, then all: that one is not taken twice.
    let first = &block_folders(&blocks)[0];
    let (code, out, err) = gnomon(&["block", "import", text(first), &path]);
    assert!(
        code == Some(0) && out.contains(&format!("imported {} samples", samples / 3)),
        "{out} {err}"
    );
    let (code, out, err) = gnomon(&["block", "import", text(&blocks), &path]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains(&format!("imported {} samples", samples / 3 * 2)) && out.contains("imported before"),
        "{out}"
    );

    let node = Node::start(folder.path(), "", &["--web.enable-admin-api"]).await;
    let count = format!("sum(count_over_time(m[{}s]))", 13 * 3600);
    let found = node.http.query(&count, (past() + 12 * H) as f64 / 1000.0).await;
    assert_eq!(
        found["result"][0]["value"][1],
        Value::from(samples.to_string()),
        "{found}"
    );
    // While it runs, its folder is its own, and its listener takes blocks.
    let (code, _, err) = gnomon(&["block", "import", text(&blocks), &path]);
    assert!(code == Some(1) && err.contains("--cluster.peers"), "{err}");
    let listener = node
        .args()
        .iter()
        .find_map(|arg| arg.strip_prefix("--cluster.listen-address="));
    let peers = format!("--cluster.peers={}", listener.expect("a listener"));
    let again = tempfile::tempdir().expect("temp folder");
    let more = blocks_of_promtool(again.path(), past() + 6 * H, 2, 12).expect("blocks");
    let (code, out, err) = gnomon(&["block", "import", text(&more), &path, &peers]);
    assert!(code == Some(0) && out.contains("imported 2880 samples"), "{out} {err}");
    let found = node.http.query(&count, (past() + 12 * H) as f64 / 1000.0).await;
    assert_eq!(
        found["result"][0]["value"][1],
        Value::from((samples + 2880).to_string()),
        "{found}"
    );

    let out = folder.path().join("out");
    let end = format!("--end={}", (past() + 6 * H - 1) as f64 / 1000.0);
    let export = [
        "block",
        "export",
        "--format=prometheus",
        "-o",
        text(&out),
        &path,
        &peers,
        &end,
    ];
    let (code, said, err) = gnomon(&export);
    assert!(
        code == Some(0) && said.contains(&format!("exported {samples} samples into 3 blocks")),
        "{said} {err}"
    );
    std::fs::create_dir(out.join("wal")).expect("a folder");
    assert_eq!(dump(&out), dump(&blocks));
    let tool = peers::find("prometheus", "promtool").expect("it was there");
    let list = promtool(&tool, &["tsdb", "list", text(&out)]);
    assert_eq!(
        list.lines()
            .filter(|line| line.contains("2h0m0s") && line.contains("2880"))
            .count(),
        3,
        "{list}"
    );
    let analysis = promtool(&tool, &["tsdb", "analyze", text(&out)]);
    assert!(
        analysis.contains("Series: 12") && analysis.contains("Label names: 3"),
        "{analysis}"
    );

    // Some series, and another width.
    let some = folder.path().join("some");
    let export = [
        "block",
        "export",
        "--format=prometheus",
        "-o",
        text(&some),
        &path,
        &peers,
        &end,
    ];
    let (code, said, err) = gnomon(&[&export[..], &["--match={instance=\"i5\"}", "--block-duration=6h"]].concat());
    assert!(
        code == Some(0) && said.contains("exported 720 samples into "),
        "{said} {err}"
    );

    // What is deleted does not go out, whether or not it is carried out yet.
    let delete = format!(
        "/api/v1/admin/tsdb/delete_series?match[]={}",
        encode("m{instance=\"i5\"}")
    );
    let (code, said) = node
        .http
        .post(&delete, "application/x-www-form-urlencoded", Vec::new())
        .await;
    assert_eq!(code, 204, "{said}");
    let left = folder.path().join("left");
    let export = [
        "block",
        "export",
        "--format=prometheus",
        "-o",
        text(&left),
        &path,
        &peers,
        &end,
    ];
    let (code, said, err) = gnomon(&export);
    assert!(
        code == Some(0) && said.contains(&format!("exported {} samples into 3 blocks", samples - 720)),
        "{said} {err}"
    );
    std::fs::create_dir(left.join("wal")).expect("a folder");
    let mut expected = dump(&blocks);
    expected.retain(|line| !line.contains("instance=\"i5\""));
    assert_eq!(dump(&left), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_interrupted_or_meets_damage_goes_on_later() {
    let folder = tempfile::tempdir().expect("temp folder");
    let Some(blocks) = blocks_of_promtool(folder.path(), past(), 6, 60) else {
        return;
    };
    let path = founded(folder.path()).await;
    // Whatever it has come to: it ends by itself, and nothing is lost or twice.
    let mut command = Command::new(binary());
    command.args(["block", "import", text(&blocks), &path]);
    let identity = folder.path().join("data/node.json");
    let before = std::fs::read(&identity).expect("node.json");
    let mut process = Process::start("gnomon block import", &mut command, folder.path().join("import.log"));
    // It says there that another of the node's lives has begun.
    eventually("the import to begin", async || {
        let now = std::fs::read(&identity).expect("node.json");
        (now != before).then_some(())
    })
    .await;
    let code = process.interrupt().await;
    assert!(matches!(code, Some(0 | 130)), "{code:?} {}", process.log());

    let damaged = block_folders(&blocks)[1].join("chunks/000001");
    let good = std::fs::read(&damaged).expect("chunks");
    let mut bad = good.clone();
    bad[100] ^= 4;
    std::fs::write(&damaged, bad).expect("chunks");
    let (code, _, err) = gnomon(&["block", "import", text(&blocks), &path]);
    // Where the import was finished before, nothing of the block is read again.
    if code != Some(0) {
        assert_eq!(code, Some(1));
        for expected in ["chunks/000001 is damaged at byte 10", "checksum", "--skip-damaged"] {
            assert!(err.contains(expected), "{expected}: {err}");
        }
    }
    std::fs::write(&damaged, good).expect("chunks");
    let (code, out, err) = gnomon(&["block", "import", text(&blocks), &path]);
    assert_eq!(code, Some(0), "{out} {err}");
    let out = folder.path().join("out");
    let (code, said, err) = gnomon(&["block", "export", "--format=prometheus", "-o", text(&out), &path]);
    assert!(code == Some(0), "{said} {err}");
    std::fs::create_dir(out.join("wal")).expect("a folder");
    assert_eq!(dump(&out), dump(&blocks));

    // Into another gnomon without the damaged chunk, of 120 samples.
    let mut bad = std::fs::read(&damaged).expect("chunks");
    bad[100] ^= 4;
    std::fs::write(&damaged, bad).expect("chunks");
    let second = tempfile::tempdir().expect("temp folder");
    let other = founded(second.path()).await;
    let (code, out, err) = gnomon(&["block", "import", text(&blocks), &other, "--skip-damaged"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains(&format!("imported {} samples", 6 * 120 * 60 - 120)),
        "{out}"
    );
    assert!(
        out.contains("1 damaged chunks were left out") && err.contains("chunks/000001"),
        "{out} {err}"
    );
}

/// Counts of an integer or a float histogram with three buckets, and a wider one in the second half.
fn histogram(i: i64, timestamp: i64, is_integer: bool) -> Histogram {
    let i = if i > 300 { i - 290 } else { i };
    let counts = if i % 100 > 50 {
        vec![i, 2 * i, 3, i / 2]
    } else {
        vec![i, 2 * i, 3]
    };
    let total: i64 = counts.iter().sum::<i64>() + 1;
    let mut out = Histogram {
        sum: total as f64 * 0.75,
        schema: 2,
        zero_threshold: 1e-6,
        positive_spans: vec![
            BucketSpan { offset: -2, length: 2 },
            BucketSpan {
                offset: 3,
                length: counts.len() as u32 - 2,
            },
        ],
        timestamp,
        ..Histogram::default()
    };
    if is_integer {
        (out.count, out.zero_count) = (Some(Count::CountInt(total as u64)), Some(ZeroCount::ZeroCountInt(1)));
        let before = std::iter::once(0).chain(counts.iter().copied());
        out.positive_deltas = counts
            .iter()
            .zip(before)
            .map(|(count, before)| count - before)
            .collect();
    } else {
        out.count = Some(Count::CountFloat(total as f64 / 4.0));
        out.zero_count = Some(ZeroCount::ZeroCountFloat(0.25));
        out.positive_counts = counts.iter().map(|count| *count as f64 / 4.0).collect();
    }
    out
}

/// Floats, histograms of both kinds, and stale markers, a sample each half minute.
fn mixed(from: i64, to: i64, start_ms: i64) -> Vec<TimeSeries> {
    let at = |i: i64| start_ms + i * 30_000;
    let mut all = Vec::new();
    for n in 0..4 {
        let instance = format!("i{n}");
        let floats: Vec<_> = (from..to).map(|i| (at(i), (i * n) as f64 / 3.0)).collect();
        all.push(remote::time_series(
            &[("__name__", "f"), ("instance", &instance), ("job", "j")],
            &floats,
        ));
        let mut series = remote::time_series(&[("__name__", "h"), ("instance", &instance), ("job", "j")], &[]);
        series.histograms = (from..to).map(|i| histogram(i, at(i), n % 2 == 0)).collect();
        all.push(series);
    }
    all
}

/// Series by their labels, with their samples in full; bounds of buckets rounded, since the last bits of powers of two
/// are other ones in old releases.
fn answer(data: &Value) -> BTreeMap<String, String> {
    let round = |bound: &Value| {
        let bound: f64 = bound.as_str().and_then(|text| text.parse().ok()).expect("a bound");
        Value::from(format!("{bound:.9e}"))
    };
    let mut found = BTreeMap::new();
    for row in data["result"].as_array().into_iter().flatten() {
        let mut row = row.clone();
        let metric = row["metric"].take().to_string();
        let many = row
            .get_mut("histograms")
            .and_then(Value::as_array_mut)
            .map(Vec::as_mut_slice);
        for sample in many.into_iter().flatten() {
            for bucket in sample[1]["buckets"].as_array_mut().into_iter().flatten() {
                (bucket[1], bucket[2]) = (round(&bucket[1]), round(&bucket[2]));
            }
        }
        found.insert(metric, row.to_string());
    }
    found
}

/// What a server has in the six hours from `start_ms` on. No ranges of histograms: 2.42 mixes up series in them.
async fn answers(http: &Http, start_ms: i64) -> Vec<(&'static str, BTreeMap<String, String>)> {
    // Between samples: whether one at the very beginning of a range counts is another question since Prometheus 3.0.
    let start_s = (start_ms / 1000 + 7) as f64;
    let end_s = start_s + 6.0 * 3600.0;
    let mut found = Vec::new();
    for query in [
        "f",
        "h",
        "count_over_time(f[10m])",
        "count_over_time(h[10m])",
        "histogram_count(h)",
        "histogram_sum(h)",
        "rate(f[5m])",
    ] {
        let data = http.query_range(query, start_s, end_s, 30.0).await;
        found.push((query, answer(&data)));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_and_gnomon_answer_alike_from_each_others_blocks() {
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let flags = [
        "--web.enable-remote-write-receiver",
        "--web.enable-admin-api",
        "--enable-feature=native-histograms",
        "--storage.tsdb.retention.time=100y",
    ];
    let start_ms = past();
    let writer = Prometheus::launch(&program, folder.path(), "writer", "", &flags);
    writer.until_ready().await;
    for from in (0..600).step_by(60) {
        let body = remote::body(mixed(from, from + 60, start_ms));
        let (code, text) = remote::send(&writer.http, body).await.expect("send");
        assert!(code < 300, "{code} {text}");
    }
    let (code, said) = writer
        .http
        .post("/api/v1/admin/tsdb/snapshot", "text/plain", Vec::new())
        .await;
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(code, 200, "{said}");
    let snapshot = folder
        .path()
        .join("writer/snapshots")
        .join(said["data"]["name"].as_str().expect("a name"));
    drop(writer);
    // Deleted in the blocks themselves: tombstones.
    std::fs::rename(&snapshot, folder.path().join("source")).expect("the snapshot");
    let reference = Prometheus::launch(&program, folder.path(), "source", "", &flags);
    reference.until_ready().await;
    let delete = format!(
        "/api/v1/admin/tsdb/delete_series?match[]={}&match[]={}&start={}&end={}",
        encode("f{instance=\"i1\"}"),
        encode("f{instance=\"i2\"}"),
        (start_ms + 20 * MINUTE) / 1000,
        (start_ms + 70 * MINUTE) / 1000
    );
    let (code, said) = reference.http.post(&delete, "text/plain", Vec::new()).await;
    assert_eq!(code, 204, "{said}");
    let source = folder.path().join("source");
    let has_tombstones = |block: &PathBuf| std::fs::metadata(block.join("tombstones")).is_ok_and(|meta| meta.len() > 9);
    assert!(block_folders(&source).iter().any(has_tombstones));

    let path = founded(folder.path()).await;
    let (code, said, err) = gnomon(&["block", "import", text(&source), &path]);
    assert_eq!(code, Some(0), "{said} {err}");
    let node = Node::start(folder.path(), "", &[]).await;
    let theirs = answers(&reference.http, start_ms).await;
    for ((query, theirs), (_, ours)) in theirs.iter().zip(answers(&node.http, start_ms).await) {
        assert!(theirs.len() >= 4, "{query}: {theirs:?}");
        assert_eq!(&ours, theirs, "{query}");
    }

    let out = folder.path().join("out");
    let listener = node
        .args()
        .iter()
        .find_map(|arg| arg.strip_prefix("--cluster.listen-address="));
    let peers = format!("--cluster.peers={}", listener.expect("a listener"));
    let (code, said, err) = gnomon(&[
        "block",
        "export",
        "--format=prometheus",
        "-o",
        text(&out),
        &path,
        &peers,
    ]);
    assert_eq!(code, Some(0), "{said} {err}");
    let reader = Prometheus::launch(&program, folder.path(), "out", "", &flags);
    reader.until_ready().await;
    for ((query, theirs), (_, again)) in theirs.iter().zip(answers(&reader.http, start_ms).await) {
        assert_eq!(&again, theirs, "{query}");
    }
    let log = reader.process.log();
    assert!(!log.contains("level=error") && !log.contains("level=warn"), "{log}");
}

/// Runs Python with pyarrow where there is one: `PYARROW_PYTHON` names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_parquet_files_are_what_was_imported() {
    let folder = tempfile::tempdir().expect("temp folder");
    let Some(blocks) = blocks_of_promtool(folder.path(), past(), 4, 7) else {
        return;
    };
    let path = founded(folder.path()).await;
    let (code, said, err) = gnomon(&["block", "import", text(&blocks), &path]);
    assert_eq!(code, Some(0), "{said} {err}");
    let out = folder.path().join("out");
    let export = [
        "block",
        "export",
        "--format=parquet",
        "--block-duration=1h",
        "-o",
        text(&out),
        &path,
    ];
    let (code, said, err) = gnomon(&export);
    assert!(
        code == Some(0) && said == "exported 3360 samples into 4 files\n",
        "{said} {err}"
    );
    let files = std::fs::read_dir(&out)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = files.collect();
    assert!(
        files.len() == 4
            && files
                .iter()
                .all(|file| file.extension().is_some_and(|e| e == "parquet"))
    );
    let Some(python) = std::env::var_os("PYARROW_PYTHON") else {
        eprintln!("skipped: PYARROW_PYTHON names no Python with pyarrow");
        return;
    };
    let script = "import json, sys, pyarrow.parquet as pq\n\
                  t = pq.read_table(sys.argv[1])\n\
                  assert [str(f.type) for f in t.schema] == ['string', 'string', 'timestamp[ms, tz=UTC]', 'double', 'string'], t.schema\n\
                  rows = t.to_pylist()\n\
                  for r in rows:\n\
                  \x20   l = json.loads(r['labels']); ms = int(r['timestamp'].timestamp() * 1000)\n\
                  \x20   assert r['histogram'] is None\n\
                  \x20   print('{__name__=\"%s\", instance=\"%s\", job=\"%s\"} %s %d' % (r['name'], l['instance'], l['job'], repr(r['value']).removesuffix('.0'), ms))\n";
    let output = Command::new(python)
        .args(["-c", script, text(&out)])
        .output()
        .expect("python runs");
    let rows = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rows: Vec<_> = rows.lines().map(str::to_owned).collect();
    rows.sort();
    assert_eq!(rows, dump(&blocks));
}
