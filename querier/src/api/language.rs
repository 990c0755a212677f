//! Reading PromQL and selectors: on a thread of its own where that may take long, which compiling expressions can.

use crate::error::{ApiError, ErrorType};
use crate::form::Form;
use crate::params;
use crate::router::Api;
use crate::run::{Counted, MAX_WAITING};
use gnomon_model::Matcher;
use gnomon_model::re2::is_costly;
use gnomon_promql::ast::Expr;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

impl Api {
    /// Does what may take a moment on another thread, where few do so at the same time.
    ///
    /// # Errors
    /// When there is no place for it in time.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = match Arc::clone(&self.parsers).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => self.wait_to_read().await?,
        };
        // It goes on where nobody waits any more, and keeps its place until it ends.
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        done.await
            .map_err(|panicked| ApiError::new(ErrorType::Internal, format!("reading the query failed: {panicked}")))
    }

    async fn wait_to_read(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if self.metrics.waiting.get() >= MAX_WAITING {
            return Err(ApiError::new(
                ErrorType::Unavailable,
                format!("{MAX_WAITING} queries wait already; try again later"),
            ));
        }
        let _waiting = Counted::new(&self.metrics.waiting);
        let place = Arc::clone(&self.parsers).acquire_owned();
        let timed_out = || ApiError::new(ErrorType::Timeout, "query timed out in query queue");
        // It is never closed.
        let place = tokio::time::timeout(self.state.query.timeout, place).await;
        place.ok().and_then(Result::ok).ok_or_else(timed_out)
    }

    /// Parses a query; the inner error is what is wrong with it, in the words of Prometheus.
    ///
    /// # Errors
    /// As [`Self::aside`].
    pub(crate) async fn parse(&self, query: &str) -> Result<Result<Expr, String>, ApiError> {
        let language = self.state.query.language;
        let parse = move |query: &str| gnomon_promql::parse(query, &language).map_err(|e| e.to_string());
        if !is_costly(query) {
            return Ok(parse(query));
        }
        let query = query.to_owned();
        self.aside(move || parse(&query)).await
    }

    /// The selectors of `match[]`; the inner error is why they were refused.
    ///
    /// # Errors
    /// As [`Self::aside`].
    pub(crate) async fn selectors(&self, form: &Form) -> Result<Result<Vec<Vec<Matcher>>, String>, ApiError> {
        if !form.all("match[]").any(is_costly) {
            return Ok(params::selectors(form));
        }
        let form = form.clone();
        self.aside(move || params::selectors(&form)).await
    }

    /// As [`Self::selectors`], each of which must select something.
    ///
    /// # Errors
    /// As [`Self::aside`].
    pub(crate) async fn matcher_sets(&self, form: &Form) -> Result<Result<Vec<Vec<Matcher>>, String>, ApiError> {
        Ok(self.selectors(form).await?.and_then(params::all_select))
    }
}
