//! The tree back to text; what it prints parses to the same tree.

use crate::ast::{
    AggregateExpr, At, BinaryExpr, Cardinality, DurationExpr, Expr, ExprKind, SubqueryExpr, VectorMatching,
    VectorSelector,
};
use gnomon_model::Matcher;
use gnomon_model::duration::format_duration_ms;
use gnomon_model::gofloat::{General, Plain, fixed};
use gnomon_model::labels::is_legacy_label_name;
use std::fmt;

/// A text as a PromQL string, in double quotes.
pub(crate) struct QuotedString<'a>(pub(crate) &'a str);

/// Bytes as a PromQL string, in double quotes: what is not UTF-8 as `\xff`.
pub(crate) struct QuotedBytes<'a>(pub(crate) &'a [u8]);

impl fmt::Display for QuotedBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for chunk in self.0.utf8_chunks() {
            write_escaped(f, chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        f.write_str("\"")
    }
}

/// Whether Go's `%q` shows it as it is (`strconv.IsPrint`): no space but the plain one, no control, nothing that is not seen.
pub(crate) fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Behind another character, so that one which combines with it counts as what is seen.
    let mut text = String::from("a");
    text.push(c);
    text.escape_debug().nth(1) != Some('\\')
}

/// As Go's `%q` shows what is not ASCII and not [`is_print`].
pub(crate) fn code_escape(c: char) -> String {
    match c as u32 {
        code @ ..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    use fmt::Write;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
            c if !is_print(c) => f.write_str(&code_escape(c))?,
            c => f.write_char(c)?,
        }
    }
    Ok(())
}

impl fmt::Display for QuotedString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        write_escaped(f, self.0)?;
        f.write_str("\"")
    }
}

fn write_seconds(f: &mut fmt::Formatter<'_>, value: f64, duration: bool) -> fmt::Result {
    if value == f64::INFINITY {
        // Not `+Inf`: a sign binds looser than `^`.
        return f.write_str("Inf");
    }
    if !duration {
        return write!(f, "{}", Plain(value));
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    write!(f, "{sign}{}", format_duration_ms((value.abs() * 1000.0).round() as i64))
}

impl fmt::Display for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds { value, duration, .. } => write_seconds(f, *value, *duration),
            Self::Step(_) => f.write_str("step()"),
            Self::Range(_) => f.write_str("range()"),
            Self::Paren(inner) => write!(f, "({inner})"),
            Self::Unary { negative, expr, .. } => write!(f, "{}{expr}", if *negative { "-" } else { "+" }),
            Self::Binary { op, lhs, rhs } => write!(f, "{lhs} {} {rhs}", op.symbol()),
            Self::Min(a, b) => write!(f, "min_of({a}, {b})"),
            Self::Max(a, b) => write!(f, "max_of({a}, {b})"),
        }
    }
}

/// A whole duration: a number has a unit, which it has not within an expression.
fn whole(duration: &DurationExpr) -> impl fmt::Display {
    fmt::from_fn(move |f| match duration {
        DurationExpr::Seconds { value, .. } => write_seconds(f, *value, true),
        expression => write!(f, "{expression}"),
    })
}

fn write_modifiers(f: &mut fmt::Formatter<'_>, offset: Option<&DurationExpr>, at: Option<At>) -> fmt::Result {
    match at {
        Some(At::Millis(ms)) => write!(f, " @ {}", fixed(ms as f64 / 1000.0, 3))?,
        Some(At::Start) => f.write_str(" @ start()")?,
        Some(At::End) => f.write_str(" @ end()")?,
        None => {}
    }
    match offset {
        Some(DurationExpr::Seconds { value: 0.0, .. }) | None => Ok(()),
        Some(offset @ DurationExpr::Binary { .. }) => write!(f, " offset ({offset})"),
        Some(offset) => write!(f, " offset {}", whole(offset)),
    }
}

fn write_selector(f: &mut fmt::Formatter<'_>, selector: &VectorSelector) -> fmt::Result {
    f.write_str(&selector.name)?;
    let named = usize::from(!selector.name.is_empty());
    let shown = &selector.matchers[..selector.matchers.len().saturating_sub(named)];
    if shown.is_empty() && named == 1 {
        return Ok(());
    }
    // As Prometheus has it, by what is written and not by names.
    let mut written: Vec<String> = shown.iter().map(matcher_text).collect();
    written.sort_unstable();
    write!(f, "{{{}}}", written.join(","))
}

fn matcher_text(matcher: &Matcher) -> String {
    let (name, op, value) = (matcher.name(), matcher.op(), QuotedString(matcher.value()));
    match is_legacy_label_name(name) {
        true => format!("{name}{op}{value}"),
        false => format!("{}{op}{value}", QuotedString(name)),
    }
}

fn write_extended(f: &mut fmt::Formatter<'_>, selector: &VectorSelector) -> fmt::Result {
    f.write_str(match (selector.anchored, selector.smoothed) {
        (true, _) => " anchored",
        (_, true) => " smoothed",
        _ => "",
    })
}

fn write_labels(f: &mut fmt::Formatter<'_>, labels: &[String]) -> fmt::Result {
    f.write_str("(")?;
    for (i, label) in labels.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        if is_legacy_label_name(label) {
            f.write_str(label)?;
        } else {
            write!(f, "{}", QuotedString(label))?;
        }
    }
    f.write_str(")")
}

fn write_matching(f: &mut fmt::Formatter<'_>, matching: &VectorMatching) -> fmt::Result {
    let grouped = matches!(matching.card, Cardinality::ManyToOne | Cardinality::OneToMany);
    if matching.on || !matching.labels.is_empty() || grouped {
        f.write_str(if matching.on { " on " } else { " ignoring " })?;
        write_labels(f, &matching.labels)?;
        if grouped {
            f.write_str(if matching.card == Cardinality::ManyToOne {
                " group_left "
            } else {
                " group_right "
            })?;
            write_labels(f, &matching.include)?;
        }
    }
    match (matching.fill_left, matching.fill_right) {
        (Some(both), Some(_)) if matching.fill_both => write!(f, " fill ({})", General(both)),
        (left, right) => {
            if let Some(left) = left {
                write!(f, " fill_left ({})", General(left))?;
            }
            if let Some(right) = right {
                write!(f, " fill_right ({})", General(right))?;
            }
            Ok(())
        }
    }
}

/// What stands between both sides.
pub(crate) fn operator(binary: &BinaryExpr) -> impl fmt::Display {
    fmt::from_fn(|f| {
        f.write_str(binary.op.symbol())?;
        if binary.return_bool {
            f.write_str(" bool")?;
        }
        write_matching(f, &binary.matching)
    })
}

fn write_binary(f: &mut fmt::Formatter<'_>, binary: &BinaryExpr) -> fmt::Result {
    write!(f, "{} {} {}", binary.lhs, operator(binary), binary.rhs)
}

/// What stands before the bracket.
pub(crate) fn aggregation_prefix(aggregate: &AggregateExpr) -> impl fmt::Display {
    fmt::from_fn(|f| {
        f.write_str(aggregate.op.name())?;
        if aggregate.without || !aggregate.grouping.is_empty() {
            f.write_str(if aggregate.without { " without " } else { " by " })?;
            write_labels(f, &aggregate.grouping)?;
            f.write_str(" ")?;
        }
        Ok(())
    })
}

/// What stands behind the expression.
pub(crate) fn subquery_suffix(subquery: &SubqueryExpr) -> impl fmt::Display {
    fmt::from_fn(|f| {
        write!(f, "[{}:", whole(&subquery.range))?;
        if let Some(step) = &subquery.step {
            write!(f, "{}", whole(step))?;
        }
        f.write_str("]")?;
        write_modifiers(f, subquery.offset.as_ref(), subquery.at)
    })
}

fn write_aggregate(f: &mut fmt::Formatter<'_>, aggregate: &AggregateExpr) -> fmt::Result {
    write!(f, "{}(", aggregation_prefix(aggregate))?;
    if let Some(param) = &aggregate.param {
        write!(f, "{param}, ")?;
    }
    write!(f, "{})", aggregate.expr)
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number { value, duration } => write_seconds(f, *value, *duration),
            ExprKind::String(text) => write!(f, "{}", QuotedString(text)),
            ExprKind::Bytes(bytes) => write!(f, "{}", QuotedBytes(bytes)),
            ExprKind::Paren(inner) => write!(f, "({inner})"),
            ExprKind::Unary { negative, expr } => write!(f, "{}{expr}", if *negative { "-" } else { "+" }),
            ExprKind::Binary(binary) => write_binary(f, binary),
            ExprKind::Aggregate(aggregate) => write_aggregate(f, aggregate),
            ExprKind::Call(call) => {
                write!(f, "{}(", call.func.name)?;
                for (i, arg) in call.args.iter().enumerate() {
                    write!(f, "{}{arg}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            ExprKind::Vector(selector) => {
                write_selector(f, selector)?;
                write_extended(f, selector)?;
                write_modifiers(f, selector.offset.as_ref(), selector.at)
            }
            ExprKind::Matrix(matrix) => {
                write_selector(f, &matrix.selector)?;
                write!(f, "[{}]", whole(&matrix.range))?;
                write_extended(f, &matrix.selector)?;
                write_modifiers(f, matrix.selector.offset.as_ref(), matrix.selector.at)
            }
            ExprKind::Subquery(subquery) => write!(f, "{}{}", subquery.expr, subquery_suffix(subquery)),
        }
    }
}
