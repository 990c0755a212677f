//! The samples: two hours of counters with and without gaps and resets, gauges with not-a-number and stale markers,
//! classic and native histograms.
//!
//! Times are odd: no sample lies on a half or whole second, where queries have their edges, so that left-open ranges
//! (of 3.x) and closed ones (of 2.42) hold the same samples. Values are short binary fractions, so that most sums are
//! exact in whatever order.

use gnomon_model::STALE_NAN;
use gnomon_model::histogram::{FloatHistogram, ResetHint, Span};
use gnomon_proto::histogram::to_wire;
use gnomon_proto::prometheus::{Label, Sample, TimeSeries};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// 2024-01-01T00:00:00Z.
pub(super) const START_MS: i64 = 1_704_067_200_000;
pub(super) const END_MS: i64 = START_MS + 2 * 3_600_000;
const STEP_MS: i64 = 15_000;
/// Of one write: short, since Prometheus takes nothing that is more than an hour behind its newest sample.
const BATCH_MS: i64 = 600_000;

/// The values of one series at its times; nothing where there is a gap.
enum Values {
    Floats(Vec<(i64, f64)>),
    Histograms(Vec<(i64, FloatHistogram)>),
}

struct Made {
    labels: Vec<(String, String)>,
    values: Values,
}

/// Where a series has its samples.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Dense,
    /// With gaps of minutes, some of them begun with a stale marker.
    Gaps,
    /// One sample in a few minutes.
    Sparse,
}

fn times(random: &mut StdRng, shape: Shape) -> Vec<(i64, bool)> {
    let mut times = Vec::new();
    let mut at = START_MS;
    let jitter = random.random_range(1..2_000);
    while at < END_MS {
        let mut time = at + jitter + random.random_range(0..500);
        time += i64::from(time % 500 == 0);
        times.push((time, false));
        at += STEP_MS;
        match shape {
            Shape::Dense => {}
            Shape::Gaps if random.random_ratio(1, 40) => {
                if random.random_bool(0.5) {
                    let mut stale = at + jitter;
                    stale += i64::from(stale % 500 == 0);
                    times.push((stale, true));
                }
                at += STEP_MS * random.random_range(2..40);
            }
            Shape::Gaps => {}
            Shape::Sparse => at += STEP_MS * random.random_range(4..14),
        }
    }
    times
}

/// Counters that begin anew have no gaps; those with gaps are far from zero, by what they increase: how far a rate is
/// extrapolated towards zero after a gap differs between the versions (a row of `docs/compat.md`).
fn counter(random: &mut StdRng, shape: Shape, scale: f64) -> Values {
    let mut value = 50_000.0;
    let points = times(random, shape).into_iter().map(|(time, stale)| {
        if random.random_ratio(1, 150) && shape == Shape::Dense {
            value = 0.0;
        }
        value += f64::from(random.random_range(1..1_000_u16)) * scale;
        (time, if stale { STALE_NAN } else { value })
    });
    Values::Floats(points.collect())
}

fn gauge(random: &mut StdRng, shape: Shape, low: i32, high: i32, odd: bool) -> Values {
    let points = times(random, shape).into_iter().map(|(time, stale)| {
        let value = f64::from(random.random_range(low * 8..high * 8)) / 8.0;
        let value = match random.random_range(0..120) {
            0 if odd => f64::NAN,
            1 if odd => f64::INFINITY,
            _ => value,
        };
        (time, if stale { STALE_NAN } else { value })
    });
    Values::Floats(points.collect())
}

fn up(random: &mut StdRng) -> Values {
    let points = times(random, Shape::Gaps).into_iter();
    let value = |stale| match (stale, random.random_ratio(1, 10)) {
        (true, _) => STALE_NAN,
        (false, true) => 0.0,
        (false, false) => 1.0,
    };
    let mut value = value;
    Values::Floats(points.map(|(time, stale)| (time, value(stale))).collect())
}

/// Cumulative counts of one classic histogram: its buckets, its count and sum, at the same times.
fn classic(random: &mut StdRng, bounds: &[&str]) -> Vec<(String, Values)> {
    let times = times(random, Shape::Dense);
    let mut all: Vec<(String, Vec<(i64, f64)>)> = bounds.iter().map(|le| ((*le).to_owned(), Vec::new())).collect();
    let (mut counts, mut sums) = (Vec::new(), Vec::new());
    let mut seen = vec![5_000_u32; bounds.len()];
    let mut sum = 0.0;
    for (time, _) in times {
        if random.random_ratio(1, 200) {
            seen.fill(0);
            sum = 0.0;
        }
        let mut total = 0;
        for (bucket, (_, points)) in seen.iter_mut().zip(&mut all) {
            *bucket += random.random_range(0..20);
            total += *bucket;
            points.push((time, f64::from(total)));
        }
        sum += f64::from(random.random_range(1..4_000_u16)) / 16.0;
        counts.push((time, f64::from(total)));
        sums.push((time, sum));
    }
    let mut made: Vec<_> = all
        .into_iter()
        .map(|(le, points)| (format!("latency_bucket/{le}"), Values::Floats(points)))
        .collect();
    made.push(("latency_count".into(), Values::Floats(counts)));
    made.push(("latency_sum".into(), Values::Floats(sums)));
    made
}

/// A native histogram that grows, and begins anew now and then, far from zero: 3.x does not extrapolate the rates of
/// histograms beyond it, 2.42 does (a row of `docs/compat.md`).
fn native(random: &mut StdRng, schema: i32) -> Values {
    let begin = FloatHistogram {
        schema,
        zero_threshold: 0.001,
        positive_spans: vec![Span { offset: -3, length: 3 }, Span { offset: 2, length: 4 }],
        positive_buckets: vec![5_000.0; 7],
        negative_spans: vec![Span { offset: 1, length: 2 }],
        negative_buckets: vec![5_000.0; 2],
        count: 45_000.0,
        sum: 1_000.0,
        reset_hint: ResetHint::Unknown,
        ..FloatHistogram::default()
    };
    let mut now = begin.clone();
    let points = times(random, Shape::Dense).into_iter().map(|(time, _)| {
        if random.random_ratio(1, 150) {
            now = begin.clone();
        }
        let mut added = 0.0;
        let mut observe = |bucket: &mut f64| {
            let more = f64::from(random.random_range(0..12_u8));
            *bucket += more;
            added += more;
        };
        now.positive_buckets.iter_mut().for_each(&mut observe);
        now.negative_buckets.iter_mut().for_each(&mut observe);
        observe(&mut now.zero_count);
        now.count += added;
        now.sum += added * 0.75;
        (time, now.clone())
    });
    Values::Histograms(points.collect())
}

fn made(name: &str, labels: &[(&str, String)], values: Values) -> Made {
    let mut all = vec![("__name__".to_owned(), name.to_owned())];
    all.extend(labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    all.sort();
    Made { labels: all, values }
}

fn series(random: &mut StdRng) -> Vec<Made> {
    let mut all = Vec::new();
    for (i, (job, instance)) in [("api", "a:1"), ("api", "b:1"), ("web", "a:1"), ("web", "c:2")]
        .into_iter()
        .enumerate()
    {
        let target = || vec![("job", job.to_owned()), ("instance", instance.to_owned())];
        let with = |name: &'static str, value: &str| {
            let mut labels = target();
            labels.push((name, value.to_owned()));
            labels
        };
        for (path, shape) in [("/", Shape::Dense), ("/a", Shape::Gaps), ("/b", Shape::Sparse)] {
            let scale = 0.125 * (i + 1) as f64;
            all.push(made(
                "requests_total",
                &with("path", path),
                counter(random, shape, scale),
            ));
        }
        all.push(made("errors_total", &target(), counter(random, Shape::Dense, 0.25)));
        for (zone, shape) in [("x", Shape::Dense), ("y", Shape::Gaps)] {
            all.push(made("size", &with("zone", zone), gauge(random, shape, 1, 5_000, false)));
            all.push(made(
                "temperature",
                &with("zone", zone),
                gauge(random, shape, -60, 60, true),
            ));
        }
        all.push(made("up", &target(), up(random)));
        let version = gauge(random, Shape::Dense, 1, 2, false);
        let ones = match version {
            Values::Floats(points) => Values::Floats(points.into_iter().map(|(time, _)| (time, 1.0)).collect()),
            other => other,
        };
        all.push(made("build_info", &with("version", &format!("1.{i}")), ones));
        for (name, values) in classic(random, &["0.1", "0.5", "2.5", "10", "+Inf"]) {
            match name.split_once('/') {
                Some((name, le)) => all.push(made(name, &with("le", le), values)),
                None => all.push(made(&name, &target(), values)),
            }
        }
        all.push(made("duration", &target(), native(random, i as i32)));
    }
    all
}

/// What is to be written, in the order of time.
pub(super) fn batches(seed: u64) -> Vec<Vec<TimeSeries>> {
    let all = series(&mut StdRng::seed_from_u64(seed));
    let starts = (START_MS..END_MS + BATCH_MS).step_by(BATCH_MS as usize);
    let batch = |start: i64| {
        let within = |time: i64| (start..start + BATCH_MS).contains(&time);
        let parts = all.iter().map(|one| {
            let labels = one.labels.iter().map(|(name, value)| Label {
                name: name.clone(),
                value: value.clone(),
            });
            let mut part = TimeSeries {
                labels: labels.collect(),
                ..TimeSeries::default()
            };
            match &one.values {
                Values::Floats(points) => {
                    let points = points.iter().filter(|(time, _)| within(*time));
                    part.samples = points
                        .map(|(time, value)| Sample {
                            value: *value,
                            timestamp: *time,
                        })
                        .collect();
                }
                Values::Histograms(points) => {
                    let points = points.iter().filter(|(time, _)| within(*time));
                    part.histograms = points.map(|(time, h)| to_wire(h, true, *time)).collect();
                }
            }
            part
        });
        parts
            .filter(|part| !part.samples.is_empty() || !part.histograms.is_empty())
            .collect::<Vec<_>>()
    };
    starts.map(batch).filter(|batch| !batch.is_empty()).collect()
}
