//! Reading PromQL and selectors: on a thread of its own where that may take long, which compiling expressions can.

use crate::error::{ApiError, ErrorType};
use crate::form::Form;
use crate::params;
use crate::router::Api;
use gnomon_model::Matcher;
use gnomon_model::re2::{is_costly, while_wanted};
use gnomon_promql::ast::Expr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Somebody waits as long as this is there.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Api {
    /// Does what reads a request: where that may be costly on another thread, few of which do so at the same time.
    ///
    /// # Errors
    /// When there is no place for it within `timeout`.
    pub(crate) async fn reading<T: Send + 'static>(
        &self,
        costly: bool,
        timeout: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if !costly {
            return Ok(work());
        }
        let place = tokio::time::timeout(timeout, self.wait_for(&self.parsers)).await;
        let place = place.map_err(|_| ApiError::new(ErrorType::Timeout, "query timed out in query queue"))??;
        // Where nobody waits any more it ends after the expression that it is compiling, and keeps its place until then.
        let waits = Waits(Arc::default());
        let given_up = Arc::clone(&waits.0);
        let done = tokio::task::spawn_blocking(move || {
            let done = while_wanted(given_up, work);
            drop(place);
            done
        });
        done.await
            .map_err(|panicked| ApiError::new(ErrorType::Internal, format!("reading the query failed: {panicked}")))
    }

    /// Parses a query; the inner error is what is wrong with it, in the words of Prometheus.
    ///
    /// # Errors
    /// As [`Self::reading`].
    pub(crate) async fn parse(&self, query: &str, timeout: Duration) -> Result<Result<Expr, String>, ApiError> {
        let costly = is_costly(query);
        let (language, query) = (self.state.query.language, query.to_owned());
        let parse = move || gnomon_promql::parse(&query, &language).map_err(|e| e.to_string());
        self.reading(costly, timeout, parse).await
    }

    /// The selectors of `match[]`; the inner error is why they were refused.
    ///
    /// # Errors
    /// As [`Self::reading`].
    pub(crate) async fn selectors(&self, form: &Form) -> Result<Result<Vec<Vec<Matcher>>, String>, ApiError> {
        let form = form.clone();
        let costly = form.all("match[]").any(is_costly);
        let timeout = self.state.query.timeout;
        self.reading(costly, timeout, move || params::selectors(&form)).await
    }

    /// As [`Self::selectors`], each of which must select something.
    ///
    /// # Errors
    /// As [`Self::reading`].
    pub(crate) async fn matcher_sets(&self, form: &Form) -> Result<Result<Vec<Vec<Matcher>>, String>, ApiError> {
        Ok(self.selectors(form).await?.and_then(params::all_select))
    }
}
