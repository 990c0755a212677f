//! Regular expressions with the syntax and meaning of Go's RE2.

use regex_automata::meta;

/// An expression that RE2 would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {message}: `{expression}`")]
pub struct Error {
    pub message: String,
    pub expression: String,
}

/// A compiled expression, anchored at both ends, in which `.` matches a newline.
#[derive(Clone, Debug)]
pub struct Regex {
    compiled: meta::Regex,
}

impl Regex {
    /// Compiles `^(?s:expression)$`.
    ///
    /// # Errors
    /// When the expression is not RE2's or compiles to more than the size limit.
    pub fn anchored(expression: &str) -> Result<Self, Error> {
        let compiled = meta::Regex::new(&format!("^(?s:{expression})$")).map_err(|e| Error {
            message: e.to_string(),
            expression: expression.to_owned(),
        })?;
        Ok(Self { compiled })
    }

    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    #[must_use]
    pub fn literal_alternatives(&self) -> Option<Vec<String>> {
        None
    }
}
