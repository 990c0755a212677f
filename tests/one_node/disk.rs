//! Bad disks: power cuts that lose what was not synced, disks that fill up and get room again, disks that turn
//! read-only. Nothing acknowledged may be lost, and reads go on.

use crate::harness::disk::Disk;
use crate::harness::disk::tmpfs::Tmpfs;
use crate::harness::{Node, client, eventually, remote};
use rand::{RngExt, SeedableRng};
use std::path::Path;
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

/// How often to do it; the variable says otherwise.
fn rounds(variable: &str, default: usize) -> usize {
    let given = std::env::var(variable).ok();
    given.and_then(|r| r.parse().ok()).unwrap_or(default)
}

fn base_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64 - 20 * 60_000
}

/// Whether every series has every acknowledged step, with the right value.
async fn assert_all_there(node: &Node, acknowledged: &[i64], base_ms: i64) {
    let (Some(first), Some(last)) = (acknowledged.first(), acknowledged.last()) else {
        return;
    };
    let end = (base_ms + last * 100) as f64 / 1000.0;
    let seconds = (last - first) / 10 + 2;
    let found = client::series(&node.http.query(&format!("ledger[{seconds}s]"), end).await);
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
    let rounds = rounds("GNOMON_POWER_ROUNDS", 10);
    let seed: u64 = std::env::var("GNOMON_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(7);
    println!("seed {seed}, {rounds} rounds");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let base = base_ms();
    let mut node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let (mut acknowledged, mut step, mut checked) = (Vec::new(), 0, 0);
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
        // What is new, and something of the rounds before.
        assert_all_there(&node, &acknowledged[checked..], base).await;
        checked = acknowledged.len().saturating_sub(50);
        println!("round {round}: {} requests acknowledged so far", acknowledged.len());
    }
    assert_all_there(&node, &acknowledged, base).await;
    assert!(
        acknowledged.len() >= rounds,
        "hardly anything was acknowledged: {}",
        acknowledged.len()
    );
    node.process.kill();
}

/// A node that writes steps and remembers which were acknowledged.
struct Written {
    node: Node,
    base_ms: i64,
    acknowledged: Vec<i64>,
    step: i64,
}

impl Written {
    async fn start(folder: &Path) -> Self {
        let node = Node::start(folder, "", &["--web.enable-remote-write-receiver"]).await;
        Self {
            node,
            base_ms: base_ms(),
            acknowledged: Vec::new(),
            step: 0,
        }
    }

    /// Sends the next step; the text of the refusal where it is refused.
    async fn send(&mut self) -> Option<String> {
        let step = self.step;
        self.step += 1;
        let (code, text) = remote::send(&self.node.http, body(step, self.base_ms))
            .await
            .expect("send");
        match code {
            204 => self.acknowledged.push(step),
            503 => return Some(text),
            other => panic!("{other} {text}"),
        }
        None
    }

    async fn until_refused(&mut self) -> String {
        eventually("writes to be refused", async || self.send().await).await
    }

    async fn until_taken(&mut self) {
        eventually("writes to be taken again", async || {
            self.send().await.is_none().then_some(())
        })
        .await;
    }

    async fn assert_all_there(&self) {
        assert_all_there(&self.node, &self.acknowledged, self.base_ms).await;
    }

    /// Writes until refused, where the refusal says what and where; reads go on.
    async fn assert_refused(&mut self, data: &Path, reasons: &[&str]) {
        let text = self.until_refused().await;
        assert!(text.contains(&data.display().to_string()), "where: {text}");
        assert!(reasons.iter().any(|reason| text.contains(reason)), "why: {text}");
        self.assert_all_there().await;
    }

    /// Everything is there after a kill, too.
    async fn kill_and_check(mut self) {
        self.assert_all_there().await;
        self.node = self.node.kill_and_restart().await.0;
        self.assert_all_there().await;
        self.node.process.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_recovers_without_a_restart() {
    let folder = tempfile::tempdir().expect("temp folder");
    let data = folder.path().join("data");
    let room = 2 << 30;
    let Some(disk) = Disk::mount(&data, room) else { return };
    let mut written = Written::start(folder.path()).await;
    for round in 0..rounds("GNOMON_DISK_ROUNDS", 3) {
        for _ in 0..3 {
            written.until_taken().await;
        }
        disk.set_capacity(disk.used_bytes());
        written
            .assert_refused(&data, &["low disk", "disk full", "No space left"])
            .await;
        // Whatever was given up to make room is taken by someone else as well.
        disk.set_capacity(0);
        written
            .assert_refused(&data, &["low disk", "disk full", "No space left"])
            .await;
        disk.set_capacity(room);
        written.until_taken().await;
        written.assert_all_there().await;
        println!("round {round}: {} requests acknowledged", written.acknowledged.len());
    }
    written.kill_and_check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_on_a_full_disk_and_answers_what_it_has() {
    let folder = tempfile::tempdir().expect("temp folder");
    let data = folder.path().join("data");
    let room = 2 << 30;
    let Some(disk) = Disk::mount(&data, room) else { return };
    let mut written = Written::start(folder.path()).await;
    for _ in 0..5 {
        written.until_taken().await;
    }
    written.node.process.kill();
    disk.set_capacity(disk.used_bytes());
    written.node = written.node.restart().await.0;
    written.assert_all_there().await;
    // What the node gave up is taken by someone else.
    disk.set_capacity(0);
    written
        .assert_refused(&data, &["low disk", "disk full", "No space left"])
        .await;
    disk.set_capacity(room);
    written.until_taken().await;
    written.kill_and_check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_turns_read_only_refuses_writes_and_still_answers() {
    let folder = tempfile::tempdir().expect("temp folder");
    let data = folder.path().join("data");
    let Some(disk) = Disk::mount(&data, 2 << 30) else {
        return;
    };
    let mut written = Written::start(folder.path()).await;
    for round in 0..rounds("GNOMON_DISK_ROUNDS", 3) {
        written.until_taken().await;
        disk.set_read_only(true);
        for _ in 0..3 {
            written
                .assert_refused(&data, &["Read-only file system", "read-only"])
                .await;
        }
        disk.set_read_only(false);
        written.until_taken().await;
        written.assert_all_there().await;
        println!("round {round}: {} requests acknowledged", written.acknowledged.len());
    }
    // It can be stopped on such a disk as well.
    disk.set_read_only(true);
    written.assert_refused(&data, &["read-only", "Read-only"]).await;
    assert_eq!(written.node.process.interrupt().await, Some(0));
    disk.set_read_only(false);
    written.node = written.node.restart().await.0;
    written.kill_and_check().await;
}

/// A real file system, filled to the last byte by someone else while the node writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tmpfs_that_others_fill_refuses_writes_and_recovers_without_a_restart() {
    let folder = tempfile::tempdir().expect("temp folder");
    let data = folder.path().join("data");
    let Some(small) = Tmpfs::mount(&data, 256) else { return };
    let mut written = Written::start(folder.path()).await;
    for round in 0..rounds("GNOMON_DISK_ROUNDS", 3) {
        written.until_taken().await;
        // It comes back for whatever is given up.
        let filling = small.keep_filling();
        written
            .assert_refused(&data, &["low disk", "disk full", "No space left"])
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        written
            .assert_refused(&data, &["low disk", "disk full", "No space left"])
            .await;
        drop(filling);
        written.until_taken().await;
        written.assert_all_there().await;
        println!("round {round}: {} requests acknowledged", written.acknowledged.len());
    }
    written.kill_and_check().await;
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
