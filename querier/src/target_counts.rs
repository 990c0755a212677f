//! How many targets of the cluster each scraper has: in the metrics of every node, as the lists are at every node's API.

use crate::state::Scrapers;
use futures::future::join_all;
use gnomon_proto::v1::ListTargetsRequest;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two rounds of questions, of which the first begins at a random moment of it; and how long one scraper may take.
const EVERY: Duration = Duration::from_secs(15);
const SCRAPER_TIMEOUT: Duration = Duration::from_secs(10);

/// Scraper, health.
type Counted = BTreeMap<[String; 2], i64>;

/// Gauges of the targets of the whole cluster.
#[derive(Debug)]
pub struct TargetCounts {
    targets: IntGaugeVec,
    silent: IntGauge,
    shown: Counted,
}

impl TargetCounts {
    /// # Errors
    /// Where the registry has the gauges already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let targets = Opts::new(
            "gnomon_cluster_targets",
            "Targets of the whole cluster, by who scrapes them (node id and address); the same at every node, asked for every 15 seconds.",
        );
        let targets = IntGaugeVec::new(targets, &["scraper", "health"])?;
        let silent = IntGauge::new(
            "gnomon_cluster_silent_scrapers",
            "Live scrapers that did not say how many targets they have, or are of a build that does not; theirs are not counted.",
        )?;
        registry.register(Box::new(targets.clone()))?;
        registry.register(Box::new(silent.clone()))?;
        Ok(Self {
            targets,
            silent,
            shown: Counted::new(),
        })
    }

    /// Asks every so often, until `stop`.
    pub async fn follow(mut self, scrapers: Scrapers, stop: CancellationToken) {
        // Not all nodes at once.
        let first = EVERY.mul_f64(rand::random());
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + first, EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let asking = async {
            loop {
                ticks.tick().await;
                self.ask(&scrapers).await;
            }
        };
        stop.run_until_cancelled(asking).await;
    }

    async fn ask(&mut self, scrapers: &Scrapers) {
        let asked = scrapers().into_iter().map(|(name, scraper)| async move {
            let request = ListTargetsRequest {
                counts: true,
                ..ListTargetsRequest::default()
            };
            let answer = tokio::time::timeout(SCRAPER_TIMEOUT, scraper.list_targets(request)).await;
            let counts = answer.ok().and_then(Result::ok).map(|answer| answer.counts);
            (name, counts.filter(|counts| !counts.is_empty()))
        });
        let (mut counted, mut silent) = (Counted::new(), 0);
        for (name, counts) in join_all(asked).await {
            silent += i64::from(counts.is_none());
            for of in counts.into_iter().flatten() {
                counted.insert([name.clone(), of.health], i64::try_from(of.targets).unwrap_or(i64::MAX));
            }
        }
        self.show(counted);
        self.silent.set(silent);
    }

    /// Without a moment at which what stays is not there.
    fn show(&mut self, counted: Counted) {
        for (key, count) in &counted {
            self.targets.with_label_values(&key.each_ref()).set(*count);
        }
        for key in self.shown.keys().filter(|key| !counted.contains_key(*key)) {
            let _ = self.targets.remove_label_values(&key.each_ref());
        }
        self.shown = counted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use gnomon_proto::ServiceError;
    use gnomon_proto::service::TargetsService;
    use gnomon_proto::v1::{ListTargetsResponse, TargetCount, TargetMetadataRequest, TargetMetadataResponse};
    use parking_lot::Mutex;
    use std::sync::Arc;

    /// A scraper with so many targets that are up; none answers nothing.
    struct Has(Arc<Mutex<Option<u64>>>);

    #[async_trait]
    impl TargetsService for Has {
        async fn list_targets(&self, request: ListTargetsRequest) -> Result<ListTargetsResponse, ServiceError> {
            assert!(request.counts && !request.active && !request.dropped);
            let targets = self.0.lock().ok_or_else(|| ServiceError::Internal("away".into()))?;
            let count = TargetCount {
                health: "up".into(),
                targets,
            };
            Ok(ListTargetsResponse {
                counts: vec![count],
                ..ListTargetsResponse::default()
            })
        }

        async fn target_metadata(&self, _: TargetMetadataRequest) -> Result<TargetMetadataResponse, ServiceError> {
            unreachable!("it is not asked for")
        }
    }

    fn text(registry: &Registry) -> Vec<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
        let text = text.expect("text");
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }

    #[tokio::test]
    async fn targets_are_counted_by_scraper_and_those_of_a_silent_one_are_not() {
        let registry = Registry::new();
        let mut counts = TargetCounts::register(&registry).expect("new names");
        let has = [5, 7].map(|n| Arc::new(Mutex::new(Some(n))));
        let listed = has.clone();
        let scrapers: Scrapers = Arc::new(move || {
            let all = listed.iter().enumerate();
            let one = |(n, has): (usize, &Arc<Mutex<_>>)| {
                let service: Arc<dyn TargetsService> = Arc::new(Has(Arc::clone(has)));
                (format!("{n} (host)"), service)
            };
            all.map(one).collect()
        });
        let line =
            |n: usize, count: u64| format!(r#"gnomon_cluster_targets{{health="up",scraper="{n} (host)"}} {count}"#);
        counts.ask(&scrapers).await;
        assert_eq!(
            text(&registry),
            ["gnomon_cluster_silent_scrapers 0".to_owned(), line(0, 5), line(1, 7)]
        );
        *has[0].lock() = None;
        *has[1].lock() = Some(12);
        counts.ask(&scrapers).await;
        assert_eq!(
            text(&registry),
            ["gnomon_cluster_silent_scrapers 1".to_owned(), line(1, 12)]
        );
    }
}
