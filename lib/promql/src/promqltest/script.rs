//! Scripts to commands.

use super::expect::{Expectations, Wanted};
use super::series::{self, SeriesDescription};
use super::start_times::StartTimes;
use super::{Answer, LoadedSeries, When};
use crate::ast::Expr;
use crate::parser::literal::{parse_number, unquote};
use crate::parser::{ParseOptions, parse as parse_query};
use gnomon_model::duration::parse_signed_duration_ms;

pub(super) enum Command {
    Clear,
    Load { series: Vec<LoadedSeries>, with_nhcb: bool },
    Eval(Box<Eval>),
}

#[derive(Clone)]
pub(super) struct Eval {
    pub(super) query: String,
    pub(super) expr: Expr,
    pub(super) when: When,
    /// In the order of the script, each label set once.
    pub(super) expected: Vec<SeriesDescription>,
    pub(super) scalar: Option<f64>,
    /// Of a query whose value is a string.
    pub(super) string: String,
    /// Start, end and step of an expected range vector.
    pub(super) range_vector: Option<(i64, i64, i64)>,
    /// Not to be evaluated as a range query too.
    pub(super) only_instant: bool,
    expectations: Expectations,
}

impl Eval {
    pub(super) const fn fails(&self) -> bool {
        self.expectations.fails()
    }

    pub(super) const fn is_ordered(&self) -> bool {
        self.expectations.is_ordered()
    }

    pub(super) fn expect_error(&self, error: &str) -> Result<(), String> {
        self.expectations.expect_error(error)
    }

    pub(super) fn check_notes(&self, answer: &Answer) -> Result<(), String> {
        self.expectations.check_notes(answer)
    }

    /// The same but for what the texts of annotations say.
    pub(super) fn without_texts(&self) -> Self {
        Self {
            expectations: self.expectations.without_texts(),
            ..self.clone()
        }
    }

    fn expect_series(&mut self, description: SeriesDescription) {
        self.expected.retain(|other| other.labels != description.labels);
        self.expected.push(description);
    }
}

/// The commands with their lines; a command that cannot be read is an error in its place.
pub(super) fn parse(text: &str) -> Vec<(usize, Result<Command, String>)> {
    // A comment ends a block, as an empty line does.
    let lines: Vec<&str> = text
        .split('\n')
        .map(str::trim)
        .map(|l| if l.starts_with('#') { "" } else { l })
        .collect();
    let mut commands = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (line, number) = (lines[at], at + 1);
        at += 1;
        if line.is_empty() {
            continue;
        }
        let name = word(line).0.to_ascii_lowercase();
        if name == "clear" {
            commands.push((number, Ok(Command::Clear)));
            continue;
        }
        let length = lines[at..].iter().take_while(|l| !l.is_empty()).count();
        let body = &lines[at..at + length];
        let (taken, command) = if name.starts_with("load") {
            (length, load(line, body))
        } else if name.starts_with("eval") {
            let (taken, eval) = eval(line, body);
            (taken, eval.map(|eval| Command::Eval(Box::new(eval))))
        } else {
            (length, Err(format!("unknown command {name:?}")))
        };
        at += taken;
        commands.push((number, command));
    }
    commands
}

fn time(text: &str) -> Result<i64, String> {
    if let Some(seconds) = text.parse::<f64>().ok().filter(|s| s.is_finite()) {
        return Ok((seconds * 1000.0) as i64);
    }
    parse_signed_duration_ms(text).map_err(|e| e.to_string())
}

fn load(line: &str, body: &[&str]) -> Result<Command, String> {
    let (command, gap) = word(line);
    let with_nhcb = match command {
        "load" => false,
        "load_with_nhcb" => true,
        other => return Err(format!("unknown command {other:?}: load and load_with_nhcb are known")),
    };
    let gap_ms = time(gap.trim()).map_err(|e| format!("bad step {gap:?}: {e}"))?;
    let mut starts = StartTimes::default();
    let mut series: Vec<LoadedSeries> = Vec::new();
    for line in body {
        if starts.take(line)? {
            continue;
        }
        let description = series::parse(line)?;
        let samples = starts.give(&description, super::samples(&description, gap_ms), gap_ms)?;
        // A series that is described twice is as it was described last.
        series.retain(|other| other.labels != description.labels);
        series.push(LoadedSeries {
            labels: description.labels,
            samples,
        });
    }
    starts.finish()?;
    Ok(Command::Load { series, with_nhcb })
}

/// The first word of a text and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()))
}

fn keyword<'t>(text: &'t str, wanted: &str) -> Result<&'t str, String> {
    let (found, rest) = word(text);
    if found == wanted {
        Ok(rest)
    } else {
        Err(format!("expected {wanted:?}, got {found:?}"))
    }
}

/// Takes `from A to B step C`.
fn range(text: &str) -> Result<((i64, i64, i64), &str), String> {
    let (start, rest) = word(keyword(text, "from")?);
    let (end, rest) = word(keyword(rest, "to")?);
    let (step, rest) = word(keyword(rest, "step")?);
    let (start, end, step) = (time(start)?, time(end)?, time(step)?);
    if end < start {
        return Err("the end is before the start".to_owned());
    }
    Ok(((start, end, step), rest))
}

/// The time and the query of an `eval` line.
fn asked(line: &str) -> Result<(When, &str), String> {
    let (command, rest) = word(line);
    let (kind, rest) = word(rest);
    let (when, query) = match kind {
        "instant" => {
            let (at, query) = word(keyword(rest, "at")?);
            (When::At(time(at)?), query)
        }
        "range" if command != "eval_ordered" => {
            let ((start_ms, end_ms, step_ms), query) = range(rest)?;
            let when = When::Range {
                start_ms,
                end_ms,
                step_ms,
            };
            (when, query)
        }
        other => return Err(format!("{command} cannot evaluate {other:?}")),
    };
    Ok((when, query.trim()))
}

/// The command, and how many lines of the body belong to it.
fn eval(line: &str, body: &[&str]) -> (usize, Result<Eval, String>) {
    let mut eval = match begun(line) {
        Ok(eval) => eval,
        Err(error) => return (body.len(), Err(error)),
    };
    for (i, line) in body.iter().enumerate() {
        match expectation(&mut eval, line) {
            Ok(true) => {}
            // Whatever follows is a command again.
            Ok(false) => return (i + 1, Ok(eval)),
            Err(error) => return (body.len(), Err(format!("{line:?}: {error}"))),
        }
    }
    (body.len(), Ok(eval))
}

fn begun(line: &str) -> Result<Eval, String> {
    let (when, query) = asked(line)?;
    let command = word(line).0;
    Ok(Eval {
        expr: parse_query(query, &ParseOptions::everything()).map_err(|e| e.to_string())?,
        query: query.to_owned(),
        when,
        expected: Vec::new(),
        scalar: None,
        string: String::new(),
        range_vector: None,
        only_instant: false,
        expectations: Expectations::of_command(command).ok_or_else(|| format!("unknown command {command:?}"))?,
    })
}

/// Takes one line; whether more may follow.
fn expectation(eval: &mut Eval, line: &str) -> Result<bool, String> {
    for (legacy, pattern) in [("expected_fail_message", false), ("expected_fail_regexp", true)] {
        if let Some(text) = line.strip_prefix(legacy).filter(|_| eval.fails()) {
            let text = text.trim();
            eval.expectations.fail_with(if pattern {
                Wanted::pattern(text)?
            } else {
                Wanted::Text(text.to_owned())
            });
            return Ok(false);
        }
    }
    if let Some(rest) = line.strip_prefix("expect range vector") {
        let (given, _) = range(rest)?;
        eval.range_vector = Some(given);
        // The vector ends where the query is evaluated.
        eval.when = When::At(given.1);
        eval.only_instant = true;
        return Ok(true);
    }
    if let Some(text) = line.strip_prefix("expect string") {
        eval.string = unquote(text.trim()).ok_or_else(|| format!("bad string {text:?}"))?;
        eval.only_instant = true;
        return Ok(true);
    }
    if let ("expect", rest) = word(line) {
        eval.expectations.add(rest.trim())?;
        return Ok(true);
    }
    if let Some(value) = parse_signed(line) {
        eval.scalar = Some(value);
        return Ok(false);
    }
    let description = series::parse(line)?;
    let values = description.values.len();
    if matches!(eval.when, When::At(_)) && eval.range_vector.is_none() && values != 1 {
        return Err(format!(
            "{values} values for an instant: \"expect range vector from A to B step S\" allows several"
        ));
    }
    eval.expect_series(description);
    Ok(true)
}

fn parse_signed(text: &str) -> Option<f64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    parse_number(digits).map(|value| sign * value)
}
