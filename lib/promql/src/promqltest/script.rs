//! Scripts to commands.

use super::series::{self, SeriesDescription};
use crate::parser::literal::{parse_number, unquote};
use crate::value::QueryResult;
use gnomon_model::duration::parse_signed_duration_ms;
use gnomon_model::re2::Regex;

pub(super) enum Command {
    Clear,
    Load {
        gap_ms: i64,
        series: Vec<String>,
        with_nhcb: bool,
    },
    Eval(Box<Eval>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    At(i64),
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

/// A text that must be given, or something about it.
pub(super) enum Wanted {
    Any,
    Text(String),
    Regex(String),
}

impl Wanted {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Text(wanted) => text == wanted,
            // Upstream searches anywhere in the text.
            Self::Regex(regex) => Regex::anchored(&format!(".*(?:{regex}).*")).is_ok_and(|r| r.is_match(text)),
        }
    }
}

#[derive(Default)]
pub(super) struct Notes {
    wanted: Vec<Wanted>,
    none: bool,
}

impl Notes {
    fn check(&self, kind: &str, got: &[String]) -> Result<(), String> {
        if self.none && !got.is_empty() {
            return Err(format!("unexpected {kind}: {got:?}"));
        }
        for wanted in &self.wanted {
            if !got.iter().any(|text| wanted.matches(text)) {
                let what = match wanted {
                    Wanted::Any => String::new(),
                    Wanted::Text(text) | Wanted::Regex(text) => format!(" {text:?}"),
                };
                return Err(format!("expected {kind}{what}, got {got:?}"));
            }
        }
        let expected = |text: &String| self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted.matches(text));
        match got.iter().find(|text| !expected(text)) {
            Some(text) => Err(format!("unexpected {kind}: {text:?}")),
            None => Ok(()),
        }
    }
}

pub(super) struct Eval {
    pub(super) query: String,
    pub(super) when: When,
    pub(super) ordered: bool,
    pub(super) expected: Vec<SeriesDescription>,
    pub(super) scalar: Option<f64>,
    pub(super) string: Option<String>,
    /// Start and step of an expected range vector.
    pub(super) range_vector: Option<(i64, i64)>,
    fail: Option<Wanted>,
    warnings: Notes,
    infos: Notes,
}

impl Eval {
    pub(super) const fn fails(&self) -> bool {
        self.fail.is_some()
    }

    pub(super) fn expect_error(&self, error: &str) -> Result<(), String> {
        match &self.fail {
            Some(wanted) if wanted.matches(error) => Ok(()),
            Some(Wanted::Text(text) | Wanted::Regex(text)) => Err(format!("expected error {text:?}, got {error:?}")),
            _ => Err(format!("unexpected error: {error}")),
        }
    }

    pub(super) fn check_notes(&self, result: &QueryResult) -> Result<(), String> {
        self.warnings.check("warning", &result.warnings)?;
        self.infos.check("info", &result.infos)
    }
}

/// The commands with their lines; a command that cannot be read is an error in its place.
pub(super) fn parse(text: &str) -> Vec<(usize, Result<Command, String>)> {
    // A comment ends a block, as an empty line does.
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .map(|l| if l.starts_with('#') { "" } else { l })
        .collect();
    let mut commands = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let number = at + 1;
        at += 1;
        if line.is_empty() {
            continue;
        }
        let mut body = Vec::new();
        let word = line.split_whitespace().next().unwrap_or("");
        if word != "clear" {
            while at < lines.len() && !lines[at].is_empty() {
                body.push(lines[at]);
                at += 1;
            }
        }
        let command = match word {
            "clear" => Ok(Command::Clear),
            "load" | "load_with_nhcb" => load(line, &body),
            word if word == "eval" || word.starts_with("eval_") => {
                eval(line, &body).map(|eval| Command::Eval(Box::new(eval)))
            }
            word => Err(format!("unknown command {word:?}")),
        };
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
    let mut words = line.split_whitespace();
    let with_nhcb = words.next() == Some("load_with_nhcb");
    let gap_ms = time(words.next().ok_or("load needs a step")?)?;
    Ok(Command::Load {
        gap_ms,
        series: body.iter().map(|l| (*l).to_owned()).collect(),
        with_nhcb,
    })
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

fn eval(line: &str, body: &[&str]) -> Result<Eval, String> {
    let (command, rest) = word(line);
    let (kind, rest) = word(rest);
    let (when, query) = match kind {
        "instant" => {
            let rest = keyword(rest, "at")?;
            let (at, query) = word(rest);
            (When::At(time(at)?), query)
        }
        "range" => {
            let (start, rest) = word(keyword(rest, "from")?);
            let (end, rest) = word(keyword(rest, "to")?);
            let (step, query) = word(keyword(rest, "step")?);
            (
                When::Range {
                    start_ms: time(start)?,
                    end_ms: time(end)?,
                    step_ms: time(step)?,
                },
                query,
            )
        }
        other => return Err(format!("cannot evaluate {other:?}")),
    };
    let mut eval = Eval {
        query: query.trim().to_owned(),
        when,
        ordered: command == "eval_ordered",
        expected: Vec::new(),
        scalar: None,
        string: None,
        range_vector: None,
        fail: (command == "eval_fail").then_some(Wanted::Any),
        warnings: Notes::default(),
        infos: Notes::default(),
    };
    if command == "eval_warn" {
        eval.warnings.wanted.push(Wanted::Any);
    }
    if command == "eval_info" {
        eval.infos.wanted.push(Wanted::Any);
    }
    for line in body {
        expectation(&mut eval, line)?;
    }
    Ok(eval)
}

fn expectation(eval: &mut Eval, line: &str) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("expect ").or_else(|| line.strip_prefix("expect\t")) {
        return expect(eval, rest.trim());
    }
    for (legacy, regex) in [("expected_fail_message", false), ("expected_fail_regexp", true)] {
        if let Some(text) = line.strip_prefix(legacy) {
            let text = text.trim().to_owned();
            eval.fail = Some(if regex { Wanted::Regex(text) } else { Wanted::Text(text) });
            return Ok(());
        }
    }
    if let Some(value) = parse_signed(line) {
        eval.scalar = Some(value);
        return Ok(());
    }
    eval.expected.push(series::parse(line)?);
    Ok(())
}

fn parse_signed(text: &str) -> Option<f64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    parse_number(digits).map(|value| sign * value)
}

fn expect(eval: &mut Eval, rest: &str) -> Result<(), String> {
    let (what, detail) = word(rest);
    let detail = detail.trim();
    let wanted = || {
        if let Some(text) = detail.strip_prefix("msg:") {
            Wanted::Text(text.trim().to_owned())
        } else if let Some(text) = detail.strip_prefix("regex:") {
            Wanted::Regex(text.trim().to_owned())
        } else {
            Wanted::Any
        }
    };
    match what {
        "fail" => eval.fail = Some(wanted()),
        "warn" => eval.warnings.wanted.push(wanted()),
        "info" => eval.infos.wanted.push(wanted()),
        "no_warn" => eval.warnings.none = true,
        "no_info" => eval.infos.none = true,
        "ordered" => eval.ordered = true,
        "string" => eval.string = Some(unquote(detail).ok_or_else(|| format!("bad string {detail}"))?),
        "range" => {
            let (start, rest) = word(keyword(keyword(detail, "vector")?, "from")?);
            let (_, rest) = word(keyword(rest, "to")?);
            let (step, _) = word(keyword(rest, "step")?);
            eval.range_vector = Some((time(start)?, time(step)?));
        }
        other => return Err(format!("unknown expectation {other:?}")),
    }
    Ok(())
}
