//! `targets` and `scrape_pools`: every scraper asked, their answers put together.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::fanout::Scope;
use crate::form::Form;
use crate::gojson::LabelsObject;
use crate::instant;
use crate::router::Api;
use axum::extract::State;
use futures::future::join_all;
use gnomon_model::LabelsRef;
use gnomon_model::duration::format_duration_ms;
use gnomon_proto::service::TargetsService;
use gnomon_proto::{ServiceError, v1};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long one scraper may take.
const SCRAPER_TIMEOUT: Duration = Duration::from_secs(10);

impl Api {
    /// Asks all scrapers at once, and says who answered what; one that does not answer is a warning.
    pub(super) async fn ask_scrapers<T, F: Future<Output = Result<T, ServiceError>>>(
        &self,
        scope: &Scope,
        ask: impl Fn(Arc<dyn TargetsService>) -> F,
    ) -> Result<Vec<(String, T)>, ApiError> {
        let asked = (self.state.scrapers)().into_iter().map(|(name, scraper)| {
            let answer = tokio::time::timeout(SCRAPER_TIMEOUT, ask(scraper));
            async move { (name, answer.await) }
        });
        let mut answers = Vec::new();
        for (name, answer) in join_all(asked).await {
            match answer {
                Ok(Ok(answer)) => answers.push((name, answer)),
                Ok(Err(error)) => {
                    scope.missing(format!("scraper {name} could not be asked for its targets: {error}"))?
                }
                Err(_) => scope.missing(format!(
                    "scraper {name} could not be asked for its targets: no answer within {SCRAPER_TIMEOUT:?}"
                ))?,
            }
        }
        Ok(answers)
    }

    async fn list_targets(
        &self,
        scope: &Scope,
        request: v1::ListTargetsRequest,
    ) -> Result<v1::ListTargetsResponse, ApiError> {
        let answers = self.ask_scrapers(scope, |scraper| {
            let request = request.clone();
            async move { scraper.list_targets(request).await }
        });
        let mut all = v1::ListTargetsResponse::default();
        let answers = answers.await?;
        let are_several = (self.state.scrapers)().len() > 1;
        for (name, mut answer) in answers {
            if are_several {
                for target in &mut answer.active {
                    target.scraper.clone_from(&name);
                }
            }
            all.active.extend(answer.active);
            all.dropped.extend(answer.dropped);
            for (pool, count) in answer.dropped_counts {
                *all.dropped_counts.entry(pool).or_default() += count;
            }
        }
        all.active.sort_by(|a, b| {
            (&a.scrape_pool, &a.scrape_url, &a.labels).cmp(&(&b.scrape_pool, &b.scrape_url, &b.labels))
        });
        all.dropped
            .sort_by(|a, b| (&a.scrape_pool, &a.discovered_labels).cmp(&(&b.scrape_pool, &b.discovered_labels)));
        // Every scraper discovers all targets and drops the same ones.
        all.dropped.dedup();
        Ok(all)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Discovery<'a> {
    active_targets: Vec<Active<'a>>,
    dropped_targets: Vec<Dropped<'a>>,
    dropped_target_counts: BTreeMap<&'a str, u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Active<'a> {
    discovered_labels: LabelsObject<'a>,
    labels: LabelsObject<'a>,
    scrape_pool: &'a str,
    scrape_url: &'a str,
    global_url: &'a str,
    last_error: &'a str,
    last_scrape: String,
    last_scrape_duration: f64,
    health: &'a str,
    scrape_interval: String,
    scrape_timeout: String,
    /// Not in Prometheus: which of several scrapers has it.
    #[serde(skip_serializing_if = "str::is_empty")]
    scraper: &'a str,
    /// Nor these: scrapes that wait for their shards, and what was given up of them. Left out where there is nothing.
    #[serde(skip_serializing_if = "is_zero")]
    held_scrapes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_since: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    shed_samples: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dropped<'a> {
    discovered_labels: LabelsObject<'a>,
    scrape_pool: &'a str,
}

fn milliseconds(ms: u64) -> String {
    format_duration_ms(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn active(target: &v1::ActiveTarget) -> Active<'_> {
    Active {
        discovered_labels: LabelsObject(LabelsRef::from_canonical(&target.discovered_labels)),
        labels: LabelsObject(LabelsRef::from_canonical(&target.labels)),
        scrape_pool: &target.scrape_pool,
        scrape_url: &target.scrape_url,
        global_url: &target.global_url,
        last_error: &target.last_error,
        last_scrape: instant::or_zero_time(target.last_scrape_ms),
        last_scrape_duration: target.last_scrape_duration_seconds,
        health: &target.health,
        scrape_interval: milliseconds(target.scrape_interval_ms),
        scrape_timeout: milliseconds(target.scrape_timeout_ms),
        scraper: &target.scraper,
        held_scrapes: target.held_scrapes,
        held_since: (target.held_scrapes > 0).then(|| instant::or_zero_time(target.held_since_ms)),
        shed_samples: target.shed_samples,
    }
}

/// `/targets`.
pub(super) async fn targets(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let state = form.get("state").to_lowercase();
    let any = state.is_empty() || state == "any";
    let request = v1::ListTargetsRequest {
        scrape_pool: form.get("scrapePool").to_owned(),
        active: any || state == "active",
        dropped: any || state == "dropped",
        counts: false,
    };
    let scope = api.scope(&form)?;
    let list_dropped = request.dropped;
    let found = api.gather(api.list_targets(&scope, request)).await?;
    let dropped = |target: &'_ v1::DroppedTarget| -> (Vec<u8>, String) {
        (target.discovered_labels.to_vec(), target.scrape_pool.clone())
    };
    let dropped: Vec<_> = found.dropped.iter().map(dropped).collect();
    let shown = Discovery {
        active_targets: found.active.iter().map(active).collect(),
        dropped_targets: dropped
            .iter()
            .map(|(labels, pool)| Dropped {
                discovered_labels: LabelsObject(LabelsRef::from_canonical(labels)),
                scrape_pool: pool,
            })
            .collect(),
        dropped_target_counts: if list_dropped {
            found
                .dropped_counts
                .iter()
                .map(|(pool, count)| (pool.as_str(), *count))
                .collect()
        } else {
            BTreeMap::new()
        },
    };
    Ok(Answer::of(&shown)?.with_warnings(api.said(&scope)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pools {
    scrape_pools: BTreeSet<String>,
}

/// `/scrape_pools`.
pub(super) async fn pools(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let request = v1::ListTargetsRequest {
        scrape_pool: String::new(),
        active: true,
        dropped: true,
        counts: false,
    };
    let scope = api.scope(&form)?;
    let found = api.gather(api.list_targets(&scope, request)).await?;
    let mut scrape_pools: BTreeSet<_> = found.dropped_counts.into_keys().collect();
    scrape_pools.extend(found.active.into_iter().map(|target| target.scrape_pool));
    Ok(Answer::of(&Pools { scrape_pools })?.with_warnings(api.said(&scope)))
}
