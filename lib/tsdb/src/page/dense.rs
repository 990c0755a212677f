//! Coding 4: as coding 3 (`column.rs`, which reads both), in fewer bytes.
//!
//! ```text
//! body   = times values                                             times as `times.rs` has them
//! values = 0  bits:uvarint(byte-swapped)                            one for all samples
//!        | 2  places:u8  flags:u8  first:uvarint(zigzag)  unit:uvarint  numbers  [errors: numbers]  [others]
//! numbers = 0 packed | 1 coded
//! others = n:uvarint  n * { gap:uvarint  more:uvarint  bits:u64 }   `more` + 1 samples have the same
//! ```
//! `flags` has 16 too: the numbers are differences of differences.

use super::bits::zigzag;
use super::coded::Plan;
use super::column::{
    CODED, DENSE_NUMBERS, DIFFERENCES, ERROR_DIFFERENCES, ERRORS, OTHERS, PACKED, SECOND_DIFFERENCES, put_one_value,
};
use super::decimals::{Decimals, differences, unit_of};
use super::packed::{pack, packed_len};
use gnomon_model::labels::put_uvarint;

/// What is spent on making pages short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// Packed numbers: for what is kept for hours.
    #[default]
    Cheap,
    /// The shortest of several codings: for what is kept.
    Thorough,
}

/// Coded numbers save this part of what packed ones take at least.
const LEAST_SAVED: usize = 16;

/// Decimal places of which values may be near multiples.
const PLACES: [usize; 4] = [9, 6, 3, 0];

/// Appends values, of which there is one at least.
pub(super) fn put_values(values: &[f64], effort: Effort, out: &mut Vec<u8>) {
    if put_one_value(values, out).is_some() {
        return;
    }
    out.push(DENSE_NUMBERS);
    let exact = Decimals::exact(values).map(|decimals| Written::new(decimals, effort));
    let written = exact.unwrap_or_else(|| near(values, effort));
    written.put(values, out);
}

/// As multiples with errors: the shortest.
fn near(values: &[f64], effort: Effort) -> Written {
    let at = |places| Written::new(Decimals::near_at(values, places), effort);
    let [first, rest @ ..] = PLACES;
    rest.iter().fold(at(first), |best, places| {
        let its = at(*places);
        if its.bytes(values) < best.bytes(values) {
            its
        } else {
            best
        }
    })
}

/// Numbers in the shortest way.
struct Stream {
    numbers: Vec<i64>,
    plan: Option<Plan>,
    bytes: usize,
}

impl Stream {
    fn new(numbers: Vec<i64>, effort: Effort) -> Self {
        let packed = 1 + packed_len(&numbers);
        let plan = match effort {
            Effort::Cheap => None,
            Effort::Thorough => Plan::rough(&numbers).map(|plan| plan.refined(&numbers)),
        };
        // What is packed is read three times as fast: noise stays so.
        let coded = plan
            .map(|plan| 1 + (plan.bits / 8.0) as usize)
            .filter(|bytes| *bytes < packed - packed / LEAST_SAVED);
        Self {
            numbers,
            plan: coded.and(plan),
            bytes: coded.unwrap_or(packed),
        }
    }

    /// Of the column that becomes the shortest, with what is said of it.
    fn shortest<const N: usize>(columns: [(u8, Vec<i64>); N], effort: Effort) -> (u8, Self) {
        let bits = |numbers: &[i64]| match (effort == Effort::Thorough).then(|| Plan::rough(numbers)).flatten() {
            Some(plan) => plan.bits,
            None => packed_len(numbers) as f32 * 8.0,
        };
        let mut best = (0, Vec::new());
        let mut least = f32::INFINITY;
        for column in columns {
            let its = bits(&column.1);
            if its < least {
                (least, best) = (its, column);
            }
        }
        (best.0, Self::new(best.1, effort))
    }

    fn put(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        if let Some(plan) = &self.plan {
            out.push(CODED);
            if plan.write(&self.numbers, out).is_some() {
                return;
            }
            out.truncate(begin);
        }
        out.push(PACKED);
        pack(&self.numbers, out);
    }
}

/// Decimals with how they are written.
struct Written {
    decimals: Decimals,
    unit: i64,
    numbers: Stream,
    errors: Option<Stream>,
    flags: u8,
}

impl Written {
    fn new(decimals: Decimals, effort: Effort) -> Self {
        let first = decimals.numbers[0];
        let mut from_first: Vec<i64> = decimals.numbers[1..].iter().map(|n| n - first).collect();
        let unit = unit_of(&from_first);
        if unit != 1 {
            from_first.iter_mut().for_each(|n| *n /= unit);
        }
        let steps = differences(&from_first);
        let (mut flags, numbers) = match effort {
            Effort::Cheap => Stream::shortest([(DIFFERENCES, steps), (0, from_first)], effort),
            Effort::Thorough => {
                let second = (DIFFERENCES | SECOND_DIFFERENCES, differences(&steps));
                Stream::shortest([(DIFFERENCES, steps), (0, from_first), second], effort)
            }
        };
        let errors = decimals.errors.iter().any(|error| *error != 0).then(|| {
            let steps = (ERROR_DIFFERENCES, differences(&decimals.errors));
            let (flag, errors) = Stream::shortest([(0, decimals.errors.clone()), steps], effort);
            flags |= ERRORS | flag;
            errors
        });
        if !decimals.others.is_empty() {
            flags |= OTHERS;
        }
        Self {
            decimals,
            unit,
            numbers,
            errors,
            flags,
        }
    }

    /// About how many.
    fn bytes(&self, values: &[f64]) -> usize {
        let others = runs(&self.decimals.others, values).count() * 11;
        self.numbers.bytes + self.errors.as_ref().map_or(0, |errors| errors.bytes) + others
    }

    fn put(&self, values: &[f64], out: &mut Vec<u8>) {
        out.push(self.decimals.places as u8);
        out.push(self.flags);
        put_uvarint(out, zigzag(self.decimals.numbers[0]));
        put_uvarint(out, self.unit as u64);
        self.numbers.put(out);
        if let Some(errors) = &self.errors {
            errors.put(out);
        }
        let others = &self.decimals.others;
        if others.is_empty() {
            return;
        }
        put_uvarint(out, runs(others, values).count() as u64);
        let mut next = 0;
        for run in runs(others, values) {
            put_uvarint(out, (run[0] - next) as u64);
            put_uvarint(out, run.len() as u64 - 1);
            out.extend_from_slice(&values[run[0]].to_bits().to_le_bytes());
            next = run[0] + run.len();
        }
    }
}

/// Places that follow each other and have the same value.
fn runs<'a>(places: &'a [usize], values: &'a [f64]) -> impl Iterator<Item = &'a [usize]> {
    places.chunk_by(|a, b| *b == a + 1 && values[*a].to_bits() == values[*b].to_bits())
}
