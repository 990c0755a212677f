//! Small requests without pause, a writer for each shard, and when each of them was answered again after a kill.

use crate::harness::{Http, remote};
use gnomon_cluster::placement::{DEFAULT_PLACEMENT_LABELS, Placement, TenantSeed};
use gnomon_model::{Labels, TenantId, TimestampMs};
use gnomon_proto::v1::PlacementEpoch;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After this a sender gives a request up, and makes it again elsewhere.
const DEADLINE: Duration = Duration::from_secs(1);
/// Between two requests, and before one is made again.
const PAUSE: Duration = Duration::from_millis(10);
/// Series of a request, one sample each.
const SERIES: usize = 5;

/// The first acknowledgement after a moment.
#[derive(Debug, Default)]
struct Awaited {
    since: Option<Instant>,
    after: Option<Duration>,
}

/// Writers that run until this is dropped.
pub(crate) struct Writers {
    awaited: Vec<Arc<Mutex<Awaited>>>,
    stop: CancellationToken,
    tasks: JoinSet<u64>,
}

/// A value of `instance` whose series the shard has, job `failover`.
fn instance_of(shard: u32, shards: usize) -> String {
    let epoch = PlacementEpoch {
        epoch: 1,
        from_ms: i64::MIN,
        shards: (0..shards as u32).collect(),
        by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
        spreads: Vec::new(),
    };
    let placement = Placement::from_records(&[epoch]).expect("an epoch");
    let seed = TenantSeed::of(&TenantId::anonymous());
    let is_there = |instance: &String| {
        let labels = Labels::from_pairs([
            ("__name__", "failover"),
            ("instance", instance.as_str()),
            ("job", "failover"),
        ]);
        let owner = placement.owner(seed, labels.as_ref(), TimestampMs(0));
        owner.is_some_and(|owner| owner.shard.0 == shard)
    };
    (0..)
        .map(|n| format!("host-{n}:1"))
        .find(is_there)
        .expect("an instance")
}

fn request(instance: &str, at_ms: i64, step: u64) -> Vec<u8> {
    let series = (0..SERIES).map(|i| {
        let number = i.to_string();
        let labels = [
            ("__name__", "failover"),
            ("instance", instance),
            ("job", "failover"),
            ("n", number.as_str()),
        ];
        remote::time_series(&labels, &[(at_ms, step as f64)])
    });
    remote::body(series.collect())
}

/// Until it is stopped; how many requests were acknowledged.
async fn write(servers: Vec<Http>, instance: String, awaited: Arc<Mutex<Awaited>>, stop: CancellationToken) -> u64 {
    let mut server = 0;
    let mut last_ms = 0;
    for step in 0.. {
        let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
        last_ms = now_ms.max(last_ms + 1);
        let body = request(&instance, last_ms, step);
        loop {
            if stop.is_cancelled() {
                return step;
            }
            let began = Instant::now();
            match tokio::time::timeout(DEADLINE, remote::send(&servers[server], body.clone())).await {
                Ok(Ok((204, _))) => {
                    let mut awaited = awaited.lock();
                    if let Some(since) = awaited.since.filter(|since| *since <= began)
                        && awaited.after.is_none()
                    {
                        awaited.after = Some(since.elapsed());
                    }
                    break;
                }
                Ok(Ok((503, _)) | Err(_)) | Err(_) => server = (server + 1) % servers.len(),
                Ok(Ok((code, text))) => panic!("{}: {code} {text}", servers[server].url("")),
            }
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    0
}

impl Writers {
    pub(crate) fn start(servers: &[Http], shards: usize) -> Self {
        let mut writers = Self {
            awaited: Vec::new(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        for shard in 0..shards {
            let awaited = Arc::<Mutex<Awaited>>::default();
            writers.awaited.push(Arc::clone(&awaited));
            // Not all through the same server.
            let mut servers = servers.to_vec();
            let first = shard % servers.len();
            servers.rotate_left(first);
            let instance = instance_of(shard as u32, shards);
            writers
                .tasks
                .spawn(write(servers, instance, awaited, writers.stop.clone()));
        }
        writers
    }

    /// From now on, the first acknowledgement of each is waited for: of a request that begins after this.
    pub(crate) fn await_next(&self) {
        let now = Instant::now();
        for awaited in &self.awaited {
            *awaited.lock() = Awaited {
                since: Some(now),
                after: None,
            };
        }
    }

    /// By shard, after what time the first acknowledgement came; once all have one.
    pub(crate) fn all_after(&self) -> Option<Vec<Duration>> {
        self.awaited.iter().map(|awaited| awaited.lock().after).collect()
    }

    /// How many requests were acknowledged.
    pub(crate) async fn stop(mut self) -> u64 {
        self.stop.cancel();
        let mut all = 0;
        while let Some(done) = self.tasks.join_next().await {
            all += done.expect("a writer");
        }
        all
    }
}
