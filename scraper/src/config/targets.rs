//! Where targets come from: groups written in the file, and files that hold groups.

use gnomon_model::labels::Labels;
use std::path::PathBuf;
use std::time::Duration;

/// Addresses that share labels.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetGroup {
    /// `host:port` or `host`, as written.
    pub targets: Vec<String>,
    pub labels: Labels,
    /// Names the group where targets are shown: the index for `static_configs`, path and index for a file.
    pub source: String,
}

/// One entry of `file_sd_configs`.
#[derive(Clone, Debug, PartialEq)]
pub struct FileSdConfig {
    /// Paths, the last part of which may hold `*`; each ends in `.json`, `.yml` or `.yaml`.
    pub files: Vec<PathBuf>,
    /// How often the files are read even where no change was seen; greater than zero.
    pub refresh_interval: Duration,
}
