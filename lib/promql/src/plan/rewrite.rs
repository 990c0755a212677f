//! Rewrites: each takes a plan and gives one with the same result, to the bit, with the same warnings and errors.

mod common;
mod constants;
mod fragments;
mod invariants;
mod matchers;
mod projection;
mod requests;
#[cfg(test)]
mod tests;

use super::Plan;

type Rewrite = fn(Plan) -> Plan;

/// By name, in the order in which they are made: later ones build on what earlier ones leave.
const REWRITES: &[(&str, Rewrite)] = &[
    ("constants", constants::fold),
    ("matchers", matchers::propagate),
    ("projection", projection::note),
    ("fragments", fragments::mark),
    ("common", common::share),
    ("requests", requests::merge),
];

/// What Prometheus does too, and what shows: a `sort` that is evaluated once has an order.
pub(super) fn meaning(plan: Plan) -> Plan {
    invariants::mark(plan)
}

pub(super) fn all(plan: Plan) -> Plan {
    REWRITES.iter().fold(plan, |plan, (_, rewrite)| rewrite(plan))
}

/// The rewrite of a name alone.
#[cfg(test)]
fn named(plan: Plan, name: &str) -> Plan {
    let rewrite = REWRITES.iter().find(|(known, _)| *known == name);
    rewrite.map_or_else(|| panic!("no rewrite {name}"), |(_, rewrite)| rewrite)(plan)
}
