//! The selector of `/api/v1/targets/metadata`: `{name="value",other=~"regex"}` over target labels.

use gnomon_model::LabelsRef;
use gnomon_model::matcher::{MatchOp, Matcher};

#[derive(Debug, Default)]
pub(crate) struct TargetMatcher(Vec<Matcher>);

impl TargetMatcher {
    /// Takes braces with matchers between them; an empty text matches everything.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut rest = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .ok_or_else(|| format!("{text:?} is not of the form {{name=\"value\"}}"))?
            .trim_start();
        let mut matchers = Vec::new();
        while !rest.is_empty() {
            let (matcher, after) = Self::one(rest).ok_or_else(|| format!("cannot read {rest:?} as a matcher"))?;
            matchers.push(matcher.map_err(|e| e.to_string())?);
            rest = after.trim_start();
            match rest.strip_prefix(',') {
                Some(after) => rest = after.trim_start(),
                None if rest.is_empty() => {}
                None => return Err(format!("a comma is expected before {rest:?}")),
            }
        }
        Ok(Self(matchers))
    }

    #[allow(clippy::type_complexity)]
    fn one(text: &str) -> Option<(Result<Matcher, gnomon_model::re2::Error>, &str)> {
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        let (name, rest) = text.split_at(end);
        let rest = rest.trim_start();
        let operators = [
            ("=~", MatchOp::Regex),
            ("!~", MatchOp::NotRegex),
            ("!=", MatchOp::NotEqual),
            ("=", MatchOp::Equal),
        ];
        let (op, rest) = operators
            .iter()
            .find_map(|(word, op)| rest.strip_prefix(word).map(|r| (*op, r.trim_start())))?;
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let mut value = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => return Some((Matcher::new(name, op, value), &rest[at + 1..])),
                '\\' => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    't' => value.push('\t'),
                    other => value.push(other),
                },
                c => value.push(c),
            }
        }
        None
    }

    pub(crate) fn matches(&self, labels: LabelsRef<'_>) -> bool {
        self.0.iter().all(|m| m.matches_labels(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::Labels;

    #[test]
    fn target_selectors_are_read() {
        let labels = Labels::from_pairs([("job", "node"), ("instance", "a:1")]);
        for (text, wanted) in [
            ("", true),
            ("{}", true),
            (r#"{job="node"}"#, true),
            (r#"{ job = "node" , instance =~ "a:.*" }"#, true),
            (r#"{job!="node"}"#, false),
            (r#"{absent!~".+",}"#, true),
        ] {
            let matcher = TargetMatcher::parse(text).unwrap();
            assert_eq!(matcher.matches(labels.as_ref()), wanted, "{text}");
        }
        for bad in ["job", r#"{job}"#, r#"{job="a}"#, r#"{job="a" x="b"}"#, r#"{job=~"("}"#] {
            assert!(TargetMatcher::parse(bad).is_err(), "{bad}");
        }
    }
}
