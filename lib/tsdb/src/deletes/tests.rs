use super::*;
use crate::page::{Page, PageSamples};
use gnomon_model::{ClusterId, Labels, MatchOp};
use proptest::prelude::*;

fn tombstone(revision: u64, sets: Vec<Vec<Matcher>>, start_ms: i64, end_ms: i64) -> Arc<Tombstone> {
    Arc::new(Tombstone {
        revision,
        tenant: TenantId::anonymous(),
        sets,
        start_ms,
        end_ms,
    })
}

proptest! {
    #[test]
    fn intervals_hold_what_was_added(added in prop::collection::vec((0..60_i64, 0..12_i64), 0..12)) {
        let mut intervals = Intervals::default();
        let mut there = [false; 80];
        for (start, length) in added {
            intervals.add(start, start + length - 1);
            there[start as usize..(start + length) as usize].fill(true);
        }
        for at in 0..80 {
            prop_assert_eq!(intervals.contains(at), there[at as usize]);
            for to in at..80 {
                let some = &there[at as usize..=to as usize];
                prop_assert_eq!(intervals.covers(at, to), some.iter().all(|t| *t), "{} {}", at, to);
                prop_assert_eq!(intervals.overlaps(at, to), some.contains(&true), "{} {}", at, to);
            }
        }
    }

    #[test]
    fn pages_lose_exactly_what_is_deleted(
        times in prop::collection::btree_set(0..2000_i64, 1..300),
        added in prop::collection::vec((0..2000_i64, 0..400_i64), 0..4),
    ) {
        let times: Vec<i64> = times.into_iter().collect();
        let values: Vec<f64> = times.iter().map(|t| *t as f64 / 3.0).collect();
        let mut deleted = Intervals::default();
        for (start, length) in added {
            deleted.add(start, start + length);
        }
        let page = Page::of_floats(&times, &values).unwrap();
        let mut found = Vec::new();
        for page in remove(vec![page], &deleted).unwrap() {
            let PageSamples::Floats { timestamps, values } = page.decode().unwrap() else { unreachable!() };
            prop_assert_eq!((page.min_ts, page.max_ts), (timestamps[0], timestamps[timestamps.len() - 1]));
            found.extend(timestamps.into_iter().zip(values));
        }
        let left: Vec<_> = times.into_iter().zip(values).filter(|(t, _)| !deleted.contains(*t)).collect();
        prop_assert_eq!(found, left);
    }
}

#[test]
fn intervals_at_both_ends_of_time() {
    let mut all = Intervals::default();
    all.add(5, i64::MAX);
    all.add(i64::MIN, 4);
    assert!(all.covers(i64::MIN, i64::MAX));
    all.add(3, 2);
    assert_eq!(all, {
        let mut one = Intervals::default();
        one.add(i64::MIN, i64::MAX);
        one
    });
}

#[test]
fn any_set_with_all_its_matchers_is_enough() {
    let equal = Matcher::equal;
    let deletes: Deletes = [
        tombstone(
            3,
            vec![vec![equal("a", "1"), equal("b", "2")], vec![equal("c", "3")]],
            0,
            9,
        ),
        tombstone(5, vec![vec![equal("a", "1")]], 20, 29),
        tombstone(6, Vec::new(), 0, 100),
    ]
    .into_iter()
    .collect();
    let spans = |deletes: &Deletes, pairs: &[(&str, &str)]| {
        let intervals = deletes.of(Labels::from_pairs(pairs.iter().copied()).as_ref());
        [0, 9, 10, 20, 29, 30].map(|at| intervals.contains(at))
    };
    assert_eq!(
        spans(&deletes, &[("a", "1"), ("b", "2")]),
        [true, true, false, true, true, false]
    );
    assert_eq!(spans(&deletes, &[("a", "1")]), [false, false, false, true, true, false]);
    assert_eq!(spans(&deletes, &[("c", "3")]), [true, true, false, false, false, false]);
    assert_eq!(spans(&deletes, &[("c", "4")]), [false; 6]);
    assert_eq!(spans(&deletes.newer_than(3), &[("c", "3")]), [false; 6]);
}

fn object() -> TombstoneObject {
    TombstoneObject {
        cluster: ClusterId(10),
        after_revision: 7,
        revision: None,
        tenant: TenantId::anonymous(),
        sets: vec![vec![
            Matcher::equal("__name__", "up"),
            Matcher::new("job", MatchOp::NotRegex, "a.*").unwrap(),
        ]],
        start_ms: i64::MIN,
        end_ms: 1_700_000_000_000,
    }
}

/// These bytes lie in buckets: a change of them needs a new version, not a new golden text.
#[test]
fn the_object_has_the_documented_bytes() {
    let bytes = object().encode().unwrap();
    let body = concat!(
        r#"{"format_version":1,"cluster":"0000000000000000000000000000000a","after_revision":7,"tenant":"anonymous","#,
        r#""start_ms":-9223372036854775808,"end_ms":1700000000000,"#,
        r#""series":[[{"name":"__name__","op":"=","value":"up"},{"name":"job","op":"!~","value":"a.*"}]]}"#,
    );
    let mut expected = b"GNMDELE1".to_vec();
    expected.extend_from_slice(&(body.len() as u64).to_le_bytes());
    expected.extend_from_slice(body.as_bytes());
    expected.extend_from_slice(&crc32c::crc32c(body.as_bytes()).to_le_bytes());
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&expected));
    assert_eq!(bytes, expected);
    assert_eq!(TombstoneObject::decode(&bytes).unwrap(), object());
}

#[test]
fn damaged_objects_are_refused() {
    let bytes = object().encode().unwrap();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(TombstoneObject::decode(&bad).is_err(), "byte {at}");
        assert!(TombstoneObject::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    let long = TombstoneObject {
        sets: vec![vec![Matcher::equal("a", "x".repeat(MAX_TOMBSTONE_BYTES))]],
        ..object()
    };
    assert!(long.encode().is_err());
}
