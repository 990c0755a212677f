//! Blocks: staged, live, condemned, merged.

use super::*;

#[test]
fn blocks_are_staged_then_live_then_condemned_and_never_the_other_way() {
    let machine = machine();
    run(
        &machine,
        &[
            (1, publish(1, &[1], &[]), "was never staged"),
            (1, stage(1, &[1, 2], &[]), ""),
            (2, stage(1, &[1, 2], &[]), ""),
            (2, stage(1, &[1, 3], &[]), "in the catalogue already"),
            (2, stage(2, &[2, 3], &[]), "part 0/2 is covered by block"),
            (2, publish(1, &[1], &[]), "is not what was staged"),
            (3, publish(1, &[1, 2], &[]), ""),
            (4, publish(1, &[1, 2], &[]), ""),
            (4, stage(2, &[2], &[]), "(live)"),
            (4, forget(&[1]), "is live"),
            (5, condemn(&[1, 77]), ""),
            (6, condemn(&[1]), ""),
            (6, publish(1, &[1, 2], &[]), "is condemned, not staged"),
            (6, stage(1, &[1, 2], &[]), "in the catalogue already"),
            (7, stage(2, &[2], &[]), ""),
            (8, condemn(&[2]), ""),
            (8, publish(2, &[2], &[]), "is condemned, not staged"),
            (9, forget(&[1, 2, 77]), ""),
        ],
    );
    assert!(machine.state().blocks.is_empty());
}

#[test]
fn giving_up_a_block_never_takes_one_that_was_published() {
    let machine = machine();
    run(
        &machine,
        &[
            (1, stage(1, &[1], &[]), ""),
            (1, stage(2, &[2], &[]), ""),
            (1, forget(&[1]), "is staged: condemn it first"),
            (2, publish(1, &[1], &[]), ""),
            (3, give_up(&[1, 2, 9]), ""),
        ],
    );
    assert_eq!(
        [1, 2].map(|n| state_of(&machine, n)),
        [Some(State::Live), Some(State::Condemned)]
    );
}

#[test]
fn what_is_reserved_live_and_condemned_stays_below_the_cap() {
    let machine = machine();
    // Each block counts for 4096 bytes.
    let cap = 3 * 4096;
    let mut large = publish(3, &[3], &[]);
    if let Command::PublishBlock(c) = &mut large {
        c.block.as_mut().unwrap().bytes = 101;
    }
    run(
        &machine,
        &[
            (
                1,
                stage_below(1, &[1], &[], 4095),
                "needs 4096 bytes, and 0 of the 4095",
            ),
            (1, stage_below(1, &[1], &[], cap), ""),
            (2, stage_below(2, &[2], &[], cap), ""),
            (3, publish(1, &[1], &[]), ""),
            (4, condemn(&[1]), ""),
            (5, stage_below(3, &[3], &[], cap), ""),
            (
                5,
                stage_below(4, &[4], &[], cap),
                "needs 4096 bytes, and 12288 of the 12288",
            ),
            (5, stage_below(3, &[3], &[], cap), ""),
            (6, large, "has 101 bytes, 100 were reserved"),
            (7, forget(&[1]), ""),
            (8, stage_below(4, &[4], &[], cap), ""),
        ],
    );
}

#[test]
fn a_merge_takes_the_place_of_its_inputs_in_one_step() {
    let machine = machine();
    run(
        &machine,
        &[
            (1, stage(1, &[1], &[]), ""),
            (1, stage(2, &[2], &[]), ""),
            (2, publish(1, &[1], &[]), ""),
            (2, stage(3, &[1, 2], &[1, 2]), "is staged, not live"),
            (3, publish(2, &[2], &[]), ""),
            (3, stage(3, &[1], &[1, 2]), "not cover exactly"),
            (3, stage(3, &[1, 2], &[1, 9]), "is not in the catalogue"),
            (3, stage(3, &[1, 1, 2], &[1, 1, 2]), "do not ascend"),
            (4, stage(3, &[1, 2], &[1, 2]), ""),
            (4, stage(4, &[1, 2], &[1, 2]), "(staged)"),
            (5, publish(3, &[1, 2], &[1, 2]), ""),
        ],
    );
    let states = [1, 2, 3].map(|n| state_of(&machine, n).unwrap());
    assert_eq!(states, [State::Condemned, State::Condemned, State::Live]);
    let state = machine.state();
    let merged = state.blocks.iter().find(|b| b.id == id(3)).unwrap();
    assert_eq!((merged.bytes, merged.samples, merged.since_ms), (90, 10, 5));
}

#[test]
fn a_merge_whose_input_went_is_not_published() {
    let machine = machine();
    run(
        &machine,
        &[
            (1, stage(1, &[1], &[]), ""),
            (1, publish(1, &[1], &[]), ""),
            (2, stage(3, &[1], &[1]), ""),
            (3, condemn(&[1]), ""),
            (4, publish(3, &[1], &[1]), "is condemned, not live"),
        ],
    );
    assert_eq!(state_of(&machine, 3), Some(State::Staged));
}
