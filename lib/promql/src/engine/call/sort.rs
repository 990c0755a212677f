//! Orders of instant vectors; a range query's result has its own order.

use super::arg;
use crate::engine::arithmetic::nan_first;
use crate::engine::column::{Column, Kind};
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::engine::order;
use crate::functions::FunctionId as F;
use crate::plan::Node;
use std::cmp::Ordering;

/// Runs of digits compare as numbers, everything else as text.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (x, rest_a) = chunk(a);
        let (y, rest_b) = chunk(b);
        if x.is_empty() || y.is_empty() {
            return a.len().min(1).cmp(&b.len().min(1));
        }
        let digits = |text: &str| text.as_bytes().first().is_some_and(u8::is_ascii_digit);
        let order = if digits(x) && digits(y) {
            let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            x.cmp(y)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// The leading run of digits, or of others.
fn chunk(text: &str) -> (&str, &str) {
    let digit = text.as_bytes().first().is_some_and(u8::is_ascii_digit);
    let end = text
        .bytes()
        .position(|b| b.is_ascii_digit() != digit)
        .unwrap_or(text.len());
    text.split_at(end)
}

fn by_labels(a: &Column, b: &Column, labels: &[&str]) -> Ordering {
    for label in labels {
        let (x, y) = (a.labels.get(label).unwrap_or(""), b.labels.get(label).unwrap_or(""));
        let order = if x == y {
            Ordering::Equal
        } else {
            natural(x, y).then_with(|| x.cmp(y))
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.labels.cmp(&b.labels)
}

impl Exec<'_> {
    pub(super) fn sort(&self, func: F, args: &[Node], sink: &mut Sink<'_>) -> Evaluated<()> {
        let input = arg(args, 0)?;
        let by_value = matches!(func, F::Sort | F::SortDesc);
        let mut labels = Vec::new();
        for label in args.iter().skip(1) {
            labels.push(self.string(label)?);
        }
        let mut columns = self.collect(input)?;
        if by_value {
            for column in &mut columns.columns {
                for i in 0..column.len() {
                    if column.kinds[i] == Kind::Histogram {
                        column.clear(i);
                    }
                }
            }
            columns.columns.retain(Column::has_any);
        }
        if input.grid.n == 1 {
            order::sort_by(&mut columns.columns, self.cancel, |a, b| match func {
                // Not-a-number comes last either way.
                F::Sort | F::SortDesc => {
                    let (x, y) = (a.floats[0], b.floats[0]);
                    match (x.is_nan(), y.is_nan()) {
                        (true, _) | (_, true) => nan_first(y, x),
                        _ if func == F::Sort => nan_first(x, y),
                        _ => nan_first(y, x),
                    }
                }
                F::SortByLabel => by_labels(a, b, &labels),
                _ => by_labels(b, a, &labels),
            })?;
        }
        for column in columns.columns {
            sink(column)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_compare_as_numbers() {
        assert_eq!(natural("host2", "host10"), Ordering::Less);
        assert_eq!(natural("host2a", "host2"), Ordering::Greater);
        assert_eq!(natural("1.5.2", "1.15.0"), Ordering::Less);
    }
}
