//! Reading PromQL: on a thread of its own where that may take long.

use crate::router::Api;
use gnomon_model::re2::is_costly;
use gnomon_promql::ast::Expr;

impl Api {
    /// Parses a query.
    ///
    /// # Errors
    /// In the words of Prometheus.
    pub(crate) async fn parse(&self, query: &str) -> Result<Expr, String> {
        let language = self.state.query.language;
        if !is_costly(query) {
            return gnomon_promql::parse(query, &language).map_err(|e| e.to_string());
        }
        let _one_of_few = self.parsers.acquire().await;
        let query = query.to_owned();
        let parsed = tokio::task::spawn_blocking(move || gnomon_promql::parse(&query, &language)).await;
        parsed
            .map_err(|panicked| format!("the parser failed: {panicked}"))?
            .map_err(|e| e.to_string())
    }
}
