//! What is wrong with a block of Prometheus', and where.

use std::path::{Path, PathBuf};

/// Why a block of Prometheus' cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TsdbError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: std::io::Error },
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Damaged { file: PathBuf, offset: u64, what: String },
    /// Whole, and of a kind that is not read here.
    #[error("{}: {what}", file.display())]
    Unsupported { file: PathBuf, what: String },
    /// What was to be written is more than the format takes.
    #[error("{}: {what}", file.display())]
    Limit { file: PathBuf, what: String },
}

impl TsdbError {
    pub(super) fn io(file: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io {
            file: file.to_owned(),
            source,
        }
    }

    /// Whether the bytes are wrong, so that reading again does not help.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}
