//! Texts that must not be shown: not in a log, not in `/api/v1/status/config`, not in a panic.

use std::fmt;
use std::path::PathBuf;

/// What is printed in place of a secret, as Prometheus does.
pub const REDACTED: &str = "<secret>";

/// A secret from the configuration file; printing it in any way gives `<secret>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the header or key it is meant for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Where a secret comes from. A file is read anew for every use, so that a rotated secret needs no reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretSource {
    Inline(Secret),
    File(PathBuf),
}

/// Where a text that is no secret (a user name, a certificate) comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextSource {
    Inline(String),
    File(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_of_printing_shows_a_secret() {
        let source = SecretSource::Inline(Secret::new("hunter2"));
        assert!(!format!("{source:?}").contains("hunter2"));
        assert_eq!(Secret::new("hunter2").to_string(), "<secret>");
        assert_eq!(Secret::new("hunter2").expose(), "hunter2");
    }
}
