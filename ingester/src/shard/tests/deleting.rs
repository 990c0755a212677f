//! Deletes in a head: what was there goes, what comes after stays.

use super::*;
use crate::shard::entry::Catalogue;
use gnomon_tsdb::Tombstone;
use std::sync::Arc;

impl Rig {
    /// A delete of the series whose names match.
    pub(super) fn delete(&mut self, name: &str, start_ms: i64, end_ms: i64) -> Bytes {
        let revision = self.state.counters.tombstone_revision + 3;
        self.delete_at(revision, name, start_ms, end_ms)
    }

    fn delete_at(&mut self, revision: u64, name: &str, start_ms: i64, end_ms: i64) -> Bytes {
        let tombstone = Tombstone {
            revision,
            tenant: TenantId::anonymous(),
            sets: vec![vec![Matcher::new("__name__", MatchOp::Regex, name).unwrap()]],
            start_ms,
            end_ms,
        };
        self.apply(Command::Catalogue(Catalogue {
            revision,
            first_part: 0,
            tombstones: vec![Arc::new(tombstone)],
            with_exemplars: true,
        }))
    }
}

fn points(times: impl IntoIterator<Item = i64>) -> Vec<(i64, f64)> {
    times.into_iter().map(|t| (t, 1.0)).collect()
}

/// `a` and `b` with a sample each 15 s from `T0`.
fn filled() -> Rig {
    let mut rig = Rig::new();
    for i in 0..40 {
        let at = T0 + i * 15_000;
        rig.rows(&[(&named("a"), at, 1.0), (&named("b"), at, 1.0)]);
    }
    rig
}

#[test]
fn samples_of_a_window_are_gone_and_can_be_written_again() {
    let mut rig = filled();
    let all = || points((0..40).map(|i| T0 + i * 15_000));
    rig.flush();
    rig.delete("a", T0 + 30_000, T0 + 45_000);
    let left: Vec<_> = all()
        .into_iter()
        .filter(|(t, _)| *t != T0 + 30_000 && *t != T0 + 45_000)
        .collect();
    assert_eq!(rig.values("a"), left);
    assert_eq!(rig.values("b"), all());
    rig.flush();
    rig.state = rig.restored();
    assert_eq!(rig.values("a"), left);
    // One of the two again, with another value: it is no conflict any more.
    assert_eq!(rig.rows(&[(&named("a"), T0 + 30_000, 7.0)]).samples_taken, 1);
    assert!(rig.values("a").contains(&(T0 + 30_000, 7.0)));
    // The same entry again (another leader proposed it too) takes nothing.
    rig.delete_at(3, "a", T0 + 30_000, T0 + 45_000);
    assert!(rig.values("a").contains(&(T0 + 30_000, 7.0)));
}

/// A delete of many series is carried out in slices, between which readers look; it counts once it is whole.
#[test]
fn many_series_are_deleted_in_slices() {
    let mut rig = Rig::new();
    let entry = super::ordering::many(&rig, 0);
    rig.state.apply(1, &entry).unwrap();
    let series = u64::from(super::ordering::SERIES);
    let samples = |state: &ShardState| head(state).windows.values().map(|w| w.samples).sum::<u64>();
    assert_eq!(samples(&rig.state), series);
    let delete = Command::Catalogue(Catalogue {
        revision: 5,
        first_part: 0,
        tombstones: vec![Arc::new(Tombstone {
            revision: 5,
            tenant: TenantId::anonymous(),
            sets: vec![vec![Matcher::equal("__name__", "m")]],
            start_ms: T0,
            end_ms: T0,
        })],
        with_exemplars: true,
    });
    let entry = rig.entry(delete);
    rig.state.begin(2, &entry).unwrap();
    let (mut slices, mut before) = (0, series);
    while rig.state.go_on(2).unwrap() {
        let left = samples(&rig.state);
        assert!(before - left <= 2048, "{} at once", before - left);
        assert_eq!((rig.state.applied, rig.state.counters.tombstone_revision), (1, 0));
        before = left;
        slices += 1;
    }
    assert!(slices >= series / 2048, "{slices} slices");
    assert_eq!((rig.state.applied, rig.state.counters.tombstone_revision), (2, 5));
    assert_eq!((samples(&rig.state), rig.state.series_count()), (0, 0));
}

#[test]
fn a_series_without_samples_leaves_everything() {
    let mut rig = filled();
    rig.flush();
    rig.delete("a", i64::MIN, i64::MAX);
    assert!(head(&rig.state).find_labels(named("a").as_ref()).is_none());
    rig.flush();
    assert_eq!(dump(&rig.restored()), dump(&rig.state));
    // It comes again under another reference, and its durable pages are its own.
    let again = rig.rows(&[(&named("a"), T0, 5.0)]);
    assert_eq!((again.samples_taken, &again.refs[..]), (1, &[3][..]));
    rig.flush();
    rig.state = rig.restored();
    assert_eq!(rig.values("a"), [(T0, 5.0)]);
    rig.delete(".*", i64::MIN, i64::MAX);
    assert!(head(&rig.state).windows.is_empty());
    rig.flush();
    assert_eq!(rig.store.0.keys().filter(|key| key[0] == b'w').count(), 0);
}

#[test]
fn a_window_that_comes_again_between_two_flushes_has_its_new_samples_only() {
    let mut rig = filled();
    rig.flush();
    rig.delete("a", T0, T0 + 600_000);
    rig.rows(&[(&named("a"), T0 + 5, 2.0)]);
    rig.flush();
    assert_eq!(dump(&rig.restored()), dump(&rig.state));
    rig.state = rig.restored();
    assert_eq!(rig.values("a"), [(T0 + 5, 2.0)]);
}

#[test]
fn sealed_parts_are_masked_until_they_are_blocks() {
    for durable in [false, true] {
        let mut rig = filled();
        rig.seal(T0);
        if durable {
            rig.flush();
        }
        rig.delete("a", T0, T0 + 300_000);
        let left = points((21..40).map(|i| T0 + i * 15_000));
        assert_eq!(rig.values("a"), left);
        assert_eq!(rig.values("b").len(), 40);
        // What is written now is in a later part, and is not masked.
        rig.rows(&[(&named("a"), T0 + 15_000, 9.0)]);
        assert_eq!(rig.values("a")[0], (T0 + 15_000, 9.0));
        rig.flush();
        assert_eq!(dump(&rig.restored()), dump(&rig.state));
        rig.state = rig.restored();
        assert_eq!(rig.values("a").len(), 20);
        rig.seal(T0);
        rig.flush();
        assert_eq!(rig.values("a").len(), 20);
        let publish = |part| Command::Published {
            part,
            catalogue_revision: 50,
        };
        assert_eq!(head(&rig.state).deletes.len(), 1);
        rig.apply(publish(1));
        assert!(head(&rig.state).deletes.is_empty(), "no part is left that it masks");
        rig.flush();
        assert_eq!(rig.store.0.keys().filter(|key| key[0] == b'g').count(), 0);
        assert_eq!(rig.values("a"), [(T0 + 15_000, 9.0)]);
    }
}

#[test]
fn a_series_whose_newest_samples_were_deleted_takes_older_ones() {
    let mut rig = filled();
    rig.seal(T0);
    // Much newer, so that what is late is out of the out-of-order window.
    rig.rows(&[(&named("b"), T0 + WINDOW_MS, 1.0)]);
    assert_eq!(reasons(&rig.rows(&[(&named("a"), T0 + 7, 2.0)])), [(Reason::TooOld, 1)]);
    rig.delete("a", T0, T0 + WINDOW_MS - 1);
    assert_eq!(rig.rows(&[(&named("a"), T0 + 7, 2.0)]).samples_taken, 1);
    assert_eq!(rig.values("a"), [(T0 + 7, 2.0)]);
}

#[test]
fn a_view_older_than_a_delete_is_stale() {
    let mut rig = filled();
    rig.delete_at(8, "a", T0, T0);
    let view = |catalogue_revision| gnomon_proto::v1::View {
        catalogue_revision,
        parts_from_blocks: Vec::new(),
        ..gnomon_proto::v1::View::default()
    };
    let check = |revision| rig.state.check_view(&TenantId::anonymous(), &view(revision), T0, T0);
    assert_eq!(check(7), Err(gnomon_proto::ServiceError::StaleView { revision: 8 }));
    assert_eq!(check(8), Ok(()));
}

#[test]
fn parts_are_numbered_after_those_that_are_taken() {
    let mut rig = filled();
    rig.apply(Command::Catalogue(Catalogue {
        revision: 0,
        first_part: 41,
        tombstones: Vec::new(),
        with_exemplars: true,
    }));
    rig.seal(T0);
    assert_eq!(head(&rig.state).sealed.keys().copied().collect::<Vec<_>>(), [41]);
}
