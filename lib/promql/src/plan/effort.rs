//! How much work a plan is, before anything is evaluated.

use super::{Grid, Node, NodeKind, Plan, WindowInput};
use crate::functions::FunctionId;

/// Plans of more nodes than this nest too deeply for an estimate.
const MOST_NODES: usize = 64;

/// What a plan makes of each series and of each sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Steps of all nodes together: how many values come of a series.
    pub steps: u64,
    /// How many ranges a sample lies in, at most; 1 where no range reaches over another.
    pub overlap: u64,
    /// How many times over the bytes of a series' labels are looked at, or written, at most: where labels are made, each
    /// byte of the text that says how can bring in a whole label.
    pub text: u64,
}

impl Plan {
    /// None where that says little of the work: there are subqueries, whose steps are looked at many times, labels made of
    /// labels that were made, or so many nodes that they nest deeply.
    #[must_use]
    pub fn effort(&self) -> Option<Effort> {
        let mut estimate = Estimate {
            effort: Effort {
                steps: 0,
                overlap: 1,
                text: 1,
            },
            nodes: 0,
            labels_made: 0,
        };
        estimate.add(&self.root)?;
        Some(estimate.effort)
    }
}

struct Estimate {
    effort: Effort,
    nodes: usize,
    labels_made: usize,
}

impl Estimate {
    fn add(&mut self, node: &Node) -> Option<()> {
        self.nodes += 1;
        match &node.kind {
            NodeKind::Window(window) => {
                if matches!(window.input, WindowInput::Subquery(_)) {
                    return None;
                }
                self.effort.overlap = self.effort.overlap.max(overlap(window.range_ms, node.grid));
            }
            NodeKind::Call {
                func: FunctionId::LabelReplace | FunctionId::LabelJoin,
                args,
                ..
            } => {
                self.labels_made += 1;
                self.effort.text = args.iter().fold(self.effort.text, |text, arg| match &arg.kind {
                    NodeKind::String(said) => text.saturating_add(said.len() as u64),
                    NodeKind::Bytes(said) => text.saturating_add(said.len() as u64),
                    _ => text,
                });
            }
            _ => {}
        }
        if self.nodes > MOST_NODES || self.labels_made > 1 {
            return None;
        }
        self.effort.steps = self.effort.steps.saturating_add(node.grid.n as u64);
        node.children().into_iter().try_for_each(|child| self.add(child))
    }
}

fn overlap(range_ms: i64, grid: Grid) -> u64 {
    let reached = range_ms.checked_div(grid.step_ms).unwrap_or(0).unsigned_abs();
    reached.saturating_add(1).min(grid.n as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::{ParseOptions, parse};
    use crate::plan::EvalParams;

    fn effort(query: &str, params: EvalParams) -> Option<Effort> {
        let expr = parse(query, &ParseOptions::default()).unwrap();
        Plan::new(query, &expr, params).unwrap().effort()
    }

    #[test]
    fn ranges_that_reach_over_each_other_look_at_samples_again() {
        let hour = EvalParams::range(0, 3_600_000, 60_000);
        let of = |query| effort(query, hour).map(|effort| effort.overlap);
        assert_eq!(of("a"), Some(1));
        assert_eq!(of("rate(a[5m])"), Some(6));
        assert_eq!(of("sum(rate(a[5m])) / sum(rate(a[1m]))"), Some(6));
        assert_eq!(of("rate(a[1d])"), Some(61));
        let instant = effort("rate(a[1d])", EvalParams::instant(0)).unwrap();
        assert_eq!(instant.overlap, 1);
        assert_eq!(effort("a + b", hour).unwrap().steps, 3 * 61);
    }

    #[test]
    fn labels_may_grow_by_as_much_as_is_said_of_them() {
        let of = |query: &str| effort(query, EvalParams::instant(0)).unwrap().text;
        assert_eq!(of("sum by (b) (a)"), 1);
        let many = "$1".repeat(300);
        let query = format!("label_replace(a, \"b\", \"{many}\", \"c\", \"(.*)\")");
        assert!(of(&query) > 600, "{}", of(&query));
    }

    #[test]
    fn what_is_looked_at_many_times_is_not_estimated() {
        let at = EvalParams::instant(0);
        assert_eq!(effort("max_over_time(rate(a[5m])[1h:1m])", at), None);
        let twice = "label_join(label_join(a, \"b\", \"\", \"b\", \"b\"), \"b\", \"\", \"b\", \"b\")";
        assert_eq!(effort(twice, at), None);
    }
}
