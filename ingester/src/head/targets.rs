//! What a shard knows of the targets that are scraped into it: who owns them, their last tick, and the series that the
//! tick had. From that apply decides which series have gone stale, whoever scraped before.

use super::index::Ordinal;
use gnomon_model::ShardId;
use gnomon_proto::batch::TickHeader;
use roaring::RoaringBitmap;

/// A tick of which not all pieces are there yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OpenTick {
    pub(crate) tick_ms: i64,
    /// Whether its first piece was there: else nothing is known to be missing.
    pub(crate) from_first: bool,
    pub(crate) seen: RoaringBitmap,
}

/// One target in one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Target {
    /// Newest ownership term that was heard of.
    pub(crate) term: u64,
    /// Newest whole tick.
    pub(crate) last_tick_ms: Option<i64>,
    pub(crate) interval_ms: u64,
    /// Proposal time of the newest entry that had a piece of a tick that was taken.
    pub(crate) heard_ms: i64,
    /// Series with a live sample of this target.
    pub(crate) live: RoaringBitmap,
    pub(crate) open: Option<OpenTick>,
    /// Whether this shard is the target's home.
    pub(crate) home: bool,
    /// For the home: other shards that got samples, with the newest tick in which they did.
    pub(crate) others: Vec<(ShardId, i64)>,
}

/// What to do with a piece of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Take,
    /// Another scraper owns the target by now.
    OlderTerm,
    /// This tick or a later one was there.
    Repeated,
}

/// Where the markers of a target that is gone stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkerPlace {
    /// An interval after its last tick.
    NextTick,
    /// Half an interval after it: the next tick stands on the grid and may come, and the last one may have been late.
    BetweenTicks,
}

/// Ticks after which the home forgets another shard that got no more samples: the target's expiry there takes care of
/// whatever was left.
const REMEMBERED_TICKS: i64 = 3;

/// Two scrapes that are closer than an interval divided by this are of the same place in it.
const SAME_PLACE_OF_INTERVAL: u64 = 4;

impl Target {
    /// Decides on a piece, and opens its tick.
    pub(crate) fn begin(&mut self, header: &TickHeader, proposed_at_ms: i64) -> Verdict {
        if header.term < self.term {
            return Verdict::OlderTerm;
        }
        self.term = header.term;
        if self.last_tick_ms.is_some_and(|last| header.tick_ms <= last) {
            return Verdict::Repeated;
        }
        if self.open.as_ref().is_some_and(|open| header.tick_ms < open.tick_ms) {
            return Verdict::Repeated;
        }
        self.heard_ms = proposed_at_ms;
        self.interval_ms = header.interval_ms;
        self.home = header.home;
        if self.open.as_ref().is_some_and(|open| open.tick_ms != header.tick_ms) {
            self.abandon();
        }
        let open = self.open.get_or_insert_with(|| OpenTick {
            tick_ms: header.tick_ms,
            ..OpenTick::default()
        });
        open.from_first |= header.first;
        self.note_others(header);
        Verdict::Take
    }

    /// The open tick will not be finished: its series are live, and nothing is known of the others.
    fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.live |= open.seen;
            self.last_tick_ms = Some(open.tick_ms);
        }
    }

    fn note_others(&mut self, header: &TickHeader) {
        for shard in &header.other_shards {
            match self.others.iter_mut().find(|(s, _)| s == shard) {
                Some((_, tick)) => *tick = header.tick_ms,
                None => self.others.push((*shard, header.tick_ms)),
            }
        }
    }

    /// Series with a live sample of the open tick; they are put in order, each once. How many had none of this target before.
    pub(crate) fn see(&mut self, ordinals: &mut Vec<Ordinal>) -> u64 {
        let Some(open) = &mut self.open else {
            return 0;
        };
        // Mostly they are.
        ordinals.sort_unstable();
        ordinals.dedup();
        let mut here = RoaringBitmap::new();
        // They ascend: all are appended.
        let appended = here.append(ordinals.iter().copied());
        debug_assert!(appended.is_ok());
        let added = here.len() - here.intersection_len(&self.live);
        if open.seen.is_empty() {
            open.seen = here;
            return added;
        }
        let again = (&here & &open.seen) - &self.live;
        open.seen |= here;
        added - again.len()
    }

    /// After a piece: where the tick is whole with it, the series that have gone.
    pub(crate) fn end(&mut self, header: &TickHeader) -> RoaringBitmap {
        if !header.last {
            return RoaringBitmap::new();
        }
        let Some(open) = self.open.take() else {
            return RoaringBitmap::new();
        };
        self.last_tick_ms = Some(open.tick_ms);
        let keep_ms = i64::try_from(header.interval_ms)
            .unwrap_or(i64::MAX)
            .saturating_mul(REMEMBERED_TICKS);
        let oldest = open.tick_ms.saturating_sub(keep_ms);
        self.others.retain(|(_, tick)| *tick >= oldest);
        if !(header.complete && open.from_first) {
            self.live |= open.seen;
            return RoaringBitmap::new();
        }
        let gone = &self.live - &open.seen;
        self.live = open.seen;
        gone
    }

    /// The other shards that hold, or held until lately, series of the target.
    pub(crate) fn other_shards(&self) -> Vec<u32> {
        let mut shards: Vec<_> = self.others.iter().map(|(shard, _)| shard.0).collect();
        shards.sort_unstable();
        shards
    }

    /// The target is gone: its series, and the time of their markers, but where the shard's time begins at the earliest: it
    /// may have been told of ticks before.
    pub(crate) fn expire(&mut self, from_ms: i64, place: MarkerPlace) -> (i64, RoaringBitmap) {
        self.abandon();
        let interval = i64::try_from(self.interval_ms).unwrap_or(0);
        let after = match place {
            MarkerPlace::NextTick => interval,
            MarkerPlace::BetweenTicks => (interval / 2).max(1),
        };
        let marked = self.last_tick_ms.unwrap_or(self.heard_ms).saturating_add(after);
        let marked = marked.max(from_ms);
        self.last_tick_ms = Some(marked);
        self.others.clear();
        (marked, std::mem::take(&mut self.live))
    }

    /// Whether the scrape of this place in the interval is here, made by who had the target before: two that both take it for
    /// their own for a while (a change of the ring is not heard of by all at once) scrape at the same places, a little late
    /// each. Two scrapes of one are an interval apart (the shorter one, where a new configuration came with the new owner); one
    /// that is so late that the next follows within a quarter of it is mistaken for such. Nothing is here twice of a target
    /// that had no series.
    pub(crate) fn is_doubled_by(&self, header: &TickHeader) -> bool {
        header.term > self.term
            && !header.names_only
            && !self.is_idle()
            && self
                .newest_ms()
                .is_some_and(|newest| newest.abs_diff(header.tick_ms) < self.same_place_ms(header))
    }

    /// Whether its newest tick is so much later than this one that the two are not one scrape made twice. The markers of a target
    /// that counted as gone are none: what it had not sent yet comes late.
    pub(crate) fn is_well_after(&self, header: &TickHeader) -> bool {
        let place_ms = i64::try_from(self.same_place_ms(header)).unwrap_or(i64::MAX);
        let newest = self.newest_ms().filter(|_| !self.is_idle());
        newest.is_some_and(|newest| newest > header.tick_ms && newest.saturating_sub(header.tick_ms) >= place_ms)
    }

    /// The newest tick of which something is there.
    pub(crate) fn newest_ms(&self) -> Option<i64> {
        self.open.as_ref().map(|open| open.tick_ms).max(self.last_tick_ms)
    }

    /// Scrapes that are closer are of one place in the interval.
    fn same_place_ms(&self, header: &TickHeader) -> u64 {
        header.interval_ms.min(self.interval_ms) / SAME_PLACE_OF_INTERVAL
    }

    /// Silent for longer than this many milliseconds, a target counts as gone: two intervals and 10 %.
    pub(crate) fn patience_ms(&self) -> u64 {
        self.interval_ms.saturating_mul(2).saturating_add(self.interval_ms / 10)
    }

    /// Within this its scraper, if it lives, has made another scrape: an interval and 10 %.
    pub(crate) const fn next_within_ms(&self) -> u64 {
        self.interval_ms.saturating_add(self.interval_ms / 10)
    }

    /// Whether it had been silent for too long by then.
    pub(crate) fn is_overdue_at(&self, ms: i64) -> bool {
        let patience_ms = i64::try_from(self.patience_ms()).unwrap_or(i64::MAX);
        self.heard_ms.saturating_add(patience_ms) < ms
    }

    /// Whether the target holds nothing that would be missed.
    pub(crate) fn is_idle(&self) -> bool {
        self.live.is_empty() && self.open.is_none()
    }
}
