//! Times of the samples of pages in columns.
//!
//! ```text
//! times = 0                                                       evenly spaced
//!       | 1  first spacing:uvarint  n:uvarint  n * { gap:uvarint  change of the spacing:uvarint(zigzag) }
//!       | 2  spacings, packed
//! ```
//! The header has the first and the last time.

use super::bits::{unzigzag, zigzag};
use super::packed::{BLOCK, pack, skip, unpack};
use super::{PageError, PageHeader};
use gnomon_model::labels::{get_uvarint, put_uvarint};
use std::ops::Range;

pub(crate) const EVEN: u8 = 0;
const MOSTLY_EVEN: u8 = 1;
const UNEVEN: u8 = 2;

/// Appends ascending times, of which there is one at least.
pub(crate) fn put_times(timestamps: &[i64], out: &mut Vec<u8>) {
    let spacing = |w: &[i64]| w[1].wrapping_sub(w[0]) as u64;
    let spacings = || timestamps.windows(2).map(spacing);
    let Some(first) = spacings().next() else {
        out.push(EVEN);
        return;
    };
    let changes = spacings().zip(spacings().skip(1)).filter(|(a, b)| a != b).count();
    if changes == 0 {
        out.push(EVEN);
    } else if changes <= timestamps.len() / 16 {
        out.push(MOSTLY_EVEN);
        put_uvarint(out, first);
        put_uvarint(out, changes as u64);
        let (mut last, mut gap) = (first, 0);
        for spacing in spacings().skip(1) {
            if spacing == last {
                gap += 1;
                continue;
            }
            put_uvarint(out, gap);
            put_uvarint(out, zigzag(spacing.wrapping_sub(last) as i64));
            (last, gap) = (spacing, 0);
        }
    } else {
        out.push(UNEVEN);
        let spacings: Vec<i64> = spacings().map(|s| s as i64).collect();
        pack(&spacings, out);
    }
}

/// How many bytes the times of a page take, which `body` begins with.
pub(super) fn len(header: &PageHeader, body: &[u8]) -> Option<usize> {
    let (kind, mut rest) = body.split_first()?;
    match *kind {
        EVEN => {}
        MOSTLY_EVEN => {
            let (_, after) = get_uvarint(rest)?;
            let (changes, after) = get_uvarint(after)?;
            rest = after;
            for _ in 0..changes {
                let (_, after) = get_uvarint(rest)?;
                let (_, after) = get_uvarint(after)?;
                rest = after;
            }
        }
        UNEVEN => {
            let mut left = header.count as usize - 1;
            while left > 0 {
                let count = left.min(BLOCK);
                rest = skip(rest, count)?;
                left -= count;
            }
        }
        _ => return None,
    }
    Some(body.len() - rest.len())
}

const DESCENDING: PageError = PageError::Corrupt("timestamps do not increase");

/// Appends the times within the range; tells which samples have them, and what follows.
pub(crate) fn decode_times<'a>(
    header: &PageHeader,
    body: &'a [u8],
    (start_ms, end_ms): (i64, i64),
    timestamps: &mut Vec<i64>,
) -> Result<(Range<usize>, &'a [u8]), PageError> {
    let (&kind, rest) = body.split_first().ok_or(PageError::Truncated)?;
    let begin = timestamps.len();
    let rest = match kind {
        EVEN => {
            let within = put_even_times(header, (start_ms, end_ms), timestamps)?;
            return Ok((within, rest));
        }
        MOSTLY_EVEN => {
            timestamps.reserve(header.count as usize);
            decode_mostly_even(header, rest, timestamps)?
        }
        UNEVEN => {
            timestamps.reserve(header.count as usize);
            decode_uneven(header, rest, timestamps)?
        }
        _ => return Err(PageError::Corrupt("times are written in a way that is not known")),
    };
    if timestamps.last() != Some(&header.max_ts) {
        return Err(PageError::Corrupt("last timestamp is not the header's"));
    }
    let all = &timestamps[begin..];
    let from = all.partition_point(|t| *t < start_ms);
    let to = all.partition_point(|t| *t <= end_ms).max(from);
    timestamps.truncate(begin + to);
    timestamps.drain(begin..begin + from);
    Ok((from..to, rest))
}

fn put_even_times(
    header: &PageHeader,
    (start_ms, end_ms): (i64, i64),
    timestamps: &mut Vec<i64>,
) -> Result<Range<usize>, PageError> {
    let steps = u64::from(header.count) - 1;
    let width = header.max_ts.wrapping_sub(header.min_ts) as u64;
    let spacing = width.checked_div(steps).unwrap_or(1);
    if spacing == 0 || spacing.wrapping_mul(steps) != width {
        return Err(PageError::Corrupt("evenly spaced samples do not end with the page"));
    }
    // Of a later time; may be more than 2^63 ms.
    let distance = |time_ms: i64| time_ms.wrapping_sub(header.min_ts) as u64;
    let from = if start_ms <= header.min_ts {
        0
    } else {
        distance(start_ms).div_ceil(spacing)
    };
    let to = if end_ms < header.min_ts {
        0
    } else {
        (distance(end_ms) / spacing).min(steps) + 1
    };
    let from = from.min(to);
    let time = |i: u64| header.min_ts.wrapping_add_unsigned(spacing.wrapping_mul(i));
    timestamps.extend((from..to).map(time));
    Ok(from as usize..to as usize)
}

fn decode_mostly_even<'a>(
    header: &PageHeader,
    body: &'a [u8],
    timestamps: &mut Vec<i64>,
) -> Result<&'a [u8], PageError> {
    let (first, rest) = get_uvarint(body).ok_or(PageError::Truncated)?;
    let (changes, mut rest) = get_uvarint(rest).ok_or(PageError::Truncated)?;
    let mut left = u64::from(header.count) - 1;
    let (mut last, mut spacing) = (header.min_ts, first);
    timestamps.push(last);
    for change in 0..=changes {
        // The first spacing and those that follow each change.
        let (mut steps, mut by) = (left, 0);
        if change < changes {
            let (gap, after) = get_uvarint(rest).ok_or(PageError::Truncated)?;
            let (delta, after) = get_uvarint(after).ok_or(PageError::Truncated)?;
            rest = after;
            by = unzigzag(delta);
            steps = gap.checked_add(1).filter(|steps| *steps <= left).ok_or(DESCENDING)?;
        }
        let end = i128::from(last) + i128::from(spacing) * i128::from(steps);
        if steps > 0 && (spacing == 0 || end > i128::from(header.max_ts)) {
            return Err(DESCENDING);
        }
        let from = last;
        timestamps.extend((1..=steps as i64).map(|i| from.wrapping_add((spacing as i64).wrapping_mul(i))));
        left -= steps;
        last = end as i64;
        spacing = spacing.wrapping_add(by as u64);
    }
    Ok(rest)
}

fn decode_uneven<'a>(
    header: &PageHeader,
    mut rest: &'a [u8],
    timestamps: &mut Vec<i64>,
) -> Result<&'a [u8], PageError> {
    let mut left = header.count as usize - 1;
    let mut last = header.min_ts;
    timestamps.push(last);
    let mut block = [0; BLOCK];
    while left > 0 {
        let count = left.min(BLOCK);
        rest = unpack(rest, count, &mut block).ok_or(PageError::Truncated)?;
        let mut ascending = true;
        for number in &mut block[..count] {
            let next = last.wrapping_add(*number);
            ascending &= next > last;
            last = next;
            *number = next;
        }
        if !ascending {
            return Err(DESCENDING);
        }
        timestamps.extend_from_slice(&block[..count]);
        left -= count;
    }
    Ok(rest)
}
