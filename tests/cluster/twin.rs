//! Two exporters that the cluster and a real Prometheus scrape, and queries that both have to answer alike, every second.
//!
//! The two scrape at different moments, and the cluster misses some while things go wrong. So the exporter gives samples
//! with their times, one each second, and repeats those of the last [`REPEATED_S`] seconds: whoever has a second has all
//! before it. What was taken before is not taken again. The cluster's clock is ahead of Prometheus' by a multiple of ten
//! seconds; so are the times that it is given, and is asked for.
//!
//! The second one's samples are four hours behind, and come in bursts: their windows are over, and what has come of one is
//! sealed and published after each burst. What both are asked for is in the head, in parts and in merged blocks.

use crate::clocks::{Clocks, WINDOW_MS};
use crate::harness::reference::Prometheus;
use crate::harness::{Http, client, eventually, peers};
use crate::targets::ask;
use axum::Router;
use axum::extract::{Path as Segments, State};
use axum::routing::get;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const INSTANCES: usize = 4;
const REPEATED_S: i64 = 90;
/// Of an instance: a counter with resets, a gauge, a histogram of three buckets.
const SERIES: usize = 5;
/// How long the cluster may take to give a whole answer once all is in order.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
/// Seconds that one query asks for at most.
const PIECE: i64 = 600;

/// Asked at half seconds, so that no sample lies at the end of a range, where this Prometheus' ranges differ from newer ones'.
const QUERIES: [&str; 9] = [
    "replay_total",
    "rate(replay_total[30s])",
    "sum by (instance) (increase(replay_total[2m]))",
    "max_over_time(replay_gauge[45s])",
    "avg(replay_gauge)",
    "quantile_over_time(0.3, replay_gauge[20s])",
    "count_over_time(replay_bucket[1m])",
    "histogram_quantile(0.7, sum by (le) (rate(replay_bucket[15s])))",
    "avg_over_time(sum(rate(replay_total[10500ms]))[40s:5s])",
];

fn machine_s() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() as i64
}

/// Series by labels, each with its values by second.
type Answers = BTreeMap<String, BTreeMap<i64, f64>>;

/// How far the samples of the second exporter are behind: windows, so that one ends when one of the present does, and more
/// than the one after which late samples may still come.
const BEHIND_S: i64 = 2 * WINDOW_MS / 1000;
/// Of the second exporter so many seconds come at once: shards seal what nothing is added to.
const BURST_S: i64 = 10;
/// How much of it Prometheus gets again. It keeps out-of-order samples as often as it gets them.
const REPEATED_LATE_S: i64 = 30;
/// For Prometheus to take them.
const OUT_OF_ORDER: &str = "storage: {tsdb: {out_of_order_time_window: 6h}}\n";

/// Which of the exporters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Its samples are of now.
    Now,
    Late,
}

pub(crate) struct Twin {
    pace: Pace,
    begun_s: i64,
    /// From the machine's clock to the times of samples, in the cluster and in Prometheus.
    shift_s: i64,
    reference_shift_s: i64,
}

/// Why two answers are not the same.
#[derive(Debug)]
enum Unlike {
    /// There is no whole answer to compare.
    NotYet(String),
    Differs(String),
}

/// The scrape configuration; `who` is `cluster` or `prometheus`.
pub(crate) fn config(address: &str, who: &str) -> String {
    let mut yaml = String::new();
    for name in [Pace::Now, Pace::Late].map(Pace::name) {
        let _ = writeln!(yaml, "- job_name: {name}\n  static_configs:");
        for n in 0..INSTANCES {
            let _ = writeln!(
                yaml,
                "  - {{targets: ['{address}'], labels: {{__metrics_path__: /{name}/{who}/{n}, instance: {name}-{n}}}}}"
            );
        }
    }
    yaml
}

impl Pace {
    const fn name(self) -> &'static str {
        match self {
            Self::Now => "replay",
            Self::Late => "late",
        }
    }

    /// The newest second that there is at `second`.
    const fn newest(self, second: i64) -> i64 {
        match self {
            Self::Now => second,
            Self::Late => second.div_euclid(BURST_S) * BURST_S,
        }
    }
}

/// The exposition's lines of one second.
fn lines(text: &mut [String; 3], n: usize, second: i64, at_ms: i64) {
    let since = second.rem_euclid(1_000_000);
    let n = n as i64;
    let counter = (since * (n + 1)).rem_euclid(977) as f64 * 0.1;
    let gauge = ((since * 7919 + n * 104_729) % 1_000) as f64 / 7.0;
    let _ = writeln!(text[0], "replay_total {counter} {at_ms}");
    let _ = writeln!(text[1], "replay_gauge {gauge} {at_ms}");
    for (le, share) in [("1", 1), ("5", 3), ("+Inf", 4)] {
        let count = since * share + (since % 5) * (share - 1);
        let _ = writeln!(text[2], "replay_bucket{{le=\"{le}\"}} {count} {at_ms}");
    }
}

async fn answer(State(twin): State<Arc<Twin>>, Segments((who, n)): Segments<(String, usize)>) -> String {
    let now_s = twin.pace.newest(machine_s());
    let (shift_s, repeated_s) = match (who.as_str(), twin.pace) {
        ("cluster", _) => (twin.shift_s, REPEATED_S),
        (_, Pace::Now) => (twin.reference_shift_s, REPEATED_S),
        (_, Pace::Late) => (twin.reference_shift_s, REPEATED_LATE_S),
    };
    let mut text = [
        "# TYPE replay_total counter\n".to_owned(),
        "# TYPE replay_gauge gauge\n".to_owned(),
        "# TYPE replay_bucket untyped\n".to_owned(),
    ];
    for second in (now_s - repeated_s).max(twin.begun_s)..=now_s {
        lines(&mut text, n, second, (second + shift_s) * 1000);
    }
    text.concat()
}

impl Twin {
    pub(crate) fn new(clocks: &Clocks, pace: Pace) -> Arc<Self> {
        let behind_s = if pace == Pace::Late { BEHIND_S } else { 0 };
        Arc::new(Self {
            pace,
            // The buckets fall every five seconds: not at the second sample, where this Prometheus extrapolates to zero and
            // newer ones by half a second.
            begun_s: machine_s().div_euclid(5) * 5,
            shift_s: clocks.ahead_ms / 1000 - behind_s,
            reference_shift_s: -behind_s,
        })
    }

    pub(crate) fn routes(self: &Arc<Self>) -> Router {
        Router::new()
            .route(&format!("/{}/{{who}}/{{n}}", self.pace.name()), get(answer))
            .with_state(self.clone())
    }

    /// A Prometheus that scrapes the exporters at `address`; none where there is none.
    pub(crate) fn prometheus(folder: &Path, address: &str) -> Option<Prometheus> {
        let program = peers::find("prometheus", "prometheus")?;
        let yaml = format!(
            "{OUT_OF_ORDER}global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{}",
            config(address, "prometheus")
        );
        Some(Prometheus::launch(
            &program,
            folder,
            "reference",
            &yaml,
            &["--log.level=error"],
        ))
    }

    /// The newest second that a server has all of; none where it has not.
    async fn newest(&self, http: &Http, shift_s: i64) -> Option<i64> {
        // A target's series come with one scrape, and go to several shards.
        let of = |name: &str| format!("label_replace(timestamp({name}), \"of\", \"{name}\", \"\", \"\")");
        let query = format!(
            "min({} or {} or {}) and on () (count({{__name__=~\"replay_.+\"}}) == {})",
            of("replay_total"),
            of("replay_gauge"),
            of("replay_bucket"),
            INSTANCES * SERIES
        );
        let path = format!(
            "/api/v1/query?query={}&time={}",
            client::encode(&query),
            machine_s() + shift_s
        );
        let answer = ask(http, &path).await.ok()?;
        let text = answer["data"]["result"][0]["value"][1].as_str()?;
        Some(text.parse::<f64>().ok()? as i64 - shift_s)
    }

    /// Samples of the exporter's windows that are over are in live blocks, by the beginnings of the windows.
    async fn published(&self, querier: &Http) -> BTreeSet<i64> {
        let shown = ask(querier, "/api/v1/cluster/blocks").await.unwrap_or_default();
        let blocks = shown["data"]["blocks"].as_array().into_iter().flatten();
        let live = blocks.filter(|block| block["state"] == "live");
        let begin_ms = (self.begun_s + self.shift_s) * 1000;
        let end_ms = (self.pace.newest(machine_s()) + self.shift_s) * 1000;
        let windows = begin_ms.div_euclid(WINDOW_MS)..=end_ms.div_euclid(WINDOW_MS);
        let spans: Vec<_> = live
            .filter_map(|block| Some(block["startMs"].as_i64()?..block["endMs"].as_i64()?))
            .collect();
        windows
            .map(|window| window * WINDOW_MS)
            .filter(|start_ms| spans.iter().any(|span| span.contains(start_ms)))
            .collect()
    }

    async fn range(http: &Http, query: &str, shift_s: i64, (from, to): (i64, i64)) -> Result<Answers, Unlike> {
        let path = format!(
            "/api/v1/query_range?query={}&start={}.5&end={}.5&step=1",
            client::encode(query),
            from + shift_s,
            to + shift_s
        );
        let answer = ask(http, &path).await.map_err(Unlike::NotYet)?;
        if answer["warnings"].as_array().is_some_and(|w| !w.is_empty()) {
            return Err(Unlike::NotYet(format!("partial: {}", answer["warnings"])));
        }
        let mut found = Answers::new();
        for row in answer["data"]["result"].as_array().into_iter().flatten() {
            let one = |pair: &Value| {
                let second = pair[0].as_f64().unwrap_or_default().floor() as i64 - shift_s;
                let value = pair[1].as_str().and_then(|v| v.parse().ok());
                (second, value.unwrap_or(f64::NAN))
            };
            let values = row["values"].as_array().into_iter().flatten().map(one).collect();
            if found.insert(row["metric"].to_string(), values).is_some() {
                let what = format!("{query} from {from} to {to}: twice in one answer: {}", row["metric"]);
                return Err(Unlike::Differs(what));
            }
        }
        Ok(found)
    }

    /// Seconds without a sample of the counters: what differs although none is missing has a marker in it.
    async fn not_there(http: &Http, shift_s: i64, (from, to): (i64, i64)) -> String {
        let query = client::encode(&format!("replay_total[{}s]", to - from + 1));
        let answer = ask(http, &format!("/api/v1/query?query={query}&time={}", to + shift_s)).await;
        let Ok(answer) = answer else {
            return "the samples cannot be asked for".to_owned();
        };
        let mut text = "no sample is there at".to_owned();
        for row in answer["data"]["result"].as_array().into_iter().flatten() {
            let values = row["values"].as_array().into_iter().flatten();
            let there: Vec<i64> = values
                .filter_map(|pair| pair[0].as_f64())
                .map(|at| at as i64 - shift_s)
                .collect();
            let missing: Vec<i64> = (from..=to).filter(|second| !there.contains(second)).collect();
            let _ = write!(text, " {missing:?} of {}", row["metric"]["instance"]);
        }
        text
    }

    /// Whether all queries have one answer of these seconds.
    async fn same(&self, querier: &Http, reference: &Http, span: (i64, i64)) -> Result<(), Unlike> {
        for query in QUERIES {
            let theirs = Self::range(reference, query, self.reference_shift_s, span).await?;
            let ours = Self::range(querier, query, self.shift_s, span).await?;
            if let Some(differs) = difference(&ours, &theirs) {
                let what = format!("{query} from {} to {}: {differs}", span.0, span.1);
                return Err(Unlike::Differs(what));
            }
        }
        Ok(())
    }

    /// From the beginning, at each querier, once all is in order.
    pub(crate) async fn check_all(&self, queriers: &[Http], reference: &Http) -> i64 {
        let wanted = self.pace.newest(machine_s());
        self.until_newest("Prometheus", reference, self.reference_shift_s, wanted)
            .await;
        for http in queriers {
            self.until_newest("the cluster", http, self.shift_s, wanted).await;
            let mut from = self.begun_s + 1;
            while from < wanted {
                let to = (from + PIECE).min(wanted - 1);
                self.until_same(http, reference, (from, to))
                    .await
                    .expect("the same answers at the end");
                from = to + 1;
            }
        }
        wanted - self.begun_s
    }

    /// Both scrape for themselves, so each is waited for.
    async fn until_newest(&self, who: &str, http: &Http, shift_s: i64, wanted: i64) {
        eventually(&format!("{who} to have all samples of the exporter"), async || {
            let newest = self.newest(http, shift_s).await?;
            (newest >= wanted).then_some(())
        })
        .await;
    }

    async fn until_same(&self, querier: &Http, reference: &Http, span: (i64, i64)) -> Result<(), String> {
        let began = tokio::time::Instant::now();
        loop {
            match self.same(querier, reference, span).await {
                Err(Unlike::NotYet(_)) if began.elapsed() < WHOLE_WITHIN => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(Unlike::NotYet(why) | Unlike::Differs(why)) => {
                    let there = Self::not_there(querier, self.shift_s, span).await;
                    return Err(format!("{why}; of {} to {} {there}", span.0, span.1));
                }
                Ok(()) => return Ok(()),
            }
        }
    }
}

fn difference(ours: &Answers, theirs: &Answers) -> Option<String> {
    if let Some(only) = ours.keys().find(|labels| !theirs.contains_key(*labels)) {
        return Some(format!("only the cluster has {only}"));
    }
    for (labels, expected) in theirs {
        let Some(found) = ours.get(labels) else {
            return Some(format!("only Prometheus has {labels}"));
        };
        for (second, value) in expected {
            let near = |other: &f64| {
                other == value || (other.is_nan() && value.is_nan()) || (other - value).abs() <= 1e-12 * value.abs()
            };
            match found.get(second) {
                Some(other) if near(other) => {}
                other => {
                    return Some(format!(
                        "{labels} at {second}: Prometheus {value}, the cluster {other:?}"
                    ));
                }
            }
        }
        if let Some(second) = found.keys().find(|second| !expected.contains_key(*second)) {
            return Some(format!("{labels} at {second}: Prometheus has nothing"));
        }
    }
    None
}

/// What the comparison of each second came to.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) seconds: i64,
    /// Windows of which something had been published when a second was compared, by their beginnings, milliseconds.
    pub(crate) published: BTreeSet<i64>,
    pub(crate) wrong: Vec<String>,
}

/// Compares second after second, as soon as both have it, until it is stopped.
pub(crate) fn compare(
    twin: Arc<Twin>,
    queriers: Vec<Http>,
    reference: Http,
    seed: u64,
    stop: CancellationToken,
) -> JoinHandle<Compared> {
    let mut rng = StdRng::seed_from_u64(seed);
    tokio::spawn(async move {
        let mut compared = Compared::default();
        let mut next = twin.begun_s + 1;
        while !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let querier = &queriers[rng.random_range(0..queriers.len())];
            let (Some(ours), Some(theirs)) = (
                twin.newest(querier, twin.shift_s).await,
                twin.newest(&reference, twin.reference_shift_s).await,
            ) else {
                continue;
            };
            // Of the newest second the other half is still to come.
            let to = (ours.min(theirs) - 1).min(next + PIECE);
            if to < next {
                continue;
            }
            // While something is wrong another querier may be asked, and the answer may be partial.
            while !stop.is_cancelled() {
                let querier = &queriers[rng.random_range(0..queriers.len())];
                match twin.same(querier, &reference, (next, to)).await {
                    Ok(()) => {
                        compared.seconds += to + 1 - next;
                        if twin.pace == Pace::Late {
                            compared.published.extend(twin.published(querier).await);
                        }
                        next = to + 1;
                        break;
                    }
                    Err(Unlike::NotYet(_)) => {}
                    // Each series has a sample of this second, and with it came all before it.
                    Err(Unlike::Differs(why)) => {
                        let there = Twin::not_there(querier, twin.shift_s, (next, to)).await;
                        let why = format!("{why}; of {next} to {to} {there}");
                        println!("{why}");
                        compared.wrong.push(why);
                        next = to + 1;
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        compared
    })
}
