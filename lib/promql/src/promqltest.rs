//! Runs scripts in the language of Prometheus' `promqltest`: series are loaded, queries evaluated, and results,
//! annotations and errors compared. See the `README.md` of `promql/promqltest` in prometheus/prometheus for the language.
//!
//! Meant for tests; it takes its time from the script alone.

mod compare;
mod nhcb;
mod script;
mod series;

use crate::engine::Engine;
use crate::limits::{CancelFlag, Limits};
use crate::parser::{ParseOptions, parse};
use crate::plan::{EvalParams, Plan};
use crate::source::MemorySource;
use crate::value::{QueryResult, Value};
use script::{Command, Eval, When};

/// One command that did not do what its script says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// What came of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `eval` commands that did what the script says.
    pub passed: usize,
    pub failures: Vec<Failure>,
}

/// Runs a whole script as upstream does: with delayed name removal. A failure does not end it.
#[must_use]
pub fn run(text: &str) -> Report {
    run_with(text, true)
}

/// Runs a whole script with or without delayed name removal.
#[must_use]
pub fn run_with(text: &str, delayed_name_removal: bool) -> Report {
    let mut report = Report::default();
    let mut source = MemorySource::new();
    for (line, command) in script::parse(text) {
        let outcome = match command {
            Err(message) => Err(message),
            Ok(Command::Clear) => {
                source.clear();
                continue;
            }
            Ok(Command::Load {
                gap_ms,
                series,
                with_nhcb,
            }) => {
                let loaded = load(&mut source, gap_ms, &series, with_nhcb);
                if loaded.is_ok() {
                    continue;
                }
                loaded
            }
            Ok(Command::Eval(eval)) => check(&source, &eval, delayed_name_removal),
        };
        match outcome {
            Ok(()) => report.passed += 1,
            Err(message) => report.failures.push(Failure { line, message }),
        }
    }
    report
}

fn load(source: &mut MemorySource, gap_ms: i64, lines: &[String], with_nhcb: bool) -> Result<(), String> {
    let mut loaded = Vec::new();
    let mut start_times = Vec::new();
    for line in lines {
        if let Some(found) = series::parse_start_times(line) {
            start_times.push(found?);
            continue;
        }
        let series = series::parse(line)?;
        for (i, value) in series.values.iter().enumerate() {
            let time = gap_ms * i64::try_from(i).map_err(|e| e.to_string())?;
            match value {
                None => {}
                Some(series::SeriesValue::Float(value)) => source.add_float(&series.labels, time, *value),
                Some(series::SeriesValue::Histogram { histogram, .. }) => {
                    source.add_histogram(&series.labels, time, std::sync::Arc::clone(histogram));
                }
            }
        }
        loaded.push(series);
    }
    for series in &start_times {
        for (time, offset_ms) in (0i64..).map(|i| i * gap_ms).zip(&series.offsets_ms) {
            if let Some(offset_ms) = offset_ms {
                source.set_start_time(&series.labels, time, time.saturating_add(*offset_ms));
            }
        }
    }
    source.rehint();
    if with_nhcb {
        nhcb::add(source, gap_ms, &loaded);
    }
    Ok(())
}

fn execute(source: &MemorySource, query: &str, params: EvalParams) -> Result<QueryResult, String> {
    let expr = parse(query, &ParseOptions::everything()).map_err(|e| e.to_string())?;
    let plan = Plan::new(query, &expr, params).map_err(|e| e.to_string())?;
    Engine::execute(&plan, source, &Limits::default(), &CancelFlag::new()).map_err(|e| e.to_string())
}

fn check(source: &MemorySource, eval: &Eval, delayed_name_removal: bool) -> Result<(), String> {
    let params = match eval.when {
        When::At(at_ms) => EvalParams::instant(at_ms),
        When::Range {
            start_ms,
            end_ms,
            step_ms,
        } => EvalParams::range(start_ms, end_ms, step_ms),
    };
    let params = EvalParams {
        delayed_name_removal,
        use_start_times: true,
        ..params
    };
    let result = execute(source, &eval.query, params);
    let result = match result {
        Err(error) => return eval.expect_error(&error),
        Ok(_) if eval.fails() => return Err("expected the query to fail, but it has a result".to_owned()),
        Ok(result) => result,
    };
    eval.check_notes(&result)?;
    compare::compare(eval, &result.value)?;
    check_as_range(source, eval, params, &result.value)
}

/// An instant query must give the same as the middle step of a range query around it.
fn check_as_range(source: &MemorySource, eval: &Eval, params: EvalParams, value: &Value) -> Result<(), String> {
    let (When::At(at_ms), Value::Vector(vector)) = (eval.when, value) else {
        return Ok(());
    };
    // What depends on the query's own range and step differs by its nature.
    let lower = eval.query.to_lowercase();
    if ["range()", "step()", "start()", "end()", "sort", "[:", "limit"]
        .iter()
        .any(|word| lower.contains(word))
    {
        return Ok(());
    }
    let range = EvalParams {
        start_ms: at_ms - 60_000,
        end_ms: at_ms + 60_000,
        step_ms: 60_000,
        ..params
    };
    // Neighbouring steps may fail where this one does not.
    let Ok(QueryResult {
        value: Value::Matrix(matrix),
        ..
    }) = execute(source, &eval.query, range)
    else {
        return Ok(());
    };
    compare::same_step(vector, &matrix, at_ms)
}
