//! Label matchers as PromQL and the HTTP API have them.

use crate::labels::{LabelsRef, is_legacy_label_name};
use std::fmt;

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatchOp {
    Equal,
    NotEqual,
    Regex,
    NotRegex,
}

impl fmt::Display for MatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        })
    }
}

/// One condition on one label; a label that is absent has the empty value.
#[derive(Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    /// Present exactly for the two regex operators.
    regex: Option<crate::re2::Regex>,
}

impl Matcher {
    /// # Errors
    /// When `op` is a regex operator and `value` is not an RE2 expression.
    pub fn new(name: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Result<Self, crate::re2::Error> {
        let (name, value) = (name.into(), value.into());
        let regex = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(crate::re2::Regex::alone(&value)?),
            MatchOp::Equal | MatchOp::NotEqual => None,
        };
        Ok(Self { name, op, value, regex })
    }

    /// `name="value"`.
    #[must_use]
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            op: MatchOp::Equal,
            value: value.into(),
            regex: None,
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn op(&self) -> MatchOp {
        self.op
    }

    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label value (empty where the label is absent) satisfies the matcher.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => value == self.value,
            (MatchOp::NotEqual, _) => value != self.value,
            (MatchOp::Regex, Some(regex)) => regex.is_match(value),
            (MatchOp::NotRegex, Some(regex)) => !regex.is_match(value),
            (MatchOp::Regex | MatchOp::NotRegex, None) => false,
        }
    }

    /// What a regex occupies, compiled; 0 for the plain operators.
    #[must_use]
    pub fn pattern_bytes(&self) -> usize {
        self.regex.as_ref().map_or(0, crate::re2::Regex::memory_bytes)
    }

    /// Whether series without the label satisfy the matcher.
    #[must_use]
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    #[must_use]
    pub fn matches_labels(&self, labels: LabelsRef<'_>) -> bool {
        self.matches(labels.get(&self.name).unwrap_or(""))
    }

    /// Asks many values, one after the other.
    #[must_use]
    pub fn scan(&self) -> MatcherScan<'_> {
        MatcherScan {
            matcher: self,
            scan: self.regex.as_ref().map(crate::re2::Regex::scan),
        }
    }

    /// The expression of the two regex operators.
    #[must_use]
    pub fn regex(&self) -> Option<&crate::re2::Regex> {
        self.regex.as_ref()
    }

    /// The finite set of values a regex matcher can match, when it is a plain alternation of literals.
    #[must_use]
    pub fn literal_alternatives(&self) -> Option<Vec<String>> {
        self.regex.as_ref().and_then(crate::re2::Regex::literal_alternatives)
    }
}

/// See [`Matcher::scan`].
pub struct MatcherScan<'m> {
    matcher: &'m Matcher,
    scan: Option<crate::re2::Scan<'m>>,
}

impl MatcherScan<'_> {
    /// As [`Matcher::matches`].
    pub fn matches(&mut self, value: &str) -> bool {
        match (&mut self.scan, self.matcher.op) {
            (Some(scan), MatchOp::NotRegex) => !scan.is_match(value),
            (Some(scan), _) => scan.is_match(value),
            (None, _) => self.matcher.matches(value),
        }
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

impl Eq for Matcher {}

impl std::hash::Hash for Matcher {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.name, self.op, &self.value).hash(state);
    }
}

/// As in a selector.
impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As in a selector: `job="api"`; a name that is not a classic one is quoted too.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_legacy_label_name(&self.name) {
            f.write_str(&self.name)?;
        } else {
            write_quoted(&self.name, f)?;
        }
        write!(f, "{}", self.op)?;
        write_quoted(&self.value, f)
    }
}

/// As Go's `%q` prints a text.
fn write_quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use fmt::Write;
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\x07' => f.write_str("\\a")?,
            '\x08' => f.write_str("\\b")?,
            '\x0c' => f.write_str("\\f")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\x0b' => f.write_str("\\v")?,
            c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
            c if is_unprintable(c) => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// Controls, separators other than the blank, and marks without a shape, as far as they lie in the basic plane.
fn is_unprintable(c: char) -> bool {
    let formats = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || formats || (c != ' ' && c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;

    fn matcher(op: MatchOp, value: &str) -> Matcher {
        Matcher::new("a", op, value).expect("a matcher")
    }

    #[test]
    fn an_absent_label_has_the_empty_value() {
        let (with, without) = (Labels::from_pairs([("a", "x")]), Labels::from_pairs([("b", "x")]));
        for (op, value, on_with, on_without) in [
            (MatchOp::Equal, "x", true, false),
            (MatchOp::Equal, "", false, true),
            (MatchOp::NotEqual, "x", false, true),
            (MatchOp::NotEqual, "", true, false),
            (MatchOp::Regex, "x|y", true, false),
            (MatchOp::Regex, "x?", true, true),
            (MatchOp::Regex, ".+", true, false),
            (MatchOp::Regex, ".*", true, true),
            (MatchOp::Regex, "[xy]z*", true, false),
            (MatchOp::NotRegex, "x|y", false, true),
            (MatchOp::NotRegex, ".+", false, true),
            (MatchOp::NotRegex, ".*", false, false),
        ] {
            let matcher = matcher(op, value);
            let got = (
                matcher.matches_labels(with.as_ref()),
                matcher.matches_labels(without.as_ref()),
            );
            assert_eq!(got, (on_with, on_without), "{matcher}");
            assert_eq!(matcher.matches_empty(), on_without, "{matcher}");
            let mut scan = matcher.scan();
            assert_eq!(
                (scan.matches("x"), scan.matches("")),
                (on_with, on_without),
                "{matcher}"
            );
        }
    }

    #[test]
    fn a_compiled_expression_does_not_show() {
        let matcher = matcher(MatchOp::Regex, r"\pL{100}");
        assert!(matcher.pattern_bytes() > 100_000);
        assert_eq!(format!("{matcher:?}"), r#"a=~"\\pL{100}""#);
    }

    #[test]
    fn a_matcher_prints_as_in_a_selector() {
        assert_eq!(
            matcher(MatchOp::NotRegex, "x\\d\"\n\x01\u{a0}é").to_string(),
            r#"a!~"x\\d\"\n\x01\u00a0é""#
        );
        assert_eq!(Matcher::equal("a.b", "c").to_string(), r#""a.b"="c""#);
        let error = Matcher::new("a", MatchOp::Regex, "(").expect_err("no expression");
        assert_eq!(error.to_string(), "error parsing regexp: missing closing ): `(`");
    }
}
