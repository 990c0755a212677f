//! What differs between a catalogue and a bucket. Pure.

use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, MetaState};
use gnomon_tsdb::BlockMeta;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// An object, and what it says of itself.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) written_ms: i64,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Block(Box<BlockMeta>),
    /// The object of a delete.
    Delete,
    Damaged(String),
}

/// What is wrong, in the order of how bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A record whose object is not there.
    Missing,
    /// An object that cannot be read.
    Damaged,
    /// An object and its record say different things.
    Differs,
    /// An object without a record, that nobody will come back for.
    Orphan,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) path: String,
    /// Of a block's record.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) block: String,
    pub(super) bytes: u64,
    pub(super) what: String,
    pub(super) repaired: bool,
}

/// Blocks of one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Total {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Totals {
    pub(super) live: Total,
    pub(super) staged: Total,
    pub(super) condemned: Total,
    pub(super) deletes: u64,
    /// Block objects of the bucket.
    pub(super) objects: Total,
    pub(super) delete_objects: u64,
    /// Objects without a record that are too new to be judged.
    pub(super) unjudged: u64,
}

pub(super) fn totals(state: &MetaState, objects: &[Object]) -> Totals {
    let mut totals = Totals {
        deletes: state.tombstones.len() as u64,
        ..Totals::default()
    };
    for block in &state.blocks {
        let of_state = match block.state() {
            State::Live => &mut totals.live,
            State::Staged => &mut totals.staged,
            State::Condemned | State::Unspecified => &mut totals.condemned,
        };
        of_state.blocks += 1;
        of_state.bytes += block.bytes;
    }
    for object in objects {
        if object.path.contains("/tombstones/") {
            totals.delete_objects += 1;
        } else {
            totals.objects.blocks += 1;
            totals.objects.bytes += object.bytes;
        }
    }
    totals
}

/// What is wrong. An object without a record is garbage if it was written no later than `orphans_until_ms`; how many are
/// newer comes second.
pub(super) fn compare(state: &MetaState, objects: &[Object], orphans_until_ms: i64) -> (Vec<Finding>, u64) {
    let there: HashMap<&str, &Object> = objects.iter().map(|o| (o.path.as_str(), o)).collect();
    let mut named: BTreeMap<&str, Option<&BlockRecord>> = BTreeMap::new();
    named.extend(state.tombstones.iter().map(|t| (t.path.as_str(), None)));
    named.extend(state.blocks.iter().map(|b| (b.path.as_str(), Some(b))));
    let mut findings = Vec::new();
    for (path, record) in &named {
        let finding = |kind, bytes, what: String| Finding {
            kind,
            path: (*path).to_owned(),
            block: record.map_or_else(String::new, |r| r.id.clone()),
            bytes,
            what,
            repaired: false,
        };
        let is_live = record.is_none_or(|r| r.state() == State::Live);
        match there.get(path) {
            None if is_live => {
                let what = "it is in the catalogue and not in the bucket".to_owned();
                findings.push(finding(Kind::Missing, record.map_or(0, |r| r.bytes), what));
            }
            Some(object) if is_live => match (&object.content, record) {
                (Content::Damaged(what), _) => findings.push(finding(Kind::Damaged, object.bytes, what.clone())),
                (Content::Block(meta), Some(record)) => {
                    if let Some(what) = difference(record, object, meta) {
                        findings.push(finding(Kind::Differs, object.bytes, what));
                    }
                }
                _ => {}
            },
            // What is staged may not be there yet, what is condemned not any more.
            _ => {}
        }
    }
    let mut unjudged = 0;
    for object in objects.iter().filter(|o| !named.contains_key(o.path.as_str())) {
        if object.written_ms > orphans_until_ms {
            unjudged += 1;
            continue;
        }
        findings.push(Finding {
            kind: Kind::Orphan,
            path: object.path.clone(),
            block: String::new(),
            bytes: object.bytes,
            what: "no record of the catalogue names it".to_owned(),
            repaired: false,
        });
    }
    findings.sort_by(|a, b| (a.kind, &a.path).cmp(&(b.kind, &b.path)));
    (findings, unjudged)
}

fn difference(record: &BlockRecord, object: &Object, meta: &BlockMeta) -> Option<String> {
    if record.bytes != object.bytes {
        return Some(format!(
            "{} bytes in the catalogue, {} in the bucket",
            record.bytes, object.bytes
        ));
    }
    let parts: Vec<u64> = meta.parts.iter().map(|part| part.number).collect();
    let says = (meta.block.to_string(), meta.shard.0, meta.level, meta.stats.samples);
    let expected = (record.id.clone(), record.shard, record.level, record.samples);
    if says != expected || parts != record.parts {
        return Some(format!(
            "the object says block {}, shard {}, level {}, {} samples, parts {parts:?}; its record block {}, shard {}, \
             level {}, {} samples, parts {:?}",
            says.0, says.1, says.2, says.3, expected.0, expected.1, expected.2, expected.3, record.parts
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{BlockId, ClusterId, PartId, ShardId, TenantId, TimeRange, TimestampMs};

    fn meta(id: u128) -> BlockMeta {
        let window = TimeRange::new(TimestampMs(0), TimestampMs(100));
        let mut meta = BlockMeta::new(BlockId(id), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
        let shard = ShardId(0);
        meta.parts = vec![PartId { shard, number: 1 }];
        meta.stats.samples = 3;
        meta
    }

    fn object(id: u128, bytes: u64, written_ms: i64) -> Object {
        Object {
            path: format!("p{id}"),
            bytes,
            written_ms,
            content: Content::Block(Box::new(meta(id))),
        }
    }

    fn record(id: u128, state: State) -> BlockRecord {
        BlockRecord {
            id: BlockId(id).to_string(),
            path: format!("p{id}"),
            bytes: 10,
            samples: 3,
            parts: vec![1],
            state: state as i32,
            ..BlockRecord::default()
        }
    }

    #[test]
    fn each_kind_is_found_and_nothing_else() {
        let state = MetaState {
            blocks: vec![
                record(1, State::Live),
                record(2, State::Live),
                record(3, State::Live),
                record(4, State::Live),
                record(5, State::Staged),
                record(6, State::Condemned),
            ],
            ..MetaState::default()
        };
        let mut damaged = object(3, 10, 0);
        damaged.content = Content::Damaged("checksum".into());
        let objects = [
            object(1, 10, 0),
            object(2, 11, 0),
            damaged,
            object(7, 5, 100),
            object(8, 5, 101),
        ];
        let (findings, unjudged) = compare(&state, &objects, 100);
        let found: Vec<_> = findings.iter().map(|f| (f.kind, f.path.as_str())).collect();
        let expected = [
            (Kind::Missing, "p4"),
            (Kind::Damaged, "p3"),
            (Kind::Differs, "p2"),
            (Kind::Orphan, "p7"),
        ];
        assert_eq!((&found[..], unjudged), (&expected[..], 1));
        assert!(findings[2].what.contains("10 bytes in the catalogue, 11"));
        let totals = totals(&state, &objects);
        assert_eq!(
            (totals.live.blocks, totals.live.bytes, totals.objects.bytes),
            (4, 40, 41)
        );
    }

    #[test]
    fn an_object_that_says_it_is_another_block_differs() {
        let state = MetaState {
            blocks: vec![record(1, State::Live)],
            ..MetaState::default()
        };
        let mut wrong = object(1, 10, 0);
        wrong.content = Content::Block(Box::new(meta(2)));
        let (findings, _) = compare(&state, &[wrong], 100);
        assert_eq!(findings[0].kind, Kind::Differs);
    }
}
