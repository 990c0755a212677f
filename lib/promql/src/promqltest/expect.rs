//! What a script expects of a query beside its value: errors, annotations, order.

use super::answer::Answer;
use gnomon_model::re2::Regex;

/// A text that must be given, or something about it.
#[derive(Clone)]
pub(super) enum Wanted {
    Any,
    Text(String),
    /// Found anywhere in the text; as it was written, and made.
    Pattern(String, Regex),
}

impl Wanted {
    /// Reads a pattern.
    pub(super) fn pattern(text: &str) -> Result<Self, String> {
        let searching = Regex::anchored(&format!("(?s:.*)(?:{text})(?s:.*)"));
        let regex = searching.map_err(|e| format!("invalid regex {text}: {e}"))?;
        Ok(Self::Pattern(text.to_owned(), regex))
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Text(wanted) => text == wanted,
            Self::Pattern(_, regex) => regex.is_match(text),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Any => String::new(),
            Self::Text(text) | Self::Pattern(text, _) => format!(" {text:?}"),
        }
    }
}

/// Annotations of one kind.
#[derive(Clone, Default)]
pub(super) struct Notes {
    wanted: Vec<Wanted>,
    none: bool,
    /// `eval_warn`, `eval_info`: one at least, whatever it says.
    some: bool,
}

impl Notes {
    fn check(&self, kind: &str, got: &[String]) -> Result<(), String> {
        if self.none && !got.is_empty() {
            return Err(format!("unexpected {kind}: {got:?}"));
        }
        if self.some && got.is_empty() {
            return Err(format!("expected a {kind}, got none"));
        }
        for wanted in &self.wanted {
            if !got.iter().any(|text| wanted.matches(text)) {
                return Err(format!("expected {kind}{}, got {got:?}", wanted.shown()));
            }
        }
        let expected = |text: &String| self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted.matches(text));
        match got.iter().find(|text| !expected(text)) {
            Some(text) => Err(format!("unexpected {kind}: {text:?}")),
            None => Ok(()),
        }
    }

    /// The same but for what the texts say.
    fn without_texts(&self) -> Self {
        Self {
            wanted: Vec::new(),
            none: self.none,
            some: self.some || !self.wanted.is_empty(),
        }
    }
}

/// All that is expected of a query but its value.
#[derive(Clone, Default)]
pub(super) struct Expectations {
    fail: Vec<Wanted>,
    warnings: Notes,
    infos: Notes,
    ordered: bool,
}

impl Expectations {
    /// Of `eval_fail`, `eval_warn`, `eval_info`, `eval_ordered`; of `eval` none.
    pub(super) fn of_command(command: &str) -> Option<Self> {
        let mut of = Self::default();
        match command {
            "eval" => {}
            "eval_fail" => of.fail.push(Wanted::Any),
            "eval_warn" => of.warnings.some = true,
            "eval_info" => of.infos.some = true,
            "eval_ordered" => of.ordered = true,
            _ => return None,
        }
        Some(of)
    }

    /// Of `expected_fail_message` and `expected_fail_regexp`, which replace what `eval_fail` said.
    pub(super) fn fail_with(&mut self, wanted: Wanted) {
        self.fail = vec![wanted];
    }

    /// Takes what stands after `expect`.
    pub(super) fn add(&mut self, line: &str) -> Result<(), String> {
        let (what, detail) = line.split_at(line.find(char::is_whitespace).unwrap_or(line.len()));
        let detail = detail.trim();
        let wanted = if detail.is_empty() {
            Wanted::Any
        } else {
            match detail.split_once(':') {
                Some(("msg", text)) if !text.is_empty() => Wanted::Text(text.trim().to_owned()),
                Some(("regex", text)) if !text.is_empty() => Wanted::pattern(text.trim())?,
                _ => {
                    return Err(format!(
                        "expected \"msg: …\" or \"regex: …\" after {what:?}, got {detail:?}"
                    ));
                }
            }
        };
        match what {
            "fail" => self.fail.push(wanted),
            "warn" => self.warnings.wanted.push(wanted),
            "info" => self.infos.wanted.push(wanted),
            "no_warn" => self.warnings.none = true,
            "no_info" => self.infos.none = true,
            "ordered" => self.ordered = true,
            other => return Err(format!("unknown expectation {other:?}")),
        }
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        for (kind, notes) in [("warn", &self.warnings), ("info", &self.infos)] {
            if notes.none && !notes.wanted.is_empty() {
                return Err(format!("{kind} and no_{kind} cannot be expected together"));
            }
        }
        if self.fail.len() > 1 {
            return Err("one failure can be expected, not several".to_owned());
        }
        Ok(())
    }

    pub(super) const fn fails(&self) -> bool {
        !self.fail.is_empty()
    }

    pub(super) const fn is_ordered(&self) -> bool {
        self.ordered
    }

    pub(super) fn expect_error(&self, error: &str) -> Result<(), String> {
        match self.fail.first() {
            None => Err(format!("unexpected error: {error}")),
            Some(wanted) if wanted.matches(error) => Ok(()),
            Some(wanted) => Err(format!("expected error{}, got {error:?}", wanted.shown())),
        }
    }

    pub(super) fn check_notes(&self, answer: &Answer) -> Result<(), String> {
        self.warnings.check("warning", &answer.warnings)?;
        self.infos.check("info", &answer.infos)
    }

    /// The same but for what the texts of annotations say: their positions are another query's.
    pub(super) fn without_texts(&self) -> Self {
        Self {
            warnings: self.warnings.without_texts(),
            infos: self.infos.without_texts(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectations(lines: &[&str]) -> Result<Expectations, String> {
        let mut all = Expectations::default();
        for line in lines {
            all.add(line)?;
        }
        Ok(all)
    }

    fn said(warnings: &[&str]) -> Answer {
        Answer {
            value: super::super::Answered::Scalar(0.0),
            warnings: warnings.iter().map(|w| (*w).to_owned()).collect(),
            infos: Vec::new(),
        }
    }

    #[test]
    fn every_annotation_and_every_expectation_has_its_match() {
        let all = expectations(&["warn msg: first", "warn regex: ^se.+d"]).unwrap();
        assert_eq!(all.check_notes(&said(&["first", "second one"])), Ok(()));
        assert!(all.check_notes(&said(&["first"])).is_err());
        assert!(all.check_notes(&said(&["first", "second", "third"])).is_err());
        assert!(
            expectations(&["no_warn"])
                .unwrap()
                .check_notes(&said(&["any"]))
                .is_err()
        );
        assert!(expectations(&["warn"]).unwrap().check_notes(&said(&[])).is_err());
        assert_eq!(all.without_texts().check_notes(&said(&["any"])), Ok(()));
        let legacy = Expectations::of_command("eval_warn").unwrap();
        assert!(legacy.check_notes(&said(&[])).is_err());
        assert_eq!(legacy.check_notes(&said(&["any"])), Ok(()));
    }

    #[test]
    fn what_is_no_expectation_is_refused() {
        for lines in [
            &["warn", "no_warn"][..],
            &["info msg: x", "no_info"],
            &["fail", "fail msg: x"],
            &["fail msg:"],
            &["fail because"],
            &["warn regex: ("],
            &["surprise"],
        ] {
            assert!(expectations(lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn errors_are_matched() {
        let all = expectations(&["fail regex: found .*series"]).unwrap();
        assert_eq!(all.expect_error("found duplicate series for\nx"), Ok(()));
        assert!(all.expect_error("no").is_err());
        assert!(Expectations::default().expect_error("no").is_err());
        let mut legacy = Expectations::of_command("eval_fail").unwrap();
        assert_eq!(legacy.expect_error("anything"), Ok(()));
        legacy.fail_with(Wanted::Text("this".to_owned()));
        assert!(legacy.expect_error("that").is_err());
    }
}
