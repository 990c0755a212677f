//! Target groups as they stand in a file: `[{"targets": ["host:port"], "labels": {"name": "value"}}]`, JSON or YAML.

use crate::config::TargetGroup;
use gnomon_model::Labels;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The label that names the file a target was found in.
const FILE_LABEL: &str = "__meta_filepath";

/// A file that holds no target groups.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct BadGroups {
    pub path: String,
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Reads the groups in `text`, which came from `path`; the path's ending says which format it is.
///
/// # Errors
/// When it is not well formed, or a group is null, has an unknown field or a bad label name.
pub fn parse_groups(path: &Path, text: &str) -> Result<Vec<TargetGroup>, BadGroups> {
    let shown = path.display().to_string();
    let bad = |reason: String| BadGroups {
        path: shown.clone(),
        reason,
    };
    let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let raw: Option<Vec<Option<RawGroup>>> = if json {
        serde_json::from_str(text).map_err(|e| bad(e.to_string()))?
    } else if text.trim().is_empty() {
        None
    } else {
        serde_saphyr::from_str(text).map_err(|e| bad(e.to_string()))?
    };
    let mut groups = Vec::new();
    for (index, group) in raw.unwrap_or_default().into_iter().enumerate() {
        let group = group.ok_or_else(|| bad("nil target group item found".to_owned()))?;
        let labels = group.labels.unwrap_or_default();
        if let Some(name) = labels.keys().find(|n| n.is_empty()) {
            return Err(bad(format!("{name:?} is not a valid label name")));
        }
        let file = [(FILE_LABEL.to_owned(), shown.clone())];
        groups.push(TargetGroup {
            targets: group.targets,
            labels: Labels::from_pairs(labels.into_iter().chain(file)),
            source: format!("{shown}:{index}"),
        });
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_give_the_same_groups() {
        let json = r#"[{"targets": ["a:1", "b:2"], "labels": {"env": "x"}}, {"targets": ["c"]}]"#;
        let yaml = "- targets: ['a:1', \"b:2\"]\n  labels:\n    env: x\n- targets: [c]\n";
        let from_json = parse_groups(Path::new("t.json"), json).unwrap();
        let from_yaml = parse_groups(Path::new("t.yml"), yaml).unwrap();
        assert_eq!(from_json[0].targets, from_yaml[0].targets);
        assert_eq!(from_json[0].labels.get("env"), Some("x"));
        assert_eq!(from_json[1].labels.get("__meta_filepath"), Some("t.json"));
        assert_eq!(from_yaml[1].source, "t.yml:1");
        assert_eq!(parse_groups(Path::new("t.yml"), ""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_list_of_groups_is_refused() {
        for (path, text) in [
            ("t.json", "{"),
            ("t.json", "[null]"),
            ("t.json", r#"[{"targets": ["a"], "extra": 1}]"#),
            ("t.yml", "- targets: [a\n"),
            ("t.yml", "- targets: ['a']\n  labels: [x]\n"),
            ("t.yml", "text"),
        ] {
            let error = parse_groups(Path::new(path), text).unwrap_err();
            assert!(error.to_string().starts_with(path), "{error}");
        }
    }
}
