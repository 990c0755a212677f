//! What was written: acknowledged or not yet. And reading it back.

use futures::StreamExt;
use gnomon_model::{Labels, LabelsRef};
use gnomon_proto::ServiceError;
use gnomon_proto::service::ShardReadService;
use gnomon_proto::v1::{SelectRequest, View};
use gnomon_tsdb::page::{Page, PageSamples};
use std::collections::BTreeMap;

/// A series' labels as text, and a time in milliseconds.
pub(crate) type Key = (String, i64);

/// What was read: the bits of values by series and time. A staleness marker is a NaN, which equals nothing.
pub(crate) type Found = BTreeMap<Key, u64>;

#[derive(Default)]
pub(crate) struct Ledger {
    /// Whether it is acknowledged.
    samples: BTreeMap<Key, bool>,
}

/// What series are written, and with which values.
pub(crate) fn labels_of(writer: usize, series: usize) -> Labels {
    let (job, instance) = (format!("w{writer}"), format!("i{series}"));
    Labels::from_pairs([("__name__", "ledger"), ("instance", &instance), ("job", &job)])
}

/// Scraped ones are not.
fn is_of_a_writer(key: &Key) -> bool {
    key.0.contains("__name__=\"ledger\"")
}

pub(crate) fn value_of(writer: usize, series: usize, at_ms: i64) -> f64 {
    (at_ms % 1_000_003) as f64 * 31.0 + (writer * 101 + series * 7) as f64
}

/// The value that the sample of a key has to have.
fn value_by(key: &Key) -> Option<f64> {
    let number = |name: &str, letter: char| {
        let from = key.0.find(&format!("{name}=\"{letter}"))? + name.len() + 3;
        let digits: String = key.0[from..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    };
    Some(value_of(number("job", 'w')?, number("instance", 'i')?, key.1))
}

impl Ledger {
    pub(crate) fn begin(&mut self, keys: &[Key]) {
        for key in keys {
            self.samples.entry(key.clone()).or_insert(false);
        }
    }

    pub(crate) fn acknowledge(&mut self, keys: &[Key]) {
        for key in keys {
            self.samples.insert(key.clone(), true);
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.samples.values().filter(|is| **is).count()
    }

    /// Those that were acknowledged, from a time on.
    pub(crate) fn expected(&self, from_ms: i64) -> Vec<Key> {
        let all = self.samples.iter().filter(|(key, is)| **is && key.1 >= from_ms);
        all.map(|(key, _)| key.clone()).collect()
    }

    /// What is wrong with what was read, if something is.
    pub(crate) fn judge(&self, expected: &[Key], found: &Found) -> Option<String> {
        let lost: Vec<_> = expected.iter().filter(|key| !found.contains_key(*key)).collect();
        if let Some(first) = lost.first() {
            return Some(format!(
                "{} of {} acknowledged samples are not there, {first:?} for one",
                lost.len(),
                expected.len()
            ));
        }
        for (key, value) in found.iter().filter(|(key, _)| is_of_a_writer(key)) {
            if !self.samples.contains_key(key) {
                return Some(format!("{key:?} was never written"));
            }
            let value = f64::from_bits(*value);
            if value_by(key) != Some(value) {
                return Some(format!(
                    "{key:?} has the value {value}, {:?} was written",
                    value_by(key)
                ));
            }
        }
        None
    }
}

/// Why nothing was read, or what was is wrong in itself.
pub(crate) enum Unread {
    NotNow(ServiceError),
    Wrong(String),
}

/// Adds what a shard has from a time on. `epoch` is the newest placement epoch whose shards are all asked.
pub(crate) async fn read(
    from: &dyn ShardReadService,
    shard: u32,
    from_ms: i64,
    epoch: u32,
    any_replica: bool,
    found: &mut Found,
) -> Result<(), Unread> {
    let request = SelectRequest {
        tenant: "anonymous".into(),
        shard,
        start_ms: from_ms,
        end_ms: i64::MAX,
        any_replica,
        view: Some(View {
            placement_epoch: epoch,
            ..View::default()
        }),
        ..SelectRequest::default()
    };
    let wrong = |what: &dyn std::fmt::Display| Unread::Wrong(format!("shard {shard}: {what}"));
    let mut batches = from.select(request).await.map_err(Unread::NotNow)?;
    while let Some(batch) = batches.next().await {
        for series in batch.map_err(Unread::NotNow)?.series {
            let labels = LabelsRef::checked(&series.labels).map_err(|e| wrong(&e))?.to_string();
            for page in series.pages {
                let page = Page::parse(page.data).and_then(|page| page.decode());
                let PageSamples::Floats { timestamps, values } = page.map_err(|e| wrong(&e))? else {
                    return Err(wrong(&"a histogram that nobody wrote"));
                };
                for (at, value) in timestamps.into_iter().zip(values) {
                    if at >= from_ms && found.insert((labels.clone(), at), value.to_bits()).is_some() {
                        return Err(wrong(&format!("{labels} has two samples at {at}")));
                    }
                }
            }
        }
    }
    Ok(())
}
