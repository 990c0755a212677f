//! The tree as text of several lines, where one line would be long: as `promql/parser/prettier.go` of Prometheus splits it.
//! A node that is longer than a line puts its parts on lines of their own, one level deeper.

use crate::ast::{Expr, ExprKind};
use crate::printer::{aggregation_prefix, operator, subquery_suffix};
use std::fmt::{self, Write};

/// Bytes that a node may have on a line.
const LINE_BYTES: usize = 100;
const INDENT: &str = "  ";

/// A text beyond this is not split: lines deep within would be blanks mostly.
const MAX_BYTES: usize = 16 << 20;

impl Expr {
    /// Split into lines where it is long.
    #[must_use]
    pub fn pretty(&self) -> String {
        let mut out = Bounded {
            text: String::new(),
            left: MAX_BYTES,
        };
        match write(&mut out, self, 0) {
            Ok(()) => out.text,
            Err(fmt::Error) => self.to_string(),
        }
    }
}

/// A text that takes no more than so many bytes.
struct Bounded {
    text: String,
    left: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.text.push_str(text);
        Ok(())
    }
}

/// Only counts; fails once there is more than a line.
struct Line(usize);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(fmt::Error)?;
        Ok(())
    }
}

fn fits(expr: &Expr) -> bool {
    write!(Line(LINE_BYTES), "{expr}").is_ok()
}

fn indent(out: &mut Bounded, level: usize) -> fmt::Result {
    (0..level).try_for_each(|_| out.write_str(INDENT))
}

fn write(out: &mut Bounded, expr: &Expr, level: usize) -> fmt::Result {
    match &expr.kind {
        ExprKind::Subquery(subquery) => {
            // As there, without the indent.
            if fits(expr) {
                return write!(out, "{expr}");
            }
            write(out, &subquery.expr, level)?;
            write!(out, "{}", subquery_suffix(subquery))
        }
        // The sign stands right before what it is for.
        ExprKind::Unary { negative, expr } => {
            indent(out, level)?;
            out.write_str(if *negative { "-" } else { "+" })?;
            let mut inner = Bounded {
                text: String::new(),
                left: out.left,
            };
            write(&mut inner, expr, level)?;
            out.write_str(inner.text.trim())
        }
        ExprKind::Binary(binary) if !fits(expr) => {
            write(out, &binary.lhs, level + 1)?;
            out.write_str("\n")?;
            indent(out, level)?;
            writeln!(out, "{}", operator(binary))?;
            write(out, &binary.rhs, level + 1)
        }
        ExprKind::Aggregate(aggregate) if !fits(expr) => {
            indent(out, level)?;
            writeln!(out, "{}(", aggregation_prefix(aggregate))?;
            if let Some(param) = &aggregate.param {
                write(out, param, level + 1)?;
                out.write_str(",\n")?;
            }
            write(out, &aggregate.expr, level + 1)?;
            close(out, level)
        }
        ExprKind::Call(call) if !fits(expr) => {
            indent(out, level)?;
            writeln!(out, "{}(", call.func.name)?;
            for (i, arg) in call.args.iter().enumerate() {
                if i > 0 {
                    out.write_str(",\n")?;
                }
                write(out, arg, level + 1)?;
            }
            close(out, level)
        }
        ExprKind::Paren(inner) if !fits(expr) => {
            indent(out, level)?;
            out.write_str("(\n")?;
            write(out, inner, level + 1)?;
            close(out, level)
        }
        _ => {
            indent(out, level)?;
            write!(out, "{expr}")
        }
    }
}

fn close(out: &mut Bounded, level: usize) -> fmt::Result {
    out.write_str("\n")?;
    indent(out, level)?;
    out.write_str(")")
}

#[cfg(test)]
mod tests {
    use crate::{ParseOptions, parse};

    fn pretty(query: &str) -> String {
        parse(query, &ParseOptions::everything()).unwrap().pretty()
    }

    #[test]
    fn what_fits_a_line_stays_on_it() {
        let exact = format!("{}{{b=\"{}\"}}", "a".repeat(50), "c".repeat(44));
        assert_eq!(exact.len(), 100);
        for query in [
            "sum by (a) (rate(b[5m]))",
            "a + on (b) c",
            &format!("({})", &exact[2..]),
        ] {
            assert_eq!(pretty(query), query);
        }
        assert_eq!(pretty(&format!("({exact})")), format!("(\n  {exact}\n)"));
    }

    #[test]
    fn long_expressions_are_split() {
        let long = |name: &str| format!("{name}{{handler=\"/api/v1/query_range\",instance=~\"host-.*\"}}");
        let query = format!(
            "histogram_quantile(0.9, sum by (le, job) (rate({}[5m])) / on (job) group_left (x) max without (le) ({}))",
            long("http_request_duration_seconds_bucket"),
            long("scale_factor_of_buckets")
        );
        assert_eq!(
            pretty(&query),
            "histogram_quantile(\n  0.9,\n    sum by (le, job) (\n      \
             rate(http_request_duration_seconds_bucket{handler=\"/api/v1/query_range\",instance=~\"host-.*\"}[5m])\n    \
             )\n  / on (job) group_left (x)\n    \
             max without (le) (scale_factor_of_buckets{handler=\"/api/v1/query_range\",instance=~\"host-.*\"})\n)"
        );
    }

    #[test]
    fn depth_does_not_make_a_text_without_end() {
        let wide = format!("label_join(v,\"a\",\",\"{})", ",\"b\"".repeat(100_000));
        let deep = format!("{}{wide}{}", "(".repeat(150), ")".repeat(150));
        let text = pretty(&deep);
        assert!(!text.contains('\n') && text.len() < 1 << 20, "{}", text.len());
    }
}
