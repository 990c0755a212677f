use super::*;
use proptest::prelude::*;

fn decoded(bytes: &[u8], count: usize) -> Option<Vec<i64>> {
    let mut coded = Coded::new(bytes)?;
    let mut all = Vec::new();
    while all.len() < count {
        let mut block = [0; BLOCK];
        let n = (count - all.len()).min(BLOCK);
        coded.read(n, &mut block)?;
        all.extend_from_slice(&block[..n]);
    }
    coded.after()?.is_empty().then_some(all)
}

/// Most alike, some of any size, around any center.
fn numbers() -> impl Strategy<Value = Vec<i64>> {
    let number = |width: u32, center: i64| {
        prop_oneof![
            8 => Just(center),
            8 => any::<i64>().prop_map(move |n| center.wrapping_add(if width == 0 { 0 } else { n >> (64 - width) })),
            1 => prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX)],
        ]
    };
    let shape = (
        0..=64_u32,
        prop_oneof![Just(0), any::<i64>()],
        prop_oneof![8..700_usize, 8..9000_usize],
    );
    shape.prop_flat_map(move |(width, center, len)| prop::collection::vec(number(width, center), len))
}

proptest! {
    #[test]
    fn numbers_come_back_and_damage_never_panics(
        numbers in numbers(), at in any::<prop::sample::Index>(), with in 1..=255_u8, cut in any::<prop::sample::Index>()
    ) {
        let Some(plan) = Plan::rough(&numbers).map(|plan| plan.refined(&numbers)) else { return Ok(()) };
        let mut bytes = Vec::new();
        prop_assume!(plan.write(&numbers, &mut bytes).is_some());
        prop_assert_eq!(decoded(&bytes, numbers.len()), Some(numbers.clone()));
        let about = plan.bits as usize / 8;
        prop_assert!(bytes.len() <= about + about / 8 + 16, "{} bytes, about {}", bytes.len(), about);
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let _ = decoded(&bytes, numbers.len());
        bytes.truncate(cut.index(bytes.len()));
        prop_assert_eq!(decoded(&bytes, numbers.len()), None);
    }
}

#[test]
fn each_distance_has_a_token_that_leads_back_to_it() {
    for top in 0..=MOST_TOP {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1, u64::MAX >> bit]);
        for distance in edges.chain(0..1000) {
            let (token, rest) = token_of(distance, top);
            assert!(token < MOST_TOKENS);
            let (least, width) = distance_of(token, top).unwrap();
            assert_eq!((width, least | low_bits(distance, rest)), (rest, distance));
        }
        assert_eq!(distance_of(MOST_TOKENS, top), None);
    }
}

#[test]
fn rare_changes_take_far_less_than_a_bit_a_number() {
    let numbers: Vec<i64> = (0..480).map(|i| if i % 60 == 7 { 1 } else { 0 }).collect();
    let mut bytes = Vec::new();
    Plan::rough(&numbers)
        .unwrap()
        .refined(&numbers)
        .write(&numbers, &mut bytes)
        .unwrap();
    assert!(bytes.len() < 24, "{}", bytes.len());
}
