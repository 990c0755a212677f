//! Which steps of a fragment look at one block of each shard at most: who has the block can evaluate them. The others
//! need samples of several sources put together.

use super::plan::FanoutPlan;
use gnomon_promql::Fragment;
use std::collections::BTreeMap;
use std::ops::Range;

/// Asking for more evaluations than this takes longer than they save.
const MOST_OF_BLOCKS: usize = 256;
/// All of them are opened at once, and read one after the other: the streams of the later ones hold places of who serves
/// them, and what was read ahead, until it is their turn.
const MOST_MERGED: usize = 8;

/// Every step is in one of `merged`, or what it looks at is in those of `blocks` that have it, a series in one of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stretches {
    /// Blocks by their place in the plan, and steps that look at nothing else of their shard's.
    pub(super) blocks: Vec<(usize, Range<usize>)>,
    /// Ascending.
    pub(super) merged: Vec<Range<usize>>,
}

impl Stretches {
    /// None where it is not worth it. What heads have is to be found out apart: see [`Stretches::alone`].
    pub(super) fn of(plan: &FanoutPlan, fragment: &Fragment) -> Option<Self> {
        let touched = plan.blocks.iter().map(|block| {
            let first = first_step(fragment, |(_, end_ms)| end_ms >= block.min_sample_ms);
            let end = first_step(fragment, |(start_ms, _)| start_ms > block.max_sample_ms);
            first..end
        });
        let touched: Vec<Range<usize>> = touched.collect();
        let mut merged = several(plan, &touched);
        merged.push(beyond(plan, fragment)..fragment.steps);
        let merged = united(merged);
        let is_little = merged.iter().map(Range::len).sum::<usize>() <= fragment.steps / 2;
        let mut blocks = Vec::new();
        for (at, steps) in touched.iter().enumerate() {
            let alone = between(&merged, fragment.steps).filter_map(|alone| common(&alone, steps));
            blocks.extend(alone.map(|steps| (at, steps)));
        }
        let are_few = (1..=MOST_OF_BLOCKS).contains(&blocks.len()) && merged.len() <= MOST_MERGED;
        (is_little && are_few).then_some(Self { blocks, merged })
    }

    /// From the first to the last of the steps that are not merged: of what they look at, heads must have nothing.
    pub(super) fn alone(&self, steps: usize) -> Range<usize> {
        let mut alone = between(&self.merged, steps);
        let first = alone.next().unwrap_or(0..0);
        let last = alone.last().unwrap_or_else(|| first.clone());
        first.start..last.end
    }
}

/// The first step of which something holds that holds of all later ones too; the number of steps if there is none.
fn first_step(fragment: &Fragment, holds: impl Fn((i64, i64)) -> bool) -> usize {
    let (mut low, mut high) = (0, fragment.steps);
    while low < high {
        let middle = usize::midpoint(low, high);
        if holds(fragment.samples_of_step(middle)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Steps that look at several blocks of one shard.
fn several(plan: &FanoutPlan, touched: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut by_shard: BTreeMap<u32, Vec<&Range<usize>>> = BTreeMap::new();
    for (block, steps) in plan.blocks.iter().zip(touched) {
        by_shard.entry(block.shard).or_default().push(steps);
    }
    let mut found = Vec::new();
    for steps in by_shard.values_mut() {
        steps.sort_by_key(|steps| steps.start);
        let mut end = 0;
        for steps in steps {
            found.push(steps.start..end.min(steps.end));
            end = end.max(steps.end);
        }
    }
    found
}

/// The first step that looks at what a shard may not have made a block of yet.
fn beyond(plan: &FanoutPlan, fragment: &Fragment) -> usize {
    let mut ends: BTreeMap<u32, i64> = BTreeMap::new();
    for block in &plan.blocks {
        let end = ends.entry(block.shard).or_insert(block.end_ms);
        *end = (*end).max(block.end_ms);
    }
    let end_ms = ends.into_values().min().unwrap_or(i64::MIN);
    first_step(fragment, |(_, newest_ms)| newest_ms >= end_ms)
}

/// Ascending and apart from each other; without empty ones.
fn united(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut all: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

/// What of the first `steps` is in none of them.
fn between(ranges: &[Range<usize>], steps: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain([steps]);
    starts
        .zip(ends)
        .map(|(start, end)| start..end)
        .filter(|range| !range.is_empty())
}

fn common(one: &Range<usize>, other: &Range<usize>) -> Option<Range<usize>> {
    let common = one.start.max(other.start)..one.end.min(other.end);
    (!common.is_empty()).then_some(common)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_promql::{EvalParams, ParseOptions, Plan, parse};
    use gnomon_proto::v1;
    use proptest::prelude::*;

    /// A step a second from 0 on, each looking a second back, or as the query says.
    fn fragment(query: &str, steps: i64) -> Fragment {
        let expr = parse(query, &ParseOptions::default()).unwrap();
        let params = EvalParams {
            end_ms: (steps - 1) * 1000,
            step_ms: 1000,
            ..EvalParams::instant(0)
        };
        let plan = Plan::new(query, &expr, params).unwrap();
        plan.pushed().next().unwrap().0.clone()
    }

    fn block(shard: u32, start: i64, end: i64) -> v1::BlockRecord {
        v1::BlockRecord {
            shard,
            start_ms: start * 1000,
            end_ms: end * 1000,
            min_sample_ms: start * 1000,
            max_sample_ms: end * 1000 - 1,
            ..v1::BlockRecord::default()
        }
    }

    fn plan(blocks: Vec<v1::BlockRecord>) -> FanoutPlan {
        FanoutPlan {
            blocks,
            ..FanoutPlan::default()
        }
    }

    #[test]
    fn steps_at_the_ends_of_blocks_are_merged_and_the_others_are_each_blocks_own() {
        let plan = plan(vec![block(0, 0, 20), block(0, 20, 40), block(1, 0, 40)]);
        let fragment = fragment("sum(rate(x[3s]))", 40);
        let stretches = Stretches::of(&plan, &fragment).unwrap();
        // At 20 s to 22 s the last three seconds are of both blocks.
        assert_eq!(stretches.merged, vec![20..23]);
        assert_eq!(stretches.blocks, [(0, 0..20), (1, 23..40), (2, 0..20), (2, 23..40)]);
        assert_eq!(stretches.alone(40), 0..40);
    }

    #[test]
    fn what_no_block_reaches_is_merged() {
        let plan = plan(vec![block(0, 0, 30), block(1, 0, 20)]);
        let stretches = Stretches::of(&plan, &fragment("sum(x)", 35)).unwrap();
        assert_eq!(stretches.merged, vec![20..35]);
        assert_eq!(stretches.alone(35), 0..20);
        // More than half of it is not worth it.
        assert_eq!(Stretches::of(&plan, &fragment("sum(x)", 41)), None);
        assert_eq!(Stretches::of(&self::plan(Vec::new()), &fragment("sum(x)", 5)), None);
    }

    proptest! {
        #[test]
        fn a_step_that_is_not_merged_looks_at_one_block_of_a_shard_and_it_has_it(
            blocks in prop::collection::vec((0u32..3, 0i64..60, 1i64..40), 1..8),
            range in 1i64..9,
            offset in -5i64..5,
        ) {
            let blocks = blocks.into_iter().map(|(shard, start, length)| block(shard, start, start + length));
            let plan = plan(blocks.collect());
            let fragment = fragment(&format!("sum(rate(x[{range}s] offset {offset}s))"), 80);
            let Some(stretches) = Stretches::of(&plan, &fragment) else { return Ok(()) };
            for step in 0..80 {
                let (start_ms, end_ms) = fragment.samples_of_step(step);
                let looks = |b: &v1::BlockRecord| b.min_sample_ms <= end_ms && start_ms <= b.max_sample_ms;
                let of_step = stretches.blocks.iter().filter(|(_, steps)| steps.contains(&step));
                let mut given: Vec<usize> = of_step.map(|(at, _)| *at).collect();
                given.sort_unstable();
                if stretches.merged.iter().any(|steps| steps.contains(&step)) {
                    prop_assert!(given.is_empty());
                    continue;
                }
                let wanted: Vec<usize> = (0..plan.blocks.len()).filter(|at| looks(&plan.blocks[*at])).collect();
                prop_assert_eq!(&given, &wanted, "step {}", step);
                let mut shards: Vec<u32> = given.iter().map(|at| plan.blocks[*at].shard).collect();
                shards.dedup();
                shards.sort_unstable();
                let all = shards.len();
                shards.dedup();
                prop_assert_eq!(shards.len(), all);
                prop_assert_eq!(given.len(), all);
                prop_assert!(stretches.alone(80).contains(&step));
            }
        }
    }
}
