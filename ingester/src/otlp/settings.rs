//! The section `otlp` of the configuration file.

use super::names::{LabelNames, Strategy};
use std::collections::HashSet;

/// What becomes of names and attributes. The defaults are those of Prometheus 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    pub strategy: Strategy,
    /// Resource attributes that become labels of every series; where `promote_all` is set, those that do not.
    pub resource_attributes: HashSet<String>,
    pub promote_all: bool,
    /// `service.name`, `.namespace` and `.instance.id` are labels of `target_info` too.
    pub keep_identifying: bool,
    pub convert_histograms_to_nhcb: bool,
    /// Name, version, schema and attributes of the scope become labels.
    pub promote_scope: bool,
    /// `key` goes before a label name that begins with an underscore.
    pub mark_underscore: bool,
    pub keep_underscores: bool,
}

impl Default for OtlpSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy {
                escape: true,
                suffixes: true,
            },
            resource_attributes: HashSet::new(),
            promote_all: false,
            keep_identifying: false,
            convert_histograms_to_nhcb: false,
            promote_scope: false,
            mark_underscore: true,
            keep_underscores: true,
        }
    }
}

impl OtlpSettings {
    pub(super) fn promotes(&self, attribute: &str) -> bool {
        self.resource_attributes.contains(attribute) != self.promote_all
    }

    pub(super) const fn label_names(&self) -> LabelNames {
        LabelNames {
            escape: self.strategy.escape,
            mark_underscore: self.mark_underscore,
            keep_underscores: self.keep_underscores,
        }
    }
}
