//! `gnomon block`: what it says of blocks, good, damaged and different ones.

use crate::harness::binary;
use gnomon_model::{BlockId, ClusterId, Labels, ShardId, TenantId, TimeRange, TimestampMs};
use gnomon_tsdb::{BlockMeta, BlockWriter, FloatPageBuilder, MemorySink};
use std::path::Path;
use std::process::Command;

/// Twenty series; `last` is the last value of the last one.
pub(crate) async fn block(closed: bool, last: f64) -> Vec<u8> {
    let window = TimeRange::new(TimestampMs(0), TimestampMs(7_200_000));
    let meta = BlockMeta::new(BlockId(9), ClusterId(1), TenantId::anonymous(), ShardId(3), window);
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    for series in 0..20_i64 {
        let labels = Labels::from_pairs([("__name__", "m".to_owned()), ("n", format!("{series:02}"))]);
        let mut page = FloatPageBuilder::new();
        for i in 0..10 {
            let value = if (series, i) == (19, 9) {
                last
            } else {
                (series * i) as f64
            };
            page.append(i * 15_000, value).expect("a sample");
        }
        let page = page.page().expect("a page");
        let page = if closed { page.closed().expect("a page") } else { page };
        writer.add_series(labels.as_ref(), [page]).await.expect("a series");
    }
    writer.finish().await.expect("a block").output.to_vec()
}

/// Exit code, what was printed, and what was said of errors.
fn run(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary())
        .arg("block")
        .args(args)
        .current_dir(folder)
        .output();
    let output = output.expect("gnomon runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn blocks_are_shown_verified_and_compared() {
    let folder = tempfile::tempdir().expect("temp folder");
    let good = block(false, 1.0).await;
    let mut bad = good.clone();
    bad[30] ^= 4;
    let files = [
        ("a.gnb", good),
        ("same.gnb", block(true, 1.0).await),
        ("other.gnb", block(true, 2.0).await),
        ("bad.gnb", bad),
    ];
    for (name, bytes) in &files {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
    }
    let run = |args: &[&str]| run(folder.path(), args);

    let (code, out, _) = run(&["inspect", "a.gnb"]);
    assert_eq!(code, Some(0));
    for expected in [
        "shard 3",
        "200 of 20 series, in 20 pages",
        "1970-01-01T00:00:00Z to 1970-01-01T02:00:00Z",
        "Pages",
    ] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    let url = format!("--storage.object-store=file://{}", folder.path().display());
    let (code, out, _) = run(&["verify", "a.gnb", "same.gnb", &url]);
    let line = |name, length| format!("{name}: sound, 20 series, 200 samples, {length} bytes\n");
    assert_eq!(
        (code, out),
        (
            Some(0),
            line("a.gnb", files[0].1.len()) + &line("same.gnb", files[1].1.len())
        )
    );

    let (code, out, err) = run(&["verify", "bad.gnb", "a.gnb"]);
    assert_eq!((code, out), (Some(1), line("a.gnb", files[0].1.len())));
    assert!(err.contains("bad.gnb") && err.contains("at byte 16"), "{err}");

    let (code, out, _) = run(&["diff", "a.gnb", "same.gnb"]);
    assert_eq!((code, &*out), (Some(0), "the same 20 series with the same samples\n"));
    let (code, out, _) = run(&["diff", "a.gnb", "other.gnb"]);
    let sample = r#"{__name__="m", n="19"}: 1970-01-01T00:02:15Z: 1 (3ff0000000000000) and 2 (4000000000000000)"#;
    assert_eq!((code, out.trim_end()), (Some(1), sample));
    let (code, _, err) = run(&["verify", "nowhere.gnb"]);
    assert!(code == Some(1) && err.contains("no such file"), "{err}");
}

#[test]
fn a_mistyped_folder_is_not_made() {
    let folder = tempfile::tempdir().expect("temp folder");
    let url = format!("--storage.object-store=file://{}/mistyped", folder.path().display());
    for args in [
        &["inspect", "a.gnb", &url][..],
        &["verify", "a.gnb", &url],
        &["export", "--format=parquet", "--output=out", &url],
        &["export", "--format=parquet", "--output=out", "a.gnb", &url],
        &["import", ".", "--cluster.peers=127.0.0.1:1", &url],
    ] {
        let (code, _, err) = run(folder.path(), args);
        assert_eq!(code, Some(1), "{args:?}: {err}");
        assert!(!folder.path().join("mistyped").exists(), "{args:?}");
        assert!(
            err.contains("there is no bucket in the folder") || args[0] == "import",
            "{args:?}: {err}"
        );
    }
}

#[tokio::test]
async fn an_export_of_nothing_says_so() {
    let folder = tempfile::tempdir().expect("temp folder");
    std::fs::write(folder.path().join("a.gnb"), block(false, 1.0).await).expect("a file");
    let export = |more: &[&str]| {
        let args = ["export", "--format=parquet", "--output=out", "a.gnb"];
        run(folder.path(), &[&args[..], more].concat())
    };
    let (code, out, err) = export(&["--match={n=\"99\"}"]);
    assert_eq!((code, &*out), (Some(0), "exported 0 samples into 0 files\n"));
    assert!(err.contains("nothing is exported"), "{err}");
    let (code, _, err) = export(&["--start=10", "--end=5"]);
    assert!(
        code == Some(2) && err.contains("--start is after --end"),
        "{code:?} {err}"
    );
    let (code, out, err) = export(&[]);
    assert_eq!((code, &*out), (Some(0), "exported 200 samples into 1 files\n"));
    assert!(!err.contains("nothing is exported"), "{err}");
    // As a shell completes it.
    let url = format!("--storage.object-store=file://{}", folder.path().display());
    let (code, out, err) = run(folder.path(), &["verify", "./a.gnb", &url]);
    assert!(
        code == Some(0) && out.starts_with("./a.gnb: sound"),
        "{code:?} {out} {err}"
    );
}
