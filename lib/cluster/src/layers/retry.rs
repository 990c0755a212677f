//! Retrying typed calls, within a budget that all calls of a client share.

use super::CallMetrics;
use futures::future::BoxFuture;
use gnomon_proto::ServiceError;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;
use tower::retry::budget::{Budget, TpsBudget};
use tower::retry::{Policy, Retry};

const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// What the calls of one client share.
#[derive(Clone)]
pub struct Retries {
    budget: Arc<TpsBudget>,
    max_attempts: u32,
    /// Whether one that is busy is asked again.
    busy_too: bool,
    metrics: CallMetrics,
}

impl Retries {
    /// Up to `max_attempts` per call; retries are a fifth of all calls at most, and ten a second always.
    #[must_use]
    pub fn new(max_attempts: u32, metrics: CallMetrics) -> Self {
        Self {
            budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 10, 0.2)),
            max_attempts,
            busy_too: true,
            metrics,
        }
    }

    /// The same budget, for calls that other nodes can answer as well: who is busy is not asked again.
    #[must_use]
    pub fn but_of_busy(&self) -> Self {
        Self {
            busy_too: false,
            ..self.clone()
        }
    }

    /// Makes the call, and again where it may help. Only for calls that are harmless to repeat.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn call<Request, Response, Call, Calling>(
        &self,
        method: &'static str,
        request: Request,
        call: Call,
    ) -> Result<Response, ServiceError>
    where
        Request: Clone,
        Call: FnMut(Request) -> Calling + Clone,
        Calling: Future<Output = Result<Response, ServiceError>>,
    {
        let policy = RetryPolicy {
            retries: self.clone(),
            method,
            attempts_left: self.max_attempts.saturating_sub(1),
            backoff: FIRST_BACKOFF,
        };
        Retry::new(policy, tower::service_fn(call)).oneshot(request).await
    }
}

/// The decision after each attempt of one call.
#[derive(Clone)]
pub struct RetryPolicy {
    retries: Retries,
    method: &'static str,
    attempts_left: u32,
    backoff: Duration,
}

impl<Request: Clone, Response> Policy<Request, Response, ServiceError> for RetryPolicy {
    type Future = BoxFuture<'static, ()>;

    fn retry(&mut self, _: &mut Request, result: &mut Result<Response, ServiceError>) -> Option<Self::Future> {
        let is_busy = matches!(result, Err(ServiceError::Busy(_)));
        if is_busy && !self.retries.busy_too {
            return None;
        }
        let passing = is_busy || matches!(result, Err(ServiceError::Unavailable(_) | ServiceError::Unknown(_)));
        if !passing {
            self.retries.budget.deposit();
            return None;
        }
        if self.attempts_left == 0 || !self.retries.budget.withdraw() {
            return None;
        }
        self.attempts_left -= 1;
        self.retries.metrics.retries.with_label_values(&[self.method]).inc();
        let wait = self.backoff.mul_f64(rand::random_range(0.5..1.0));
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        Some(Box::pin(tokio::time::sleep(wait)))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn retries(max_attempts: u32) -> Retries {
        let metrics = CallMetrics::register(&prometheus::Registry::new()).unwrap();
        Retries::new(max_attempts, metrics)
    }

    async fn attempts(retries: &Retries, fails: u32, error: ServiceError) -> (u32, bool) {
        let made = Arc::new(AtomicU32::new(0));
        let counter = made.clone();
        let call = move |(): ()| {
            let failed = counter.fetch_add(1, Ordering::Relaxed) < fails;
            let error = error.clone();
            async move { if failed { Err(error) } else { Ok(()) } }
        };
        let ok = retries.call("test", (), call).await.is_ok();
        (made.load(Ordering::Relaxed), ok)
    }

    #[tokio::test(start_paused = true)]
    async fn passing_errors_are_tried_again_and_others_are_not() {
        let r = retries(3);
        for passing in [ServiceError::Unavailable, ServiceError::Busy] {
            let error = || passing("starting".into());
            assert_eq!(attempts(&r, 2, error()).await, (3, true));
            assert_eq!(attempts(&r, 9, error()).await, (3, false));
        }
        let elsewhere = r.but_of_busy();
        assert_eq!(
            attempts(&elsewhere, 1, ServiceError::Busy("x".into())).await,
            (1, false)
        );
        let starting = || ServiceError::Unavailable("starting".into());
        assert_eq!(attempts(&elsewhere, 2, starting()).await, (3, true));
        assert_eq!(attempts(&r, 1, ServiceError::Invalid("x".into())).await, (1, false));
        assert_eq!(
            attempts(&r, 1, ServiceError::StaleView { revision: 1 }).await,
            (1, false)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_stops_a_storm() {
        let r = retries(3);
        let mut made = 0;
        for _ in 0..200 {
            made += attempts(&r, 99, ServiceError::Unavailable("down".into())).await.0;
        }
        assert!(
            (201..450).contains(&made),
            "{made} attempts of 200 calls, 600 without a budget"
        );
    }
}
