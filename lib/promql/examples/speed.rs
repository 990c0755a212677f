//! How long queries take over series in memory: `cargo run --release -p gnomon-promql --example speed [series]`.
//!
//! Eight hours of counters, a sample every 15 s, a step a minute; the time without what fetching from storage costs.

use gnomon_model::{Clock, Labels, METRIC_NAME, SystemClock};
use gnomon_promql::{CancelFlag, Engine, EvalParams, Limits, MemorySource, ParseOptions, Plan, parse};

const HOURS_MS: i64 = 8 * 3_600_000;

const QUERIES: &[&str] = &[
    "requests_total",
    "sum by (job) (rate(requests_total[5m]))",
    "rate(requests_total[1h])",
    "max_over_time(requests_total[1h])",
    "topk(5, rate(requests_total[5m]))",
    "sum by (job) (rate(requests_total[5m])) / on (job) sum by (job) (requests_total)",
    "requests_total / on (job, instance) group_left requests_total",
    "histogram_quantile(0.9, sum by (le) (rate(requests_total[5m])))",
    "quantile by (job) (0.9, requests_total)",
    "max_over_time(sum by (job) (rate(requests_total[5m]))[1h:1m])",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(2000), |text| text.parse())?;
    let mut source = MemorySource::new();
    for n in 0..count {
        let labels = Labels::from_pairs([
            (METRIC_NAME, "requests_total"),
            ("job", &format!("job-{}", n % 10)),
            ("instance", &format!("10.0.{}.{}:9100", n / 256, n % 256)),
            ("le", &format!("{}", n % 12)),
            ("zone", "a-zone-of-some-length"),
        ]);
        for i in 0..HOURS_MS / 15_000 {
            source.add_float(&labels, i * 15_000, (i * 7 % 100_000) as f64);
        }
    }
    let clock = SystemClock::new();
    let params = EvalParams::range(3_600_000, HOURS_MS, 60_000);
    for query in QUERIES {
        let expr = parse(query, &ParseOptions::default())?;
        let plan = Plan::new(query, &expr, params)?;
        let start = clock.monotonic();
        let result = Engine::execute(&plan, &source, &Limits::default(), &CancelFlag::new())?;
        let took = clock.monotonic().saturating_sub(start);
        println!(
            "{:>9.1} ms  {:>10} samples  {query}",
            took.as_secs_f64() * 1000.0,
            result.stats.samples_read
        );
    }
    Ok(())
}
