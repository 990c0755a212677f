//! Relabelling: rules that rewrite, keep or drop a label set.
//!
//! Source: the Prometheus documentation, "Configuration", section "relabel_config".

use crate::labels::{self, LabelsBuilder};
use crate::re2::Regex;
use md5::{Digest, Md5};
use std::fmt;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    #[default]
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

impl Action {
    const ALL: [Self; 11] = [
        Self::Replace,
        Self::Keep,
        Self::Drop,
        Self::KeepEqual,
        Self::DropEqual,
        Self::HashMod,
        Self::LabelMap,
        Self::LabelDrop,
        Self::LabelKeep,
        Self::Lowercase,
        Self::Uppercase,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::KeepEqual => "keepequal",
            Self::DropEqual => "dropequal",
            Self::HashMod => "hashmod",
            Self::LabelMap => "labelmap",
            Self::LabelDrop => "labeldrop",
            Self::LabelKeep => "labelkeep",
            Self::Lowercase => "lowercase",
            Self::Uppercase => "uppercase",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Action {
    type Err = RelabelError;

    /// In any case of letters, as Prometheus takes it.
    fn from_str(text: &str) -> Result<Self, RelabelError> {
        let lower = text.to_lowercase();
        Self::ALL
            .into_iter()
            .find(|action| action.name() == lower)
            .ok_or_else(|| RelabelError::UnknownAction(text.to_owned()))
    }
}

/// A rule that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelabelError {
    #[error("unknown relabel action {0:?}")]
    UnknownAction(String),
    #[error("relabel configuration for hashmod requires non-zero modulus")]
    ZeroModulus,
    #[error("relabel configuration for {0} action requires 'target_label' value")]
    NoTargetLabel(Action),
    #[error("{label:?} is invalid 'target_label' for {action} action")]
    BadTargetLabel { label: String, action: Action },
    #[error("'replacement' can not be set for {0} action")]
    ReplacementSet(Action),
    #[error("{replacement:?} is invalid 'replacement' for {action} action")]
    BadReplacement { replacement: String, action: Action },
    #[error("{0} action requires only 'source_labels' and `target_label`, and no other fields")]
    OnlyLabels(Action),
    #[error("{0} action requires only 'regex', and no other fields")]
    OnlyRegex(Action),
}

/// One rule. Make it with [`Default`] and the fields that differ, then [`RelabelConfig::validate`] it.
#[derive(Clone, Debug, PartialEq)]
pub struct RelabelConfig {
    /// Their values, joined by `separator`, are what `regex` is matched against.
    pub source_labels: Vec<String>,
    pub separator: String,
    pub regex: Regex,
    /// For hashmod only.
    pub modulus: u64,
    pub target_label: String,
    pub replacement: String,
    pub action: Action,
    /// Which label names `target_label` and `replacement` may make.
    pub names: NameRules,
}

pub const DEFAULT_SEPARATOR: &str = ";";
pub const DEFAULT_REGEX: &str = "(.*)";
pub const DEFAULT_REPLACEMENT: &str = "$1";

impl Default for RelabelConfig {
    fn default() -> Self {
        Self {
            source_labels: Vec::new(),
            separator: DEFAULT_SEPARATOR.to_owned(),
            regex: Regex::match_all(),
            modulus: 0,
            target_label: String::new(),
            replacement: DEFAULT_REPLACEMENT.to_owned(),
            action: Action::Replace,
            names: NameRules::Utf8,
        }
    }
}

/// Names that a rule may write: any text, or only those that the classic rules allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRules {
    Utf8,
    Legacy,
}

impl NameRules {
    #[must_use]
    pub fn allow(self, label_name: &str) -> bool {
        match self {
            Self::Utf8 => !label_name.is_empty(),
            Self::Legacy => labels::is_legacy_label_name(label_name),
        }
    }

    /// The same for a name that may hold references to groups (`$1`, `${name}`), each of which stands for a letter.
    fn allow_template(self, template: &str) -> bool {
        if self == Self::Utf8 {
            return !template.is_empty();
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut rest = template;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            if c != '$' {
                let first = rest.len() == template.len();
                if !word(c) || (first && c.is_ascii_digit()) {
                    return false;
                }
                rest = after;
                continue;
            }
            let (braced, name) = after.strip_prefix('{').map_or((false, after), |name| (true, name));
            let end = name.find(|c| !word(c)).unwrap_or(name.len());
            let closing = if braced { "}" } else { "" };
            match name[end..].strip_prefix(closing) {
                Some(after) if end > 0 => rest = after,
                _ => return false,
            }
        }
        !template.is_empty()
    }
}

impl RelabelConfig {
    /// Checks that the fields fit the action.
    ///
    /// # Errors
    /// The first thing that does not fit, in Prometheus' words.
    pub fn validate(&self) -> Result<(), RelabelError> {
        let action = self.action;
        let default_replacement = self.replacement == DEFAULT_REPLACEMENT;
        let default_rest = default_replacement && self.modulus == 0 && self.separator == DEFAULT_SEPARATOR;
        if action == Action::HashMod && self.modulus == 0 {
            return Err(RelabelError::ZeroModulus);
        }
        match action {
            Action::Keep | Action::Drop => {}
            Action::Replace
            | Action::HashMod
            | Action::Lowercase
            | Action::Uppercase
            | Action::KeepEqual
            | Action::DropEqual => self.validate_target()?,
            Action::LabelMap => {
                if !self.names.allow_template(&self.replacement) {
                    return Err(RelabelError::BadReplacement {
                        replacement: self.replacement.clone(),
                        action,
                    });
                }
            }
            Action::LabelDrop | Action::LabelKeep => {
                if !default_rest || !self.source_labels.is_empty() || !self.target_label.is_empty() {
                    return Err(RelabelError::OnlyRegex(action));
                }
            }
        }
        if !default_replacement
            && matches!(
                action,
                Action::Lowercase | Action::Uppercase | Action::KeepEqual | Action::DropEqual
            )
        {
            return Err(RelabelError::ReplacementSet(action));
        }
        if matches!(action, Action::KeepEqual | Action::DropEqual)
            && (!default_rest || self.regex.source() != DEFAULT_REGEX)
        {
            return Err(RelabelError::OnlyLabels(action));
        }
        Ok(())
    }

    fn validate_target(&self) -> Result<(), RelabelError> {
        if self.target_label.is_empty() {
            return Err(RelabelError::NoTargetLabel(self.action));
        }
        let fits = match self.action {
            Action::Replace => self.names.allow_template(&self.target_label),
            _ => self.names.allow(&self.target_label),
        };
        if fits {
            return Ok(());
        }
        Err(RelabelError::BadTargetLabel {
            label: self.target_label.clone(),
            action: self.action,
        })
    }

    fn joined_source(&self, labels: &LabelsBuilder, out: &mut String) {
        for (i, name) in self.source_labels.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.separator);
            }
            out.push_str(labels.get(name));
        }
    }

    /// Applies the rule; false drops the set.
    fn apply(&self, labels: &mut LabelsBuilder, source: &mut String) -> bool {
        source.clear();
        self.joined_source(labels, source);
        match self.action {
            Action::Keep => return self.regex.is_match(source),
            Action::Drop => return !self.regex.is_match(source),
            Action::KeepEqual => return labels.get(&self.target_label) == source,
            Action::DropEqual => return labels.get(&self.target_label) != source,
            Action::Replace => self.replace(labels, source),
            Action::Lowercase => labels.set(&self.target_label, &go_lowercase(source)),
            Action::Uppercase => labels.set(&self.target_label, &go_uppercase(source)),
            Action::HashMod => {
                labels.set(
                    &self.target_label,
                    &(tail_of_md5(source) % self.modulus.max(1)).to_string(),
                );
            }
            Action::LabelMap => self.map_names(labels),
            Action::LabelDrop => labels.retain(|name, _| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|name, _| self.regex.is_match(name)),
        }
        true
    }

    fn replace(&self, labels: &mut LabelsBuilder, source: &str) {
        let plain = |template: &str| !template.contains('$');
        if plain(&self.target_label) && plain(&self.replacement) {
            if self.regex.is_match(source) {
                labels.set(&self.target_label, &self.replacement);
            }
            return;
        }
        let Some(captures) = self.regex.captures(source) else {
            return;
        };
        let target = captures.expand(&self.target_label);
        if self.names.allow(&target) {
            labels.set(&target, &captures.expand(&self.replacement));
        }
    }

    fn map_names(&self, labels: &mut LabelsBuilder) {
        let mapped: Vec<(String, String)> = labels
            .iter()
            .filter_map(|(name, value)| {
                let captures = self.regex.captures(name)?;
                Some((captures.expand(&self.replacement), value.to_owned()))
            })
            .collect();
        for (name, value) in mapped {
            // An empty name cannot be held; the template cannot make one that is otherwise invalid.
            if !name.is_empty() {
                labels.set(&name, &value);
            }
        }
    }
}

/// The last eight bytes of the MD5, as a number: what Prometheus has always taken the modulus of.
fn tail_of_md5(text: &str) -> u64 {
    let digest = Md5::digest(text.as_bytes());
    digest[8..]
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Letter by letter, as Go does it: no letter becomes two.
fn go_lowercase(text: &str) -> String {
    // Every lower-case form that is longer than one letter begins with the one that Go takes.
    text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
}

/// Letter by letter, as Go does it: no letter becomes two.
fn go_uppercase(text: &str) -> String {
    let upper = |c: char| {
        let mut full = c.to_uppercase();
        match (full.next(), full.len()) {
            (Some(single), 0) => single,
            _ => greek_with_iota(c).unwrap_or(c),
        }
    };
    text.chars().map(upper).collect()
}

/// Unicode's simple upper case of the Greek letters whose full one is two letters.
fn greek_with_iota(c: char) -> Option<char> {
    let offset = match u32::from(c) {
        0x1f80..=0x1f87 | 0x1f90..=0x1f97 | 0x1fa0..=0x1fa7 => 8,
        0x1fb3 | 0x1fc3 | 0x1ff3 => 9,
        _ => return None,
    };
    char::from_u32(u32::from(c) + offset)
}

/// Applies rules in order; false as soon as one drops the set.
pub fn process(labels: &mut LabelsBuilder, rules: &[RelabelConfig]) -> bool {
    let mut source = String::new();
    rules.iter().all(|rule| rule.apply(labels, &mut source))
}

#[cfg(test)]
mod tests;
