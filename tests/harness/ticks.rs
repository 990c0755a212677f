//! When targets were scraped: whether one tick of an interval was missed, or made twice.

use super::{Http, client, eventually};
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub const TARGETS: usize = 24;
/// More than twice of what a scrape is late on a machine that does much else: by lateness alone ticks could not be told apart.
pub const INTERVAL_MS: i64 = 3000;
/// Seconds.
pub const TWO_TICKS: f64 = 6.0;

/// A configuration with one address as all the targets of the job `app`.
pub fn config(address: &str) -> String {
    config_of(address, TARGETS, INTERVAL_MS)
}

/// The same with so many targets, scraped so often.
pub fn config_of(address: &str, targets: usize, interval_ms: i64) -> String {
    let mut yaml = format!(
        "global: {{scrape_interval: {interval_ms}ms, scrape_timeout: {interval_ms}ms}}\n\
         scrape_configs: [{{job_name: app, static_configs: [\n"
    );
    for n in 0..targets {
        let _ = writeln!(yaml, "{{targets: ['{address}'], labels: {{n: 'n{n}'}}}},");
    }
    yaml + "]}]\n"
}

fn now() -> f64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64()
}

/// Where in the interval a target is scraped, unless it is late: where the longest time without a scrape ends.
fn usual_offset(times: &[i64]) -> i64 {
    let mut places: Vec<i64> = times.iter().map(|at| at.rem_euclid(INTERVAL_MS)).collect();
    places.sort_unstable();
    let last = places.last().map(|last| last - INTERVAL_MS);
    let before = last.into_iter().chain(places.iter().copied());
    let gaps = places.iter().zip(before).map(|(at, before)| (at - before, *at));
    gaps.max().map_or(0, |(_, at)| at)
}

/// The ticks of those targets, as they can be queried.
pub struct Ticks {
    querier: Http,
}

impl Ticks {
    pub const fn of(querier: Http) -> Self {
        Self { querier }
    }

    /// Every scrape of every target, in milliseconds.
    pub async fn scrapes(&self) -> BTreeMap<String, Vec<i64>> {
        let found = client::series(&self.querier.query("up{job=\"app\"}[10m]", now()).await);
        let times = |samples: Vec<(f64, String)>| samples.iter().map(|(at, _)| (at * 1000.0).round() as i64).collect();
        found
            .into_iter()
            .map(|(labels, samples)| (labels, times(samples)))
            .collect()
    }

    /// Ticks by target, each as often as it was scraped: numbers of intervals.
    pub async fn of_targets(&self) -> BTreeMap<String, Vec<i64>> {
        let of_target = |(target, times): (String, Vec<i64>)| {
            let offset = usual_offset(&times);
            let ticks = times.iter().map(|at| (at - offset).div_euclid(INTERVAL_MS));
            (target, ticks.collect())
        };
        self.scrapes().await.into_iter().map(of_target).collect()
    }

    /// No tick since then (seconds) was missed or doubled.
    pub async fn are_kept(&self, since: f64, what: &str) {
        let since = (since * 1000.0) as i64 / INTERVAL_MS;
        let all = self.of_targets().await;
        assert_eq!(all.len(), TARGETS);
        let mut wrong = Vec::new();
        for (target, mut ticks) in all {
            ticks.retain(|tick| *tick > since);
            assert!(ticks.len() > 1, "{what}: {target} was scraped at ticks {ticks:?}");
            if ticks.windows(2).any(|pair| pair[1] - pair[0] != 1) {
                wrong.push((target, ticks));
            }
        }
        assert!(wrong.is_empty(), "{what}: scraped at ticks {wrong:?}");
    }

    /// Waits until every target was scraped after `after`.
    pub async fn until_scraped(&self, after: f64) {
        eventually("every target to be scraped", async || {
            let newest = client::series(&self.querier.query("timestamp(up{job=\"app\"})", now()).await);
            let later = |samples: &Vec<(f64, String)>| samples[0].1.parse::<f64>().is_ok_and(|at| at > after);
            (newest.len() == TARGETS && newest.values().all(later)).then_some(())
        })
        .await;
    }
}
