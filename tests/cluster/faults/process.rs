//! Processes that are killed, stand still, or are restarted in good order.

use super::Nemesis;
use crate::harness::client;
use crate::members::Cluster;
use crate::targets::ask;
use rand::RngExt;
use std::time::Duration;

impl Nemesis {
    pub(super) async fn kill(&mut self, cluster: &mut Cluster, which: &[usize]) -> String {
        for at in which {
            cluster.kill(*at);
        }
        self.for_a_while(500, 5_000).await;
        for at in which {
            cluster.launch(*at);
        }
        format!("{which:?}")
    }

    /// Past every lease at times: it wakes up as one that has been replaced.
    pub(super) async fn pause(&mut self, cluster: &Cluster, at: usize) -> String {
        cluster.process(at).signal("-STOP");
        let (least_ms, most_ms) = match self.has_time && self.rng.random_bool(0.4) {
            true => (25_000, 35_000),
            false => (2_000, 6_000),
        };
        let began = tokio::time::Instant::now();
        self.for_a_while(least_ms, most_ms).await;
        cluster.process(at).signal("-CONT");
        format!("{at} for {:.1?}", began.elapsed())
    }

    /// A compactor stands still at any moment of its work, at times for longer than its lease of the work lasts.
    pub(super) async fn pause_at_commit(&mut self, cluster: &Cluster, at: usize) -> String {
        let mut all = Duration::ZERO;
        for _ in 0..3 {
            self.for_a_while(100, 2_500).await;
            let began = tokio::time::Instant::now();
            cluster.process(at).signal("-STOP");
            let most_ms = if self.rng.random_bool(0.3) { 30_000 } else { 3_000 };
            self.for_a_while(1_000, most_ms).await;
            cluster.process(at).signal("-CONT");
            all += began.elapsed();
        }
        format!("{at} three times, {all:.1?} in all")
    }

    pub(super) async fn restart_all(&mut self, cluster: &mut Cluster) -> String {
        let all: Vec<usize> = (0..cluster.members.len())
            .filter(|at| !cluster.members[*at].is_gone)
            .collect();
        for at in &all {
            cluster.restart(*at).await;
        }
        format!("{all:?}")
    }

    /// One querier is asked for everything, of which the other has its part, and that is killed meanwhile: the answer is
    /// whole, or says that it is not.
    pub(super) async fn kill_at_query(&mut self, cluster: &mut Cluster, killed: usize) -> String {
        let asked = cluster.of("querier").into_iter().find(|at| *at != killed);
        let Some(asked) = asked else {
            return "there is one querier".into();
        };
        let http = cluster.members[asked].http.clone();
        let (sure, _) = self.ledger.counts();
        let path = format!(
            "/api/v1/query?query={}&time={}",
            client::encode("sum(count_over_time(ledger[14h]))"),
            cluster.clocks.now_ms() as f64 / 1000.0 + 1.0
        );
        let asking = tokio::spawn(async move { ask(&http, &path).await });
        self.for_a_while(0, 150).await;
        cluster.kill(killed);
        let answer = asking.await.expect("it does not panic");
        let (_, maybe) = self.ledger.counts();
        let said = match answer {
            Ok(answer) => {
                let is_whole = answer["warnings"].as_array().is_none_or(Vec::is_empty);
                let text = answer["data"]["result"][0]["value"][1].as_str();
                let count = text.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) as i64;
                assert!(count <= maybe, "querier {asked} has counted {count}, there are {maybe}");
                assert!(
                    count >= sure || !is_whole,
                    "querier {asked} has counted {count} of {sure} without a warning"
                );
                if is_whole { "whole" } else { "partial" }
            }
            Err(_) => "an error",
        };
        self.for_a_while(500, 3_000).await;
        cluster.launch(killed);
        format!("{killed}, the answer of {asked} was {said}")
    }
}
