//! What is pushed down gives what is evaluated in one place: values to the bit, warnings, errors, and their order.

#![allow(clippy::unwrap_used)]

mod random;

use gnomon_promql::partial::{FragmentAnswer, Partial, PartialIter, ReadyPartials};
use gnomon_promql::{
    CancelFlag, Engine, EvalParams, Fragment, FragmentError, Limits, MemorySource, ParseOptions, Plan, SelectRequest,
    SeriesIter, SeriesSource, SourceError, parse,
};
use proptest::prelude::*;
use std::cell::Cell;

/// Some shards, each with its own series, and blocks that have what is before a time.
struct Cluster {
    whole: MemorySource,
    shards: Vec<MemorySource>,
    blocks_until_ms: i64,
    /// The steps that look at blocks are evaluated apart too.
    early_apart: bool,
    pushed: Cell<usize>,
    unfit: Cell<usize>,
}

impl SeriesSource for Cluster {
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesIter + '_>, SourceError> {
        self.whole.select(request)
    }

    fn fragment(&self, _: usize, fragment: &Fragment) -> Result<Option<FragmentAnswer<'_>>, SourceError> {
        let from_step = fragment.first_step_after(self.blocks_until_ms);
        if from_step == fragment.steps && !self.early_apart {
            return Ok(None);
        }
        let Some(late) = self.evaluate(&fragment.from_step(from_step))? else {
            return Ok(None);
        };
        let early = if self.early_apart {
            match self.evaluate(&fragment.first_steps(from_step))? {
                Some(early) => Some(early),
                None => return Ok(None),
            }
        } else {
            None
        };
        self.pushed.set(self.pushed.get() + 1);
        let boxed = |pieces: Vec<Partial>| -> Box<dyn PartialIter> { Box::new(ReadyPartials(pieces.into_iter())) };
        Ok(Some(FragmentAnswer {
            from_step,
            early: early.map(boxed),
            partials: boxed(late),
        }))
    }
}

impl Cluster {
    /// What shards make of some steps, columns in order; none where they cannot.
    fn evaluate(&self, fragment: &Fragment) -> Result<Option<Vec<Partial>>, SourceError> {
        let (mut columns, mut others) = (Vec::new(), Vec::new());
        if fragment.steps == 0 {
            return Ok(Some(others));
        }
        for shard in &self.shards {
            let mut give = |partial| {
                match partial {
                    Partial::Column(column) => columns.push(column),
                    other => others.push(other),
                }
                Ok(())
            };
            match Engine::fragment(fragment, shard, &Limits::default(), &CancelFlag::new(), &mut give) {
                Ok(()) => {}
                Err(FragmentError::Unfit(_)) => {
                    self.unfit.set(self.unfit.get() + 1);
                    return Ok(None);
                }
                Err(FragmentError::Eval(error)) => return Err(SourceError(error.to_string())),
            }
        }
        columns.sort_by(|a, b| a.origin.cmp(&b.origin));
        Ok(Some(columns.into_iter().map(Partial::Column).chain(others).collect()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(random::cases(400)) })]

    #[test]
    fn pushed_down_is_evaluated_in_one_place(
        query in random::query(),
        series in random::series(),
        placement in any::<u64>(),
        shards in 1usize..4,
        blocks_until_ms in prop_oneof![Just(-1_000_000i64), 0i64..600_000],
        start in 0i64..400_000,
        step in 1_000i64..150_000,
        steps in 0i64..6,
        delayed_name_removal in any::<bool>(),
        early_apart in any::<bool>(),
    ) {
        let mut cluster = Cluster {
            whole: MemorySource::new(),
            shards: vec![MemorySource::new(); shards],
            blocks_until_ms,
            early_apart,
            pushed: Cell::new(0),
            unfit: Cell::new(0),
        };
        for (labels, samples) in &series {
            let shard = (labels.stable_hash().wrapping_mul(placement | 1) >> 32) as usize % shards;
            random::add(&mut cluster.whole, labels, samples);
            random::add(&mut cluster.shards[shard], labels, samples);
        }
        let params = if steps == 0 {
            EvalParams::instant(start)
        } else {
            EvalParams::range(start, start + (steps - 1) * step, step)
        };
        let params = EvalParams { lookback_ms: 60_000, delayed_name_removal, ..params };
        let expr = parse(&query, &ParseOptions::everything()).unwrap();
        let plan = Plan::new(&query, &expr, params).unwrap();
        let naive = Plan::naive(&query, &expr, params).unwrap();
        let run = |plan: &Plan, source: &dyn SeriesSource| {
            Engine::execute(plan, source, &Limits::default(), &CancelFlag::new())
        };
        let apart = run(&plan, &cluster);
        let whole = run(&naive, &cluster.whole);
        prop_assert_eq!(random::text(&apart), random::text(&whole), "{}\n{}", query, plan.explain());
    }
}

/// That these are pushed down at all.
#[test]
fn what_is_meant_to_be_is_pushed_down() {
    let mut whole = MemorySource::new();
    for i in 0..40 {
        for (x, y) in [("1", "1"), ("1", "2"), ("2", "1")] {
            whole.add_float(&random::labels("c_total", x, y), i * 15_000, i as f64 * 0.1);
        }
    }
    for (query, expected) in [
        ("sum(rate(c_total[5m]))", 1),
        ("avg by (x) (c_total)", 1),
        ("max without (y) (irate(c_total[1m]) * 2)", 1),
        ("topk(1, increase(c_total[5m]))", 1),
        ("count by (__name__) ({__name__=~\".+\"})", 1),
        ("sum(c_total) / sum(c_total offset 1m)", 2),
        ("sum(c_total) + sum(c_total)", 1),
        ("stddev(rate(c_total[5m]))", 1),
        ("sum(rate({x=\"1\"}[5m]))", 0),
        ("absent(c_total)", 1),
        ("timestamp(c_total)", 0),
        ("c_total @ 300", 1),
    ] {
        let cluster = Cluster {
            shards: vec![whole.clone()],
            whole: whole.clone(),
            blocks_until_ms: i64::MIN,
            early_apart: false,
            pushed: Cell::new(0),
            unfit: Cell::new(0),
        };
        let expr = parse(query, &ParseOptions::everything()).unwrap();
        let plan = Plan::new(query, &expr, EvalParams::instant(500_000)).unwrap();
        let naive = Plan::naive(query, &expr, EvalParams::instant(500_000)).unwrap();
        let run = |plan: &Plan| Engine::execute(plan, &cluster, &Limits::default(), &CancelFlag::new());
        assert_eq!(random::text(&run(&plan)), random::text(&run(&naive)), "{query}");
        assert_eq!(cluster.pushed.get(), expected, "{query}\n{}", plan.explain());
    }
}
