//! Relabelling rules out of a list.

use gnomon_model::re2::Regex;
use gnomon_model::relabel::{NameRules, RelabelConfig};
use gnomon_model::yaml::{At, YamlError};

/// Reads a list of rules; `what` names it where an entry is empty.
///
/// # Errors
/// When a rule is malformed or its fields do not fit its action.
pub fn read_relabel_configs(items: &[At<'_>], names: NameRules, what: &str) -> Result<Vec<RelabelConfig>, YamlError> {
    items.iter().map(|at| read_rule(at, names, what)).collect()
}

fn read_rule(at: &At<'_>, names: NameRules, what: &str) -> Result<RelabelConfig, YamlError> {
    if at.is_null() {
        return Err(at.error(format!("empty or null {what}")));
    }
    let default = RelabelConfig::default();
    let mut fields = at.fields()?;
    let mut source_labels = Vec::new();
    for item in fields.items("source_labels")? {
        let name = item.text()?;
        if name.is_empty() {
            return Err(item.error(format!("{name:?} is not a valid label name")));
        }
        source_labels.push(name.to_owned());
    }
    let regex = match fields.present("regex") {
        // A field that is there without a value is the empty expression, as in Prometheus.
        Some(at) if at.is_null() => Regex::anchored("").map_err(|e| at.error(e))?,
        Some(at) => Regex::anchored(at.text()?).map_err(|e| at.error(e))?,
        None => default.regex,
    };
    let owned = |at: &At<'_>| at.text().map(str::to_owned);
    let rule = RelabelConfig {
        source_labels,
        separator: fields.read("separator", owned)?.unwrap_or(default.separator),
        regex,
        modulus: fields.read("modulus", At::count)?.unwrap_or(0),
        target_label: fields.text("target_label")?,
        replacement: fields.read("replacement", owned)?.unwrap_or(default.replacement),
        action: fields
            .read("action", |at| at.text()?.parse().map_err(|e| at.error(e)))?
            .unwrap_or_default(),
        names,
    };
    fields.finish()?;
    rule.validate().map_err(|e| at.error(e))?;
    Ok(rule)
}
