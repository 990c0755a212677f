//! Where targets come from: groups written in the file, and files that hold groups.

use super::read_http::join_dir;
use gnomon_model::labels::Labels;
use gnomon_model::labels::LabelsBuilder;
use gnomon_model::yaml::{At, YamlError};
use std::path::{Path, PathBuf};
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

impl TargetGroup {
    /// Reads a group as it stands in `static_configs` or in a target file.
    ///
    /// # Errors
    /// When it is empty, or holds anything but `targets` and `labels`.
    pub fn read(at: &At<'_>, source: String) -> Result<Self, YamlError> {
        if at.is_null() {
            return Err(at.error("empty or null section in static_configs"));
        }
        let mut fields = at.fields()?;
        let targets = fields.texts("targets")?;
        let mut labels = LabelsBuilder::default();
        if let Some(at) = fields.get("labels") {
            for (name, at) in at.entries()? {
                if name.is_empty() {
                    return Err(at.error("\"\" is not a valid label name"));
                }
                labels.set(name, if at.is_null() { "" } else { at.text()? });
            }
        }
        fields.finish()?;
        Ok(Self {
            targets,
            labels: labels.build(),
            source,
        })
    }
}

impl FileSdConfig {
    pub(super) fn read(at: &At<'_>, dir: &Path) -> Result<Self, YamlError> {
        if at.is_null() {
            return Err(at.error("empty or null section in file_sd_configs"));
        }
        let mut fields = at.fields()?;
        let items = fields.items("files")?;
        if items.is_empty() {
            let message = "file service discovery config must contain at least one path name";
            return Err(fields.error_at("files", message));
        }
        let mut files = Vec::new();
        for item in items {
            let path = item.text()?;
            if !is_target_file(path) {
                return Err(item.error(format!("path name {path:?} is not valid for file discovery")));
            }
            files.push(join_dir(dir, path));
        }
        let refresh_interval = fields.read("refresh_interval", At::duration)?.filter(|d| !d.is_zero());
        fields.finish()?;
        Ok(Self {
            files,
            refresh_interval: refresh_interval.unwrap_or(Duration::from_secs(300)),
        })
    }
}

/// JSON or YAML by its ending; at most one `*`, and that in the last part of the path.
fn is_target_file(path: &str) -> bool {
    let stem = ["json", "yml", "yaml", "JSON", "YML", "YAML"]
        .iter()
        .find_map(|ending| path.strip_suffix(ending).and_then(|stem| stem.strip_suffix('.')));
    // What follows the first star may hold more of them, but no further part of the path.
    stem.is_some_and(|stem| stem.split_once('*').is_none_or(|(_, after)| !after.contains('/')))
}
