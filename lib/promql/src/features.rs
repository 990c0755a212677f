//! What of the language there is, by the names that Prometheus' `/api/v1/features` has for it, and whether it is taken.

use crate::ast::{AggregateOp, BinaryOp};
use crate::functions::FUNCTIONS;
use crate::parser::ParseOptions;

/// What stands at selectors, aggregations and operators, and is always taken.
const SYNTAX: &[&str] = &[
    "at_modifier",
    "bool",
    "by",
    "duration_expr",
    "group_left",
    "group_right",
    "ignoring",
    "negative_offset",
    "offset",
    "on",
    "subqueries",
    "without",
];

/// Signs that Prometheus counts among the operators.
const SIGNS: &[&str] = &["=~", "!~", "@"];

/// Modifiers and forms of expressions.
pub fn syntax(language: &ParseOptions) -> impl Iterator<Item = (&'static str, bool)> {
    let (extended, fill) = (language.extended_range_selectors, language.fill_modifiers);
    let optional = [
        ("anchored", extended),
        ("smoothed", extended),
        ("fill", fill),
        ("fill_left", fill),
        ("fill_right", fill),
    ];
    SYNTAX.iter().map(|name| (*name, true)).chain(optional)
}

/// Operators and aggregations.
pub fn operators(language: &ParseOptions) -> impl Iterator<Item = (&'static str, bool)> {
    let experimental = language.experimental_functions;
    let binary = BinaryOp::ALL.into_iter().map(|op| (op.symbol(), true));
    let aggregations = AggregateOp::ALL.into_iter();
    let aggregations = aggregations.map(move |op| (op.name(), experimental || !op.experimental()));
    SIGNS.iter().map(|sign| (*sign, true)).chain(binary).chain(aggregations)
}

pub fn functions(language: &ParseOptions) -> impl Iterator<Item = (&'static str, bool)> {
    let experimental = language.experimental_functions;
    FUNCTIONS.iter().map(move |f| (f.name, experimental || !f.experimental))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn of<'a>(features: impl Iterator<Item = (&'a str, bool)>) -> BTreeMap<&'a str, bool> {
        let mut all = BTreeMap::new();
        for (name, taken) in features {
            assert_eq!(all.insert(name, taken), None, "{name} is there twice");
        }
        all
    }

    #[test]
    fn what_is_experimental_is_off_by_default() {
        let (stable, whole) = (ParseOptions::default(), ParseOptions::everything());
        let off = |all: BTreeMap<&'static str, bool>| -> Vec<&str> {
            let off = all.into_iter().filter(|(_, taken)| !taken);
            off.map(|(name, _)| name).collect()
        };
        let modifiers = ["anchored", "fill", "fill_left", "fill_right", "smoothed"];
        assert_eq!(off(of(syntax(&stable))), modifiers);
        assert_eq!(off(of(operators(&stable))), ["limit_ratio", "limitk"]);
        assert!(off(of(functions(&stable))).contains(&"mad_over_time"));
        assert!(off(of(syntax(&whole))).is_empty() && off(of(operators(&whole))).is_empty());
        assert!(off(of(functions(&whole))).is_empty());
    }

    /// The operators that Prometheus lists.
    #[test]
    fn operators_are_listed_as_there() {
        let listed: Vec<&str> = of(operators(&ParseOptions::default())).into_keys().collect();
        assert_eq!(
            listed.join(" "),
            "!= !~ % * + - / < </ <= == =~ > >/ >= @ ^ and atan2 avg bottomk count count_values group limit_ratio limitk max \
             min or quantile stddev stdvar sum topk unless"
        );
    }
}
