//! Runs scripts in the language of Prometheus' `promqltest`: series are loaded, queries evaluated, and results,
//! annotations and errors compared. See the `README.md` of `promql/promqltest` in prometheus/prometheus for the language.
//!
//! What a script is run on is a [`Subject`]: [`EngineAlone`] is this crate's engine over series in memory; the tests of
//! the whole system bring one that writes samples and asks over HTTP.
//!
//! Meant for tests; it takes its time from the script alone.

mod alone;
mod answer;
mod compare;
mod expect;
mod nhcb;
mod script;
mod series;
mod start_times;
mod variants;

pub use alone::EngineAlone;
pub use answer::{Answer, Answered, Point, PrintedBucket, PrintedHistogram};

use crate::value::SampleValue;
use gnomon_model::Labels;
use script::{Command, Eval};
use series::SeriesDescription;

/// When a query is evaluated; times in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    At(i64),
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

/// One sample that a script loads.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedSample {
    pub timestamp_ms: i64,
    /// When the counter began, where the script says so (`@st`).
    pub start_ms: Option<i64>,
    pub value: SampleValue,
}

/// The samples of one series that one `load` brings, ascending by time.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedSeries {
    pub labels: Labels,
    pub samples: Vec<LoadedSample>,
}

/// What scripts are run on. It begins without series. Errors are texts; of queries, those that Prometheus would give.
pub trait Subject {
    /// Forgets all series.
    ///
    /// # Errors
    /// When that is not possible.
    fn clear(&mut self) -> Result<(), String>;

    /// Adds samples to those that are there.
    ///
    /// # Errors
    /// When they are not taken.
    fn load(&mut self, series: Vec<LoadedSeries>) -> Result<(), String>;

    /// Evaluates a query, with everything that is experimental.
    ///
    /// # Errors
    /// When the query fails.
    fn eval(&mut self, query: &str, when: When) -> Result<Answer, String>;
}

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

/// Runs a whole script on the engine alone, as upstream does: with delayed name removal.
#[must_use]
pub fn run(text: &str) -> Report {
    run_on(text, &mut EngineAlone::new(true))
}

/// Runs a whole script. A failure does not end it; what was loaded before on `subject` is forgotten.
pub fn run_on(text: &str, subject: &mut dyn Subject) -> Report {
    let mut report = Report::default();
    if let Err(message) = subject.clear() {
        report.failures.push(Failure { line: 0, message });
    }
    for (line, command) in script::parse(text) {
        let outcome = match command {
            Err(message) => Err(message),
            Ok(Command::Clear) => subject.clear().map(|()| false),
            Ok(Command::Load { series, with_nhcb }) => load(subject, series, with_nhcb).map(|()| false),
            Ok(Command::Eval(eval)) => check(subject, &eval).map(|()| true),
        };
        match outcome {
            Ok(evaluated) => report.passed += usize::from(evaluated),
            Err(message) => report.failures.push(Failure { line, message }),
        }
    }
    report
}

fn load(subject: &mut dyn Subject, mut series: Vec<LoadedSeries>, with_nhcb: bool) -> Result<(), String> {
    if with_nhcb {
        let converted = nhcb::converted(&series);
        series.extend(converted);
    }
    subject.load(series)
}

/// Evaluates an instant query as it is, and with `@` set to its time at other times; a range query as it is.
fn check(subject: &mut dyn Subject, eval: &Eval) -> Result<(), String> {
    let When::At(at_ms) = eval.when else {
        return evaluate(subject, eval, &eval.query, eval.when).map(|_| ());
    };
    check_instant(subject, eval, &eval.query, at_ms)?;
    for (query, at_ms) in variants::with_at(&eval.expr, at_ms) {
        let tell = |e| format!("as {query} at {at_ms} ms: {e}");
        check_instant(subject, &eval.without_texts(), &query, at_ms).map_err(tell)?;
    }
    Ok(())
}

/// An instant query must give the same as the middle step of a range query around it.
fn check_instant(subject: &mut dyn Subject, eval: &Eval, query: &str, at_ms: i64) -> Result<(), String> {
    let Some(answer) = evaluate(subject, eval, query, When::At(at_ms))? else {
        return Ok(());
    };
    if eval.only_instant || variants::depends_on_range(query) {
        return Ok(());
    }
    let around = When::Range {
        start_ms: at_ms.saturating_sub(60_000),
        end_ms: at_ms.saturating_add(60_000),
        step_ms: 60_000,
    };
    let in_range = subject
        .eval(query, around)
        .map_err(|e| format!("as a range query: {e}"))?;
    if eval.is_ordered() {
        return Ok(());
    }
    let scalar = matches!(answer.value, Answered::Scalar(_));
    let step = compare::step_of(&in_range.value, at_ms, scalar)?;
    compare::compare(eval, &step).map_err(|e| format!("as a range query: {e}"))
}

/// One evaluation that must be as expected; none where it had to fail, and did.
fn evaluate(subject: &mut dyn Subject, eval: &Eval, query: &str, when: When) -> Result<Option<Answer>, String> {
    let answer = match subject.eval(query, when) {
        Err(error) => return eval.expect_error(&error).map(|()| None),
        Ok(_) if eval.fails() => return Err("expected the query to fail, but it has a result".to_owned()),
        Ok(answer) => answer,
    };
    eval.check_notes(&answer)?;
    compare::compare(eval, &answer.value)?;
    Ok(Some(answer))
}

/// The samples of a description, from the epoch on, one every `gap_ms`.
fn samples(description: &SeriesDescription, gap_ms: i64) -> Vec<LoadedSample> {
    let times = (0..).map(|i: i64| i.saturating_mul(gap_ms));
    let given = times.zip(&description.values);
    given
        .filter_map(|(timestamp_ms, value)| {
            let value = value.as_ref()?.to_sample();
            Some(LoadedSample {
                timestamp_ms,
                start_ms: None,
                value,
            })
        })
        .collect()
}
