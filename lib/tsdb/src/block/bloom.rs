//! The metric-name filter: a Bloom filter (Bloom, 1970) of 10 bits a name and 7 probes, about 1 % false positives.
//!
//! ```text
//! filter = probes:u8  bits (a multiple of 64, least significant bit of each byte first)
//! ```

use xxhash_rust::xxh3::xxh3_64;

const PROBES: u8 = 7;
const BITS_PER_NAME: usize = 10;

/// Bit positions by double hashing (Kirsch and Mitzenmacher, 2006).
fn positions(name: &str, probes: u8, bits: u64) -> impl Iterator<Item = u64> {
    let hash = xxh3_64(name.as_bytes());
    let (a, b) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    (0..u64::from(probes)).map(move |i| a.wrapping_add(i.wrapping_mul(b)) % bits)
}

pub(super) fn build<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Vec<u8> {
    let words = (names.len() * BITS_PER_NAME).div_ceil(64).max(1);
    let mut filter = vec![0_u8; 1 + words * 8];
    filter[0] = PROBES;
    for name in names {
        for bit in positions(name, PROBES, words as u64 * 64) {
            filter[1 + (bit / 8) as usize] |= 1 << (bit % 8);
        }
    }
    filter
}

/// False only where the name was not in the set. A filter of no sensible shape admits everything.
pub(super) fn may_contain(filter: &[u8], name: &str) -> bool {
    let Some((&probes, bits)) = filter.split_first() else {
        return true;
    };
    if bits.is_empty() {
        return true;
    }
    positions(name, probes, bits.len() as u64 * 8).all(|bit| {
        bits.get((bit / 8) as usize)
            .is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_few_others() {
        let names: Vec<String> = (0..1000).map(|i| format!("metric_{i}_total")).collect();
        let filter = build(names.iter().map(String::as_str));
        assert!(names.iter().all(|n| may_contain(&filter, n)));
        let wrong = (0..10_000)
            .filter(|i| may_contain(&filter, &format!("other_{i}")))
            .count();
        assert!(wrong < 300, "{wrong} of 10000");
    }
}
