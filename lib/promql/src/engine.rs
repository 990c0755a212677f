//! Evaluation, series by series.

pub(crate) mod arithmetic;

use crate::limits::{CancelFlag, EvalError, Limits};
use crate::plan::Plan;
use crate::source::SeriesSource;
use crate::value::QueryResult;

/// Runs plans.
#[derive(Clone, Copy, Debug)]
pub struct Engine;

impl Engine {
    /// Evaluates a plan against a source.
    ///
    /// # Errors
    /// When the data does not fit the expression, a limit is reached, the query is cancelled or the source fails.
    pub fn execute(
        plan: &Plan,
        _source: &dyn SeriesSource,
        _limits: &Limits,
        cancel: &CancelFlag,
    ) -> Result<QueryResult, EvalError> {
        cancel.check()?;
        Err(EvalError::execution(format!(
            "evaluation of {:?} is not built yet",
            plan.query
        )))
    }
}
