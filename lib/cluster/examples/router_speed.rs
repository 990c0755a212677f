//! What routing costs: 100,000 series, many rounds, shards that take everything and do nothing.
//!
//! ```text
//! cargo run --release -p gnomon-cluster --example router_speed [rounds]
//! ```

use async_trait::async_trait;
use gnomon_cluster::placement::{DEFAULT_PLACEMENT_LABELS, Placement};
use gnomon_cluster::router::{LabelSource, Router, RouterOptions, ShardWriter, ShardWriters, Tick, TickSample};
use gnomon_model::{Clock, Labels, NodeId, ShardId, SystemClock, TargetId, TenantId};
use gnomon_proto::ServiceError;
use gnomon_proto::batch::BatchView;
use gnomon_proto::service::ShardWriteService;
use gnomon_proto::v1::{AppendRequest, AppendResponse, PlacementEpoch};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

const INSTANCES: usize = 100;
const SERIES_OF_EACH: usize = 1000;

/// Gives references and counts bytes.
#[derive(Default)]
struct Null {
    next: AtomicU64,
    bytes: AtomicU64,
}

#[async_trait]
impl ShardWriteService for Null {
    async fn append(&self, request: AppendRequest) -> Result<AppendResponse, ServiceError> {
        self.bytes.fetch_add(request.batch.len() as u64, Ordering::Relaxed);
        let view = BatchView::parse(&request.batch).map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let new = view.new_series().len() as u64;
        let first = self.next.fetch_add(new, Ordering::Relaxed) + 1;
        Ok(AppendResponse {
            refs: (first..first + new).collect(),
            ticks_taken: vec![true],
            ..AppendResponse::default()
        })
    }
}

/// The label sets of a remote-write body: of two instances.
struct Body<'a>(&'a [Vec<Labels>]);

impl LabelSource for Body<'_> {
    fn write_labels(&self, series: u32, out: &mut Vec<u8>) {
        let (instance, n) = (series as usize / SERIES_OF_EACH, series as usize % SERIES_OF_EACH);
        out.extend_from_slice(self.0[instance][n].as_bytes());
    }
}

struct Shards(Arc<Null>);

impl ShardWriters for Shards {
    fn leader(&self, _: ShardId) -> Result<ShardWriter, ServiceError> {
        Ok(ShardWriter {
            node: NodeId(1),
            client: self.0.clone(),
            to: None,
        })
    }
}

struct Bench {
    router: Router,
    null: Arc<Null>,
    clock: SystemClock,
    tenant: TenantId,
    /// By instance, with their identities.
    series: Vec<Vec<Labels>>,
    identities: Vec<Vec<u128>>,
    targets: Vec<Labels>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(20), |n| n.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = PlacementEpoch {
        epoch: 1,
        from_ms: i64::MIN,
        shards: vec![0, 1],
        by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
        spreads: Vec::new(),
    };
    let (_placement, watch) = watch::channel(Arc::new(Placement::from_records(&[record])?));
    let null = Arc::new(Null::default());
    let registry = prometheus::Registry::new();
    let router = Router::new(
        RouterOptions::default(),
        watch,
        Arc::new(Shards(null.clone())),
        &registry,
    )?;
    let bench = Bench::new(router, null);
    runtime.block_on(async {
        bench
            .measure("rows, first round (labels)", 1, &|b, round| Box::pin(b.rows(round)))
            .await;
        bench
            .measure("rows, known", rounds, &|b, round| Box::pin(b.rows(round)))
            .await;
        bench
            .measure("ticks, known", rounds, &|b, round| Box::pin(b.ticks(round)))
            .await;
    });
    Ok(())
}

type Round<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

impl Bench {
    fn new(router: Router, null: Arc<Null>) -> Self {
        let labels_of = |instance: usize, n: usize| {
            Labels::from_pairs([
                ("__name__", format!("node_some_metric_{}_total", n / 10)),
                ("job", "node".to_owned()),
                ("instance", format!("host-{instance}.example:9100")),
                ("cpu", (n % 10).to_string()),
                ("mode", "user".to_owned()),
            ])
        };
        let series: Vec<Vec<Labels>> = (0..INSTANCES)
            .map(|i| (0..SERIES_OF_EACH).map(|n| labels_of(i, n)).collect())
            .collect();
        let identity = |labels: &Labels| xxhash_rust::xxh3::xxh3_128(labels.as_bytes());
        let target = |i: usize| Labels::from_pairs([("job", "node"), ("instance", &format!("host-{i}.example:9100"))]);
        Self {
            router,
            null,
            clock: SystemClock::new(),
            tenant: TenantId::anonymous(),
            identities: series.iter().map(|s| s.iter().map(identity).collect()).collect(),
            series,
            targets: (0..INSTANCES).map(target).collect(),
        }
    }

    async fn measure(&self, what: &str, rounds: usize, run: &dyn for<'a> Fn(&'a Self, usize) -> Round<'a>) {
        let bytes = self.null.bytes.load(Ordering::Relaxed);
        let started = self.clock.monotonic();
        for round in 0..rounds {
            run(self, round).await;
        }
        let took = self.clock.monotonic() - started;
        let samples = (rounds * INSTANCES * SERIES_OF_EACH) as f64;
        let bytes = (self.null.bytes.load(Ordering::Relaxed) - bytes) as f64;
        println!(
            "{what:28} {:6.1} ns a sample, {:5.2} bytes a sample",
            took.as_nanos() as f64 / samples,
            bytes / samples
        );
    }

    /// Bodies as a remote-write sender makes them: any series, a sample each.
    async fn rows(&self, round: usize) {
        for (labels, identities) in self.series.chunks(2).zip(self.identities.chunks(2)) {
            let labels = Body(labels);
            let mut batch = self.router.batch(&self.tenant, &labels);
            for (i, identity) in identities.iter().flatten().enumerate() {
                batch.series(*identity, i as u32);
                batch.sample(1_700_000_000_000 + 15_000 * round as i64, (i * round) as f64);
            }
            batch.send(Duration::from_secs(10)).await;
        }
    }

    async fn ticks(&self, round: usize) {
        let tick_ms = 1_800_000_000_000 + 15_000 * round as i64;
        let mut samples = Vec::with_capacity(SERIES_OF_EACH);
        for (at, identities) in self.identities.iter().enumerate() {
            samples.clear();
            samples.extend(identities.iter().enumerate().map(|(i, identity)| TickSample {
                start_ms: 0,
                identity: *identity,
                series: i as u32,
                timestamp_ms: tick_ms,
                value: (i * round) as f64 + 0.5,
            }));
            let tick = Tick {
                tenant: &self.tenant,
                target: TargetId(at as u64),
                term: 1,
                tick_ms,
                interval_ms: 15_000,
                complete: true,
                track_timestamps_staleness: false,
                target_labels: self.targets[at].as_ref(),
                samples: &samples,
                histograms: &[],
                exemplars: &[],
                metadata: &[],
                labels: &self.series[at],
            };
            if let Err(error) = self.router.push_tick(&tick, Duration::from_secs(10)).await {
                println!("tick refused: {error}");
            }
        }
    }
}
