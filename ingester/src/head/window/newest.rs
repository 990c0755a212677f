//! The newest page of a series' window: it grows, or was put by.

use super::super::closed::ClosedPages;
use super::super::growing::GrowingPage;
use super::super::room::{Room, Slot};
use super::super::value::Value;
use super::{BadPage, WindowPages, find};
use gnomon_model::is_stale_nan;
use gnomon_tsdb::page::{Coding, Page};

/// The newest page.
#[derive(Clone, Copy, Debug)]
pub(super) enum NewestPage {
    Grows(Slot),
    /// Closed, since nothing is expected to come any more: a series that went on to the next window, or has ended. It is
    /// the last one of the closed pages, and grows again if something comes.
    PutBy(LastValue),
}

/// What is known of the last sample of a page that was put by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastValue {
    Number,
    StaleMarker,
    Histogram,
}

impl NewestPage {
    /// As it was stored. A closed one is entered behind the other closed pages, all of which are durable.
    pub(super) fn restore(page: &Page, closed: &mut ClosedPages, room: &mut Room) -> Result<Self, BadPage> {
        if matches!(page.coding, Coding::Float | Coding::Histogram) {
            return Ok(Self::Grows(room.growing.insert(GrowingPage::resume(page)?)));
        }
        closed.push(page, &mut room.closed)?;
        Ok(Self::PutBy(match find(page, page.max_ts)? {
            Some(Value::Float(value)) if is_stale_nan(value) => LastValue::StaleMarker,
            Some(Value::Float(_)) => LastValue::Number,
            Some(Value::Histogram(_)) | None => LastValue::Histogram,
        }))
    }
}

impl WindowPages {
    pub(super) fn growing<'a>(&self, room: &'a Room) -> Option<&'a GrowingPage> {
        match self.newest {
            NewestPage::Grows(slot) => room.growing.get(slot),
            NewestPage::PutBy(_) => None,
        }
    }

    /// Has the newest page grow, if it was put by.
    pub(super) fn grow(&mut self, room: &mut Room) -> Result<Slot, BadPage> {
        if let NewestPage::Grows(slot) = self.newest {
            return Ok(slot);
        }
        let page = self.closed.pop(&mut room.closed)?.ok_or(BadPage::NoTail)?;
        let slot = room.growing.insert(GrowingPage::resume(&page)?);
        self.newest = NewestPage::Grows(slot);
        Ok(slot)
    }

    /// Closes the page that grows: it takes the least memory so. False where none does.
    pub(crate) fn put_by(&mut self, room: &mut Room) -> Result<bool, BadPage> {
        let NewestPage::Grows(slot) = self.newest else {
            return Ok(false);
        };
        let open = room.growing.take(slot).ok_or(BadPage::NoTail)?;
        let page = open.page().ok_or(BadPage::NoTail)?.closed()?;
        self.closed.push(&page, &mut room.closed)?;
        self.newest = NewestPage::PutBy(match open.last_value() {
            Some(value) if is_stale_nan(value) => LastValue::StaleMarker,
            Some(_) => LastValue::Number,
            None => LastValue::Histogram,
        });
        Ok(true)
    }

    pub(super) const fn is_put_by(&self) -> bool {
        matches!(self.newest, NewestPage::PutBy(_))
    }

    /// Whether the newest sample is a stale marker; none where it is a histogram, whose page would have to be read.
    pub(crate) fn ends_stale(&self, room: &Room) -> Option<bool> {
        match self.newest {
            NewestPage::Grows(slot) => room.growing.get(slot)?.last_value().map(is_stale_nan),
            NewestPage::PutBy(LastValue::Histogram) => None,
            NewestPage::PutBy(last) => Some(last == LastValue::StaleMarker),
        }
    }

    pub(crate) fn ends_with_histogram(&self, room: &Room) -> bool {
        match self.newest {
            NewestPage::Grows(slot) => room.growing.get(slot).is_some_and(GrowingPage::is_of_histograms),
            NewestPage::PutBy(last) => last == LastValue::Histogram,
        }
    }
}
