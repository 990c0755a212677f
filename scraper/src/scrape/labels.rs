//! From the labels that a target exposes to those that are stored.

use crate::config::ScrapeConfig;
use crate::parse::Parser;
use gnomon_model::relabel;
use gnomon_model::{Labels, LabelsBuilder, LabelsRef};

/// Prefix of an exposed label that the target's own label of that name displaces.
const EXPORTED: &str = "exported_";

/// Joins exposed and target labels in `out` and relabels them; false where the series is dropped.
pub(super) fn finish(
    exposed: LabelsRef<'_>,
    parser: &dyn Parser,
    target: &Labels,
    config: &ScrapeConfig,
    out: &mut LabelsBuilder,
) -> bool {
    out.clear();
    for (name, value) in exposed.iter() {
        out.set(name, value);
    }
    if config.honor_labels {
        for (name, value) in target.iter() {
            if out.get(name).is_empty() && !parser.exposes_empty(name) {
                out.set(name, value);
            }
        }
    } else {
        displace(target, out);
    }
    relabel::process(out, &config.metric_relabel_configs) && !out.is_empty()
}

/// Sets the target's labels; exposed ones of the same name are kept under another.
pub(super) fn displace(target: &Labels, out: &mut LabelsBuilder) {
    let mut conflicts: Vec<(String, String)> = Vec::new();
    for (name, value) in target.iter() {
        let exposed = out.get(name);
        if !exposed.is_empty() {
            conflicts.push((name.to_owned(), exposed.to_owned()));
        }
        out.set(name, value);
    }
    // The shorter first, as Prometheus does: it decides who gets which name where prefixes collide.
    conflicts.sort_by_key(|(name, _)| name.len());
    for (name, value) in conflicts {
        let mut renamed = format!("{EXPORTED}{name}");
        while !out.get(&renamed).is_empty() {
            renamed.insert_str(0, EXPORTED);
        }
        out.set(&renamed, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parser_for;
    use crate::testing::config;

    fn finished(honor: bool, line: &str, target: &[(&str, &str)]) -> String {
        let mut config = config("job");
        config.honor_labels = honor;
        let input = format!("{line}\n");
        let mut parser: Box<dyn Parser> = parser_for(crate::parse::Format::Text, input.as_bytes(), false, false);
        parser.next_entry().unwrap();
        let mut bytes = Vec::new();
        parser.write_labels(&mut bytes).unwrap();
        let mut out = LabelsBuilder::default();
        let target = Labels::from_pairs(target.iter().copied());
        assert!(finish(
            LabelsRef::from_canonical(&bytes),
            &*parser,
            &target,
            &config,
            &mut out
        ));
        out.build().to_string()
    }

    #[test]
    fn exposed_labels_yield_or_win() {
        let target = [("instance", "t"), ("job", "j")];
        assert_eq!(
            finished(false, r#"a{job="x",exported_job="y"} 1"#, &target),
            r#"{__name__="a", exported_exported_job="x", exported_job="y", instance="t", job="j"}"#
        );
        assert_eq!(
            finished(true, r#"a{job="x"} 1"#, &target),
            r#"{__name__="a", instance="t", job="x"}"#
        );
    }

    /// The Pushgateway exposes `instance=""` so that no instance label is stored.
    #[test]
    fn an_honored_empty_label_keeps_the_target_label_away() {
        let target = [("instance", "t"), ("job", "j")];
        assert_eq!(
            finished(true, r#"a{instance="",job="x"} 1"#, &target),
            r#"{__name__="a", job="x"}"#
        );
        assert_eq!(
            finished(false, r#"a{instance=""} 1"#, &target),
            r#"{__name__="a", instance="t", job="j"}"#
        );
    }
}
