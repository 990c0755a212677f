//! A generated fleet: pods of many deployments with the labels that Kubernetes gives them, some of which are replaced
//! while the others go on.

use crate::data::{Samples, Series, encoded};
use crate::side_by_side::course::{Course, counter, gauge, mixed};
use std::ops::Range;

const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const HANDLERS: [&str; 3] = ["/", "/api/v1/items", "/login"];
const CODES: [&str; 4] = ["200", "302", "404", "500"];
const BOUNDS: [&str; 12] = [
    "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf",
];

/// A text of letters and digits, as random suffixes of names are.
fn suffix(seed: u64, len: u32) -> String {
    let letter = |at| char::from(LETTERS[(mixed(seed ^ u64::from(at) << 40) % LETTERS.len() as u64) as usize]);
    (0..len).map(letter).collect()
}

struct Pod {
    labels: Vec<(&'static str, String)>,
    alive: Range<usize>,
    seed: u64,
}

/// The pods of a deployment; where it is rolled out anew, others take their places one after the other.
fn deployment(number: u64, rounds: usize, pods: &mut Vec<Pod>) {
    let seed = mixed(number + 1);
    let namespace = format!("team-{:02}", seed % 23);
    let name = format!(
        "{}-{}",
        ["api", "worker", "web", "cache"][number as usize % 4],
        suffix(seed, 5)
    );
    let replicas = 2 + seed % 24;
    // A fifth of them.
    let rollout = number.is_multiple_of(5).then(|| (seed >> 20) as usize % rounds.max(1));
    for replica in 0..replicas {
        let since = rollout.map_or(rounds, |begin| (begin + replica as usize).min(rounds));
        for (life, alive) in [0..since, since..rounds].into_iter().enumerate() {
            if alive.is_empty() {
                continue;
            }
            let seed = mixed(seed ^ replica << 8 ^ life as u64);
            let pod = format!(
                "{name}-{:010x}-{}",
                mixed(number << 3 | life as u64) >> 24,
                suffix(seed, 5)
            );
            let (a, b) = (mixed(seed ^ 1), mixed(seed ^ 2));
            let uid = format!(
                "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
                a >> 32,
                a & 0xffff,
                a >> 16 & 0xfff,
                b & 0xfff,
                b >> 16
            );
            let labels = vec![
                ("namespace", namespace.clone()),
                ("pod", pod),
                ("uid", uid),
                (
                    "node",
                    format!("ip-10-0-{}-{}.eu-west-1.compute.internal", seed % 4, seed >> 8 & 31),
                ),
                (
                    "instance",
                    format!("10.{}.{}.{}:8080", a & 3, a >> 8 & 255, a >> 24 & 255),
                ),
                ("job", format!("{namespace}/{name}")),
                ("container", name.clone()),
                ("endpoint", "http-metrics".to_owned()),
            ];
            pods.push(Pod { labels, alive, seed });
        }
    }
}

struct Fleet {
    series: Vec<Series>,
    step_ms: i64,
}

impl Fleet {
    fn add(&mut self, pod: &Pod, name: &str, more: &[(&str, &str)], course: Course, jitter_ms: u64) {
        let mut pairs = vec![("__name__", name)];
        pairs.extend(pod.labels.iter().map(|(n, v)| (*n, v.as_str())));
        pairs.extend_from_slice(more);
        self.series.push(Series {
            labels: encoded(&pairs),
            samples: Samples::Made {
                course,
                // A histogram's buckets count the same events.
                seed: pod.seed ^ name.len() as u64,
                alive: pod.alive.clone(),
                offset_ms: self.step_ms / 2 + (pod.seed % (self.step_ms as u64 / 2 - 1)) as i64,
                jitter_ms,
            },
        });
    }

    fn pod(&mut self, pod: &Pod) {
        self.add(pod, "up", &[], Course::Constant(1.0), 0);
        self.add(pod, "process_cpu_seconds_total", &[], counter(40, 0.01), 0);
        self.add(pod, "process_resident_memory_bytes", &[], gauge(2e8, 4e7, 4096.0), 0);
        self.add(pod, "process_open_fds", &[], gauge(120.0, 40.0, 1.0), 0);
        self.add(
            pod,
            "process_start_time_seconds",
            &[],
            Course::Constant(1.7e9 + (pod.seed % 1_000_000) as f64),
            0,
        );
        for n in 0..20 {
            let course = if n % 4 == 0 {
                Course::Constant(f64::from(n))
            } else {
                gauge(5e7, 2e7, 8.0)
            };
            self.add(pod, &format!("go_memstats_{n:02}_bytes"), &[], course, 0);
        }
        for (h, handler) in HANDLERS.into_iter().enumerate() {
            let per_step = 3 + 11 * h as u64;
            for (c, code) in CODES.into_iter().enumerate() {
                let course = Course::Counter {
                    per_step,
                    share: [0.9, 0.07, 0.025, 0.005][c],
                    unit: 1.0,
                };
                let labels = [("code", code), ("handler", handler), ("method", "GET")];
                self.add(pod, "http_requests_total", &labels, course, 0);
            }
            for (b, bound) in BOUNDS.into_iter().enumerate() {
                let course = Course::Counter {
                    per_step,
                    share: (b + 1) as f64 / BOUNDS.len() as f64,
                    unit: 1.0,
                };
                let labels = [("handler", handler), ("le", bound)];
                self.add(pod, "http_request_duration_seconds_bucket", &labels, course, 0);
            }
            let labels = [("handler", handler)];
            self.add(
                pod,
                "http_request_duration_seconds_sum",
                &labels,
                counter(per_step, 0.037),
                0,
            );
            self.add(
                pod,
                "http_request_duration_seconds_count",
                &labels,
                counter(per_step, 1.0),
                0,
            );
        }
        // What the container's host says of it carries its own time, up to ten seconds before the scrape's.
        for n in 0..10 {
            let name = format!("container_resource_{n:02}_total");
            self.add(pod, &name, &[], counter(7 + 40 * n, 1.0), 10_000);
        }
    }
}

/// About `series` series of `rounds` rounds.
pub(crate) fn made(series: usize, rounds: usize, step_ms: i64) -> Vec<Series> {
    let mut fleet = Fleet {
        series: Vec::new(),
        step_ms,
    };
    let mut number = 0;
    while fleet.series.len() < series {
        let mut pods = Vec::new();
        deployment(number, rounds, &mut pods);
        for pod in &pods {
            fleet.pod(pod);
        }
        number += 1;
    }
    fleet.series.truncate(series);
    fleet.series
}
