//! Bad disks: power cuts that lose what was not synced, disks that fill up and get room again, disks that turn
//! read-only. Nothing acknowledged may be lost, and reads go on.

use crate::harness::disk::Disk;
use crate::harness::{Node, client, eventually, remote};
use rand::{RngExt, SeedableRng};
use std::time::Duration;

const SERIES: usize = 200;

fn body(step: i64, base_ms: i64) -> Vec<u8> {
    let series = (0..SERIES).map(|i| {
        let name = format!("s{i}");
        let labels = [
            ("__name__", "ledger"),
            ("instance", "d:1"),
            ("job", "disk"),
            ("series", name.as_str()),
        ];
        remote::time_series(&labels, &[(base_ms + step * 100, step as f64 + i as f64 / 1000.0)])
    });
    remote::body(series.collect())
}

fn base_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64 - 20 * 60_000
}

/// Whether every series has every acknowledged step, with the right value.
async fn assert_all_there(node: &Node, acknowledged: &[i64], base_ms: i64) {
    let Some(last) = acknowledged.last() else { return };
    let end = (base_ms + last * 100) as f64 / 1000.0;
    let found = client::series(&node.http.query(&format!("ledger[{}s]", last / 10 + 2), end).await);
    assert_eq!(found.len(), SERIES);
    for (labels, samples) in found {
        let at = |step: i64| {
            let seconds = (base_ms + step * 100) as f64 / 1000.0;
            samples.iter().find(|(t, _)| (t - seconds).abs() < 0.0005)
        };
        for step in acknowledged {
            let text = &at(*step).unwrap_or_else(|| panic!("lost: {labels} step {step}")).1;
            assert_eq!(
                text.parse::<f64>().map(|v| v.floor() as i64),
                Ok(*step),
                "wrong: {labels}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_a_power_cut() {
    let folder = tempfile::tempdir().expect("temp folder");
    let data = folder.path().join("data");
    let Some(mut disk) = Disk::mount(&data, 1 << 30) else {
        return;
    };
    let rounds: usize = std::env::var("GNOMON_POWER_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(10);
    let seed: u64 = std::env::var("GNOMON_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(7);
    println!("seed {seed}, {rounds} rounds");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let base = base_ms();
    let mut node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let (mut acknowledged, mut step) = (Vec::new(), 0);
    for round in 0..rounds {
        let end = tokio::time::Instant::now() + Duration::from_millis(random.random_range(20..400));
        let http = node.http.clone();
        let writer = tokio::spawn(async move {
            let mut done = Vec::new();
            while let Ok((code, text)) = remote::send(&http, body(step, base)).await {
                assert!(code == 204 || code == 503, "{code} {text}");
                if code == 204 {
                    done.push(step);
                }
                step += 1;
            }
            (done, step + 1)
        });
        tokio::time::sleep_until(end).await;
        node.process.kill();
        let (done, next) = writer.await.expect("writer");
        acknowledged.extend(done);
        step = next;
        disk.cut_power();
        node = node.restart().await.0;
        assert_all_there(&node, &acknowledged, base).await;
        println!("round {round}: {} requests acknowledged so far", acknowledged.len());
    }
    assert!(
        acknowledged.len() >= rounds,
        "hardly anything was acknowledged: {}",
        acknowledged.len()
    );
    node.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "Debian's RocksDB 7.8 has assertions on and aborts when its own log file cannot be written"]
async fn a_full_disk_refuses_writes_and_recovers_without_a_restart() {
    let folder = tempfile::tempdir().expect("temp folder");
    let data = folder.path().join("data");
    let room = 2 << 30;
    let Some(disk) = Disk::mount(&data, room) else { return };
    let base = base_ms();
    let mut node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let (mut acknowledged, mut step) = (Vec::new(), 0);
    for _ in 0..5 {
        assert_eq!(remote::send(&node.http, body(step, base)).await.expect("send").0, 204);
        acknowledged.push(step);
        step += 1;
    }
    disk.set_capacity(disk.used_bytes());
    let text = eventually("writes to be refused", async || {
        let (code, text) = remote::send(&node.http, body(step, base)).await.expect("send");
        if code == 204 {
            acknowledged.push(step);
        }
        step += 1;
        assert!(code == 204 || code == 503, "{code} {text}");
        (code == 503).then_some(text)
    })
    .await;
    assert!(
        text.contains("disk") || text.contains("space"),
        "the answer says why: {text}"
    );
    assert_all_there(&node, &acknowledged, base).await;
    disk.set_capacity(room);
    eventually("writes to be taken again", async || {
        let (code, _) = remote::send(&node.http, body(step, base)).await.expect("send");
        if code == 204 {
            acknowledged.push(step);
        }
        step += 1;
        (code == 204).then_some(())
    })
    .await;
    assert_all_there(&node, &acknowledged, base).await;
    node.process.kill();
    let (mut node, _) = node.restart().await;
    assert_all_there(&node, &acknowledged, base).await;
    node.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "Debian's RocksDB 7.8 has assertions on and aborts when its own log file cannot be written"]
async fn a_disk_that_turns_read_only_refuses_writes_and_still_answers() {
    let folder = tempfile::tempdir().expect("temp folder");
    let data = folder.path().join("data");
    let Some(disk) = Disk::mount(&data, 2 << 30) else {
        return;
    };
    let base = base_ms();
    let mut node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    assert_eq!(remote::send(&node.http, body(0, base)).await.expect("send").0, 204);
    disk.set_read_only(true);
    let (code, text) = remote::send(&node.http, body(1, base)).await.expect("send");
    assert_eq!(code, 503, "{text}");
    assert_all_there(&node, &[0], base).await;
    disk.set_read_only(false);
    eventually("writes to be taken again", async || {
        (remote::send(&node.http, body(2, base)).await.expect("send").0 == 204).then_some(())
    })
    .await;
    assert_all_there(&node, &[0, 2], base).await;
    node.process.kill();
}

/// The tool itself: a disk that forgets too little would make the tests above worthless.
#[test]
fn the_disk_forgets_what_was_not_synced() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().expect("temp folder");
    let root = folder.path().join("disk");
    let Some(mut disk) = Disk::mount(&root, 1 << 20) else {
        return;
    };
    let mut file = std::fs::File::create(root.join("kept")).expect("create");
    file.write_all(b"synced").expect("write");
    file.sync_all().expect("sync");
    file.write_all(b" not").expect("write");
    drop(file);
    std::fs::File::open(&root)
        .and_then(|d| d.sync_all())
        .expect("sync the directory");
    std::fs::write(root.join("lost"), b"name not synced").expect("write");
    disk.cut_power();
    assert_eq!(std::fs::read(root.join("kept")).expect("read"), b"synced");
    assert!(!root.join("lost").exists());
    disk.set_capacity(10);
    assert!(std::fs::write(root.join("big"), [0; 100]).is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull));
    disk.set_read_only(true);
    assert!(std::fs::write(root.join("any"), b"").is_err_and(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem));
}
