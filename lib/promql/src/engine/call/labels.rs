//! `label_replace`, `label_join`.

use super::arg;
use crate::engine::column::{Column, merge_same_labels};
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::limits::EvalError;
use crate::plan::{Node, NodeKind};
use gnomon_model::re2::Regex;
use gnomon_model::{LabelsBuilder, METRIC_NAME};

fn set_label(column: &mut Column, name: &str, value: &str) {
    let mut builder = LabelsBuilder::from_labels(column.labels.as_ref());
    builder.set(name, value);
    column.labels = builder.build();
    if name == METRIC_NAME {
        column.drop_name = false;
    }
}

impl Exec<'_> {
    /// The name of the label that is to be set.
    fn target_label<'n>(&self, node: &'n Node, function: &str) -> Evaluated<&'n str> {
        let invalid =
            |name: &str| EvalError::execution(format!("invalid destination label name in {function}(): {name}"));
        match &node.kind {
            NodeKind::Bytes(bytes) => Err(invalid(&String::from_utf8_lossy(bytes))),
            _ => match self.string(node)? {
                "" => Err(invalid("")),
                name => Ok(name),
            },
        }
    }

    pub(super) fn label_replace(&self, args: &[Node], sink: &mut Sink<'_>) -> Evaluated<()> {
        let template = self.string(arg(args, 2)?)?;
        let from = self.string(arg(args, 3)?)?;
        let expression = self.string(arg(args, 4)?)?;
        let regex = Regex::anchored(expression).map_err(|_| {
            EvalError::execution(format!("invalid regular expression in label_replace(): {expression}"))
        })?;
        // Nested ones hold theirs at the same time.
        let _compiled = self.hold_bytes(regex.memory_bytes() as u64)?;
        let target = self.target_label(arg(args, 1)?, "label_replace")?;
        let parts = template.matches('$').count();
        let mut columns = self.collect(arg(args, 0)?)?;
        for column in &mut columns.columns {
            self.check()?;
            let labels = column.labels.clone();
            let source = labels.get(from).unwrap_or("");
            // Before it is made: nested, a template that repeats its source grows without bounds.
            let most = template.len().saturating_add(parts.saturating_mul(source.len()));
            columns.held.add_bytes(most as u64)?;
            if let Some(captures) = regex.captures(source) {
                set_label(column, target, &captures.expand(template));
            }
        }
        for column in merge_same_labels(columns.columns)? {
            sink(column)?;
        }
        Ok(())
    }

    pub(super) fn label_join(&self, args: &[Node], sink: &mut Sink<'_>) -> Evaluated<()> {
        let separator = self.string(arg(args, 2)?)?;
        let mut sources = Vec::new();
        for source in args.iter().skip(3) {
            let source = self.string(source)?;
            if source.is_empty() {
                return Err(EvalError::execution(format!(
                    "invalid source label name in label_join(): {source}"
                )));
            }
            sources.push(source);
        }
        let target = self.target_label(arg(args, 1)?, "label_join")?;
        let mut columns = self.collect(arg(args, 0)?)?;
        for column in &mut columns.columns {
            self.check()?;
            let values: Vec<&str> = sources
                .iter()
                .map(|source| column.labels.get(source).unwrap_or(""))
                .collect();
            let length = |text: &&str| text.len() + separator.len();
            columns
                .held
                .add_bytes(values.iter().map(length).sum::<usize>() as u64)?;
            let joined = values.join(separator);
            set_label(column, target, &joined);
        }
        for column in merge_same_labels(columns.columns)? {
            sink(column)?;
        }
        Ok(())
    }
}
