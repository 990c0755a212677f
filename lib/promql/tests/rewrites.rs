//! Rewritten plans give what the plans as written give: values to the bit, warnings, errors.

#![allow(clippy::unwrap_used)]

mod random;

use gnomon_promql::{CancelFlag, Engine, EvalParams, Limits, MemorySource, ParseOptions, Plan, parse};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(random::cases(400)) })]

    #[test]
    fn rewrites_change_no_result(
        query in random::query(),
        series in random::series(),
        start in 0i64..400_000,
        step in 1_000i64..90_000,
        steps in 0i64..6,
        delayed_name_removal in any::<bool>(),
        max_samples in prop_oneof![Just(50_000_000u64), Just(5_000)],
    ) {
        let mut source = MemorySource::new();
        for (labels, samples) in &series {
            random::add(&mut source, labels, samples);
        }
        source.set_reset_hints();
        let params = if steps == 0 {
            EvalParams::instant(start)
        } else {
            EvalParams::range(start, start + (steps - 1) * step, step)
        };
        let params = EvalParams { lookback_ms: 60_000, delayed_name_removal, ..params };
        let expr = parse(&query, &ParseOptions::everything()).map_err(|e| TestCaseError::fail(format!("{query}: {e}")))?;
        let run = |plan: &Plan| {
            Engine::execute(plan, &source, &Limits { max_samples, ..Limits::default() }, &CancelFlag::new())
        };
        let naive = Plan::naive(&query, &expr, params).unwrap();
        let plan = Plan::new(&query, &expr, params).unwrap();
        prop_assert_eq!(random::text(&run(&plan)), random::text(&run(&naive)), "{}\n{}", query, plan.explain());
    }
}
