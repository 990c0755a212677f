//! Simulated targets: each answers with how often it was asked, and keeps an account of that and of what of it was
//! acknowledged. And the life of a scraper between them and the router.

use super::clients;
use super::clock::{Origin, SimClock};
use super::network::{Lost, Sender, SimNetwork};
use async_trait::async_trait;
use gnomon_cluster::node::NodeHandle;
use gnomon_cluster::router::{Router, Tick, TickOutcome, WriteOutcome};
use gnomon_model::yaml::{At, parse};
use gnomon_model::{Clock, Labels, LabelsRef, TargetId, TenantId};
use gnomon_proto::ServiceError;
use gnomon_scraper::config::{ScrapeConfig, ScrapeDefaults};
use gnomon_scraper::{BufferOptions, Carrier, FetchError, ScrapeConfigs, Scraper, ScraperOptions, TickSink, follow};
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The message of a scrape, for the trace.
const SCRAPE: u8 = 10;
/// Targets have the numbers of machines from here on.
const PLACES: usize = 100;
/// Intervals of targets, milliseconds; one job of each.
const INTERVALS_MS: [i64; 2] = [1000, 2000];
/// Metrics that a target exposes, with one value.
pub(crate) const METRICS: [&str; 2] = ["sim_answers", "sim_answers_again"];

/// One answer of a target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Each of a target's has another.
    pub(crate) value: u32,
    pub(crate) true_ms: i64,
    /// By the clock of who asked.
    pub(crate) asked_ms: i64,
    pub(crate) by: Sender,
}

/// One push of one scrape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Push {
    pub(crate) tick_ms: i64,
    /// None of a scrape that failed.
    pub(crate) value: Option<u32>,
    pub(crate) began_ms: i64,
    pub(crate) ended_ms: i64,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of it is acknowledged.
    Acknowledged,
    /// The shards have said that they do not have it.
    Refused,
    Unknown,
}

/// A target, and what it keeps.
pub(crate) struct Target {
    pub(crate) instance: String,
    own: Sender,
    pub(crate) interval_ms: i64,
    /// As soon as something of it was pushed.
    pub(crate) id: Option<TargetId>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) pushes: Vec<Push>,
}

impl Target {
    fn job(&self) -> String {
        format!("every-{}", self.interval_ms)
    }

    /// A series of it, as it is read.
    pub(crate) fn series(&self, metric: &str) -> String {
        let labels = [("__name__", metric), ("instance", &self.instance), ("job", &self.job())];
        Labels::from_pairs(labels).as_ref().to_string()
    }

    /// Where in its interval it is to be scraped.
    pub(crate) fn phase_ms(&self) -> Option<i64> {
        Some((self.id?.0 % self.interval_ms.unsigned_abs()) as i64)
    }
}

/// All targets of a run; clones are the same.
#[derive(Clone)]
pub(crate) struct Targets(Arc<Mutex<Vec<Target>>>);

impl Targets {
    pub(crate) fn new(count: usize, network: &SimNetwork) -> Self {
        let target = |number: usize| Target {
            instance: format!("10.0.1.{number}:9100"),
            own: network.begin(PLACES + number),
            interval_ms: INTERVALS_MS[number % INTERVALS_MS.len()],
            id: None,
            answers: Vec::new(),
            pushes: Vec::new(),
        };
        Self(Arc::new(Mutex::new((0..count).map(target).collect())))
    }

    /// Their numbers as machines.
    pub(crate) fn places(&self) -> Vec<usize> {
        self.with(|all| all.iter().map(|target| target.own.place).collect())
    }

    pub(crate) fn with<T>(&self, read: impl FnOnce(&[Target]) -> T) -> T {
        read(&self.0.lock())
    }

    fn configs(&self) -> Result<ScrapeConfigs, String> {
        let job = |interval_ms: i64| {
            let of_job: Vec<String> = self.with(|all| {
                let mine = all.iter().filter(|target| target.interval_ms == interval_ms);
                mine.map(|target| format!("{:?}", target.instance)).collect()
            });
            let text = format!(
                "{{job_name: every-{interval_ms}, scrape_interval: {interval_ms}ms, scrape_timeout: 900ms, \
                 static_configs: [{{targets: [{}]}}]}}",
                of_job.join(", ")
            );
            let root = parse(&text).map_err(|error| error.to_string())?;
            let config = ScrapeConfig::read(&At::root(&root), &ScrapeDefaults::default(), Path::new("/"));
            config.map(Arc::new).map_err(|error| error.to_string())
        };
        INTERVALS_MS.into_iter().map(job).collect()
    }
}

/// What scrapers of a run have alike.
#[derive(Clone)]
pub(crate) struct Scraping {
    pub(crate) targets: Targets,
    pub(crate) origin: Origin,
    pub(crate) lease: Duration,
}

/// A scraper in one life of a machine.
#[derive(Clone)]
pub(crate) struct SimScraper {
    pub(crate) scraper: Arc<Scraper>,
    /// Ends it without anything more that it could do.
    pub(crate) killed: CancellationToken,
}

/// A life, as far as a scraper has to do with it.
pub(crate) struct Life {
    pub(crate) own: Sender,
    pub(crate) network: SimNetwork,
    pub(crate) clock: Arc<SimClock>,
    /// Where scrapes wait.
    pub(crate) folder: PathBuf,
    pub(crate) stop: CancellationToken,
}

impl Scraping {
    /// Starts a scraper as the program does; it is in the ring once [`NodeHandle::begin_scraping`] is called.
    pub(crate) async fn start(&self, node: &NodeHandle, life: Life) -> Result<SimScraper, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let router = clients::router(node).map_err(|e| text(&e))?;
        let (ring, following) = follow(node.meta_watch.clone(), node.node_id, self.lease, life.stop);
        tokio::spawn(following);
        let killed = CancellationToken::new();
        let scraper = Scraper::start(ScraperOptions {
            node: node.node_id,
            clock: life.clock.clone(),
            carrier: Arc::new(Wire {
                scraping: self.clone(),
                network: life.network,
                own: life.own,
                clock: life.clock,
            }),
            sink: Arc::new(Tap {
                scraping: self.clone(),
                router,
            }),
            registry: prometheus::Registry::new(),
            members: ring.members,
            tenant: TenantId::anonymous(),
            timestamp_tolerance: None,
            external: None,
            buffer: BufferOptions {
                memory_bytes: 1 << 20,
                folder: Some(life.folder),
                disk_bytes: 1 << 20,
                terms: ring.terms,
            },
            cancel: killed.clone(),
        });
        let scraper = scraper.map_err(|e| text(&e))?;
        let configs = self.targets.configs()?;
        scraper.apply_config(configs).await.map_err(|e| text(&e))?;
        Ok(SimScraper {
            scraper: Arc::new(scraper),
            killed,
        })
    }
}

/// Between a scraper and the targets.
struct Wire {
    scraping: Scraping,
    network: SimNetwork,
    own: Sender,
    clock: Arc<SimClock>,
}

#[async_trait]
impl Carrier for Wire {
    async fn carry(
        &self,
        _: reqwest::Client,
        request: reqwest::Request,
        shown_url: &str,
    ) -> Result<reqwest::Response, FetchError> {
        let lost = |lost: Lost| FetchError::Get {
            url: shown_url.to_owned(),
            reason: format!("{lost:?}"),
        };
        let asked_ms = self.clock.now().0;
        let number = request
            .url()
            .host_str()
            .and_then(|host| host.rsplit('.').next()?.parse().ok());
        let number: usize = number.ok_or_else(|| lost(Lost::Nobody))?;
        let targets = &self.scraping.targets;
        let target = targets.with(|all| all[number].own);
        self.network.pass(SCRAPE, self.own, target.place).await.map_err(lost)?;
        let value = {
            let mut all = targets.0.lock();
            let answers = &mut all[number].answers;
            let value = answers.len() as u32 + 1;
            answers.push(Answer {
                value,
                true_ms: self.scraping.origin.true_ms(),
                asked_ms,
                by: self.own,
            });
            value
        };
        let back = self.network.pass(SCRAPE | 0x40, target, self.own.place);
        back.await.map_err(lost)?;
        let body = METRICS.map(|metric| format!("{metric} {value}\n")).concat();
        let answer = http::Response::builder().header("content-type", "text/plain; version=0.0.4");
        Ok(answer.body(body).expect("an answer").into())
    }
}

/// Between a scraper and its router: notes what is acknowledged.
struct Tap {
    scraping: Scraping,
    router: Router,
}

impl Tap {
    fn note(&self, tick: &Tick<'_>, began_ms: i64, outcome: Outcome) {
        let is_value = |series: u32| {
            let mut labels = Vec::new();
            tick.labels.write_labels(series, &mut labels);
            LabelsRef::checked(&labels).is_ok_and(|labels| labels.get("__name__") == Some(METRICS[0]))
        };
        let sample = tick.samples.iter().find(|sample| is_value(sample.series));
        let instance = tick.target_labels.get("instance").unwrap_or_default();
        let mut all = self.scraping.targets.0.lock();
        if let Some(target) = all.iter_mut().find(|target| target.instance == instance) {
            target.id = Some(tick.target);
            target.pushes.push(Push {
                tick_ms: tick.tick_ms,
                value: sample.map(|sample| sample.value as u32),
                began_ms,
                ended_ms: self.scraping.origin.true_ms(),
                outcome,
            });
        }
    }
}

#[async_trait]
impl TickSink for Tap {
    async fn push_tick(&self, tick: &Tick<'_>, deadline: Duration) -> Result<TickOutcome, ServiceError> {
        let began_ms = self.scraping.origin.true_ms();
        // Where it is given up, too.
        let mut noted = Noted::new(|outcome| self.note(tick, began_ms, outcome));
        let pushed = self.router.push_tick(tick, deadline).await;
        noted.outcome = match &pushed {
            Ok(outcome) if outcome.taken && outcome.refused.is_empty() => Outcome::Acknowledged,
            Ok(outcome) if !outcome.taken => Outcome::Refused,
            _ => Outcome::Unknown,
        };
        pushed
    }

    async fn push_rows(&self, tick: &Tick<'_>, deadline: Duration) -> WriteOutcome {
        let began_ms = self.scraping.origin.true_ms();
        let mut noted = Noted::new(|outcome| self.note(tick, began_ms, outcome));
        let pushed = TickSink::push_rows(&self.router, tick, deadline).await;
        let is_whole = pushed.retryable.is_none() && pushed.failed.is_none() && pushed.refused.is_empty();
        if is_whole {
            noted.outcome = Outcome::Acknowledged;
        }
        pushed
    }

    fn home(&self, tick: &Tick<'_>) -> Option<u32> {
        TickSink::home(&self.router, tick)
    }

    fn keeps_starts(&self) -> bool {
        TickSink::keeps_starts(&self.router)
    }
}

/// Tells how a push ended, also where it was given up.
struct Noted<F: Fn(Outcome)> {
    outcome: Outcome,
    tell: F,
}

impl<F: Fn(Outcome)> Noted<F> {
    fn new(tell: F) -> Self {
        Self {
            outcome: Outcome::Unknown,
            tell,
        }
    }
}

impl<F: Fn(Outcome)> Drop for Noted<F> {
    fn drop(&mut self) {
        (self.tell)(self.outcome);
    }
}

/// How many targets a run has.
pub(crate) fn how_many(random: &mut StdRng) -> usize {
    random.random_range(3..=6)
}
