//! What the other servers have on disk once they have nothing left to do.

use crate::side_by_side::measure::cpu_seconds;
use crate::side_by_side::servers::Server;
use std::path::Path;
use std::time::Duration;

/// How long a server may take to settle.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) struct OnDisk {
    pub(crate) bytes: u64,
    /// Of which what grows with the series, where that is in files of its own.
    pub(crate) index_bytes: u64,
    /// Series of all its blocks, each in as many as have it; none where there are no blocks.
    pub(crate) series: Option<u64>,
    pub(crate) note: String,
}

/// Bytes of all files below a folder whose path `wanted` takes; 0 where there is none.
fn bytes_below(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path(), wanted),
        Ok(meta) if wanted(&entry.path()) => meta.len(),
        _ => 0,
    };
    entries.flatten().map(of).sum()
}

/// Asks every half second until there is something.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until a process has done next to nothing for some seconds.
pub(crate) async fn quiet(pid: u32) {
    let mut last = cpu_seconds(pid);
    let mut rounds = 0;
    until("a server to have nothing left to do", async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = cpu_seconds(pid);
        rounds = if now - last < 0.15 { rounds + 1 } else { 0 };
        last = now;
        (rounds >= 3).then_some(())
    })
    .await;
}

fn is_in_block(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !["/wal/", "/chunks_head/", "/lock", "queries.active"]
        .iter()
        .any(|part| text.contains(part))
}

/// What Prometheus' blocks say of themselves.
#[derive(Default)]
struct PrometheusBlocks {
    blocks: usize,
    samples: u64,
    series: u64,
    level: u64,
}

fn blocks_of_prometheus(data: &Path) -> PrometheusBlocks {
    let mut all = PrometheusBlocks::default();
    for entry in std::fs::read_dir(data).into_iter().flatten().flatten() {
        let Ok(text) = std::fs::read(entry.path().join("meta.json")) else {
            continue;
        };
        let meta: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let number = |group: &str, name: &str| meta[group][name].as_u64().unwrap_or(0);
        all.blocks += 1;
        all.samples += number("stats", "numSamples");
        all.series += number("stats", "numSeries");
        all.level = all.level.max(number("compaction", "level"));
    }
    all
}

/// After all of `samples` have gone from the head into blocks.
pub(crate) async fn prometheus(data: &Path, pid: u32, samples: u64) -> OnDisk {
    until("Prometheus to have cut its head into blocks", async || {
        (blocks_of_prometheus(data).samples >= samples).then_some(())
    })
    .await;
    quiet(pid).await;
    let PrometheusBlocks {
        blocks, series, level, ..
    } = blocks_of_prometheus(data);
    OnDisk {
        bytes: bytes_below(data, &is_in_block),
        index_bytes: bytes_below(data, &|path| is_in_block(path) && path.ends_with("index")),
        series: Some(series),
        note: format!("{blocks} block(s) of level up to {level}"),
    }
}

/// After it has flushed and merged everything.
pub(crate) async fn victoria_metrics(server: &Server, data: &Path, pid: u32) -> OnDisk {
    for path in ["/internal/force_flush", "/internal/force_merge"] {
        let (code, text) = server.http.get(path).await;
        assert!((200..300).contains(&code), "{path}: {code} {text}");
    }
    quiet(pid).await;
    let of = |part: &str| bytes_below(&data.join(part), &|_| true);
    OnDisk {
        bytes: of("data") + of("indexdb"),
        index_bytes: of("indexdb"),
        series: None,
        note: "after force_flush and force_merge".to_owned(),
    }
}
