//! Keys of a shard's durable state; drawn in `ingester/format.md`. Numbers are big-endian, so that keys sort as they do.

use gnomon_model::{SeriesRef, TargetId};

pub(crate) const COUNTERS: &[u8] = b"c";
pub(crate) const DROPPED: &[u8] = b"d";
const TENANT: u8 = b'n';
const SERIES: u8 = b's';
const WINDOW: u8 = b'w';
const PART: u8 = b'p';
const PART_PAGES: u8 = b'q';
const TARGET: u8 = b't';
const METADATA: u8 = b'm';
const EXEMPLAR: u8 = b'x';
const DELETE: u8 = b'g';
const PART_EXEMPLARS: u8 = b'y';
const EXEMPLAR_ENDS: u8 = b'r';

/// The page number of a window's tail: behind all closed pages.
const TAIL: u32 = u32::MAX;

/// What a key stands for. All but the first three belong to a tenant, by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Counters,
    Dropped,
    Tenant(u32),
    Series(u32, SeriesRef),
    /// A closed page of an open window, by number.
    Page(u32, i64, SeriesRef, u32),
    Tail(u32, i64, SeriesRef),
    Part(u32, u64),
    PartPages(u32, u64, SeriesRef),
    PartExemplars(u32, u64),
    Target(u32, TargetId),
    Metadata(u32, &'a str),
    Exemplar(u32, u64),
    /// Where the ring of exemplars begins and ends.
    ExemplarEnds(u32),
    /// By the delete's revision.
    Delete(u32, u64),
}

fn tenant_key(tag: u8, tenant: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    key.push(tag);
    key.extend_from_slice(&tenant.to_be_bytes());
    key
}

/// A window start whose bytes sort as the number does.
fn ordered(ms: i64) -> [u8; 8] {
    (ms as u64 ^ (1 << 63)).to_be_bytes()
}

pub(crate) fn tenant(number: u32) -> Vec<u8> {
    tenant_key(TENANT, number)
}

pub(crate) fn series(tenant: u32, reference: SeriesRef) -> Vec<u8> {
    let mut key = tenant_key(SERIES, tenant);
    key.extend_from_slice(&reference.0.to_be_bytes());
    key
}

/// Begins the keys of all pages of a window.
pub(crate) fn window(tenant: u32, start_ms: i64) -> Vec<u8> {
    let mut key = tenant_key(WINDOW, tenant);
    key.extend_from_slice(&ordered(start_ms));
    key
}

/// Begins the keys of one series' pages of a window.
pub(crate) fn window_series(tenant: u32, start_ms: i64, reference: SeriesRef) -> Vec<u8> {
    let mut key = window(tenant, start_ms);
    key.extend_from_slice(&reference.0.to_be_bytes());
    key
}

/// Turns a key that `window_series` gave into that of a closed page.
pub(crate) fn page(mut window_series: Vec<u8>, number: u32) -> Vec<u8> {
    window_series.extend_from_slice(&number.to_be_bytes());
    window_series
}

/// Turns a key that `window_series` gave into that of the tail.
pub(crate) fn tail(window_series: Vec<u8>) -> Vec<u8> {
    page(window_series, TAIL)
}

pub(crate) fn part(tenant: u32, number: u64) -> Vec<u8> {
    let mut key = tenant_key(PART, tenant);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Begins the keys of a part's pages.
pub(crate) fn part_pages(tenant: u32, number: u64) -> Vec<u8> {
    let mut key = tenant_key(PART_PAGES, tenant);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn part_series(tenant: u32, number: u64, reference: SeriesRef) -> Vec<u8> {
    let mut key = part_pages(tenant, number);
    key.extend_from_slice(&reference.0.to_be_bytes());
    key
}

pub(crate) fn part_exemplars(tenant: u32, number: u64) -> Vec<u8> {
    let mut key = tenant_key(PART_EXEMPLARS, tenant);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn target(tenant: u32, id: TargetId) -> Vec<u8> {
    let mut key = tenant_key(TARGET, tenant);
    key.extend_from_slice(&id.0.to_be_bytes());
    key
}

pub(crate) fn metadata(tenant: u32, metric: &str) -> Vec<u8> {
    let mut key = tenant_key(METADATA, tenant);
    key.extend_from_slice(metric.as_bytes());
    key
}

pub(crate) fn exemplar(tenant: u32, number: u64) -> Vec<u8> {
    let mut key = tenant_key(EXEMPLAR, tenant);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn exemplar_ends(tenant: u32) -> Vec<u8> {
    tenant_key(EXEMPLAR_ENDS, tenant)
}

pub(crate) fn delete(tenant: u32, revision: u64) -> Vec<u8> {
    let mut key = tenant_key(DELETE, tenant);
    key.extend_from_slice(&revision.to_be_bytes());
    key
}

/// The first key behind all that begin with `prefix` (which is not all 0xff).
pub(crate) fn after(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < 0xff {
            prefix.push(last + 1);
            break;
        }
    }
    prefix
}

/// Reads a key; none where it is not one of these.
pub(crate) fn parse(key: &[u8]) -> Option<Key<'_>> {
    match key {
        COUNTERS => return Some(Key::Counters),
        DROPPED => return Some(Key::Dropped),
        _ => {}
    }
    let (&tag, rest) = key.split_first()?;
    let (tenant, rest) = rest.split_first_chunk::<4>()?;
    let tenant = u32::from_be_bytes(*tenant);
    let number = || rest.try_into().ok().map(u64::from_be_bytes);
    Some(match tag {
        TENANT if rest.is_empty() => Key::Tenant(tenant),
        EXEMPLAR_ENDS if rest.is_empty() => Key::ExemplarEnds(tenant),
        SERIES => Key::Series(tenant, SeriesRef(number()?)),
        PART => Key::Part(tenant, number()?),
        TARGET => Key::Target(tenant, TargetId(number()?)),
        EXEMPLAR => Key::Exemplar(tenant, number()?),
        DELETE => Key::Delete(tenant, number()?),
        PART_EXEMPLARS => Key::PartExemplars(tenant, number()?),
        METADATA => Key::Metadata(tenant, std::str::from_utf8(rest).ok()?),
        PART_PAGES => {
            let (part, rest) = rest.split_first_chunk::<8>()?;
            let reference = SeriesRef(u64::from_be_bytes(rest.try_into().ok()?));
            Key::PartPages(tenant, u64::from_be_bytes(*part), reference)
        }
        WINDOW => {
            let (start, rest) = rest.split_first_chunk::<8>()?;
            let start_ms = (u64::from_be_bytes(*start) ^ (1 << 63)) as i64;
            let (reference, rest) = rest.split_first_chunk::<8>()?;
            let reference = SeriesRef(u64::from_be_bytes(*reference));
            match u32::from_be_bytes(rest.try_into().ok()?) {
                TAIL => Key::Tail(tenant, start_ms, reference),
                page => Key::Page(tenant, start_ms, reference, page),
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_written() {
        let reference = SeriesRef(0x0102_0304_0506_0708);
        let pages = || window_series(7, -7_200_000, reference);
        let cases = [
            (COUNTERS.to_vec(), Key::Counters),
            (DROPPED.to_vec(), Key::Dropped),
            (tenant(7), Key::Tenant(7)),
            (series(7, reference), Key::Series(7, reference)),
            (page(pages(), 3), Key::Page(7, -7_200_000, reference, 3)),
            (tail(pages()), Key::Tail(7, -7_200_000, reference)),
            (part(7, 9), Key::Part(7, 9)),
            (part_series(7, 9, reference), Key::PartPages(7, 9, reference)),
            (target(7, TargetId(5)), Key::Target(7, TargetId(5))),
            (metadata(7, "up"), Key::Metadata(7, "up")),
            (exemplar(7, 5), Key::Exemplar(7, 5)),
            (exemplar_ends(7), Key::ExemplarEnds(7)),
            (delete(7, 12), Key::Delete(7, 12)),
            (part_exemplars(7, 9), Key::PartExemplars(7, 9)),
        ];
        for (bytes, key) in cases {
            assert_eq!(parse(&bytes), Some(key));
        }
        assert_eq!(parse(b"z"), None);
    }

    #[test]
    fn windows_sort_by_time_and_ranges_end_behind_their_prefix() {
        assert!(window(1, -1) < window(1, 0) && window(1, 0) < window(1, 1));
        let end = after(window(1, 5));
        assert!(tail(window_series(1, 5, SeriesRef(u64::MAX))) < end && end <= window(1, 6));
        assert_eq!(after(vec![1, 0xff]), vec![2]);
    }
}
