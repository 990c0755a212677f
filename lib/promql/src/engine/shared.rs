//! What is evaluated or read once for several places of a query: kept in memory, within bounds, until its last use.
//! What does not fit is evaluated, or read, again.

use super::column::{Column, OVERHEAD_BYTES};
use super::context::{Evaluated, Exec, Sink, Size};
use super::notes::Note;
use crate::plan::Node;
use crate::source::Series;
use std::cell::RefCell;

/// All that is kept together may have this share of the samples that a query may hold.
const SHARE: u64 = 4;

/// Something that is made for its first use and kept for those that follow.
#[derive(Debug)]
enum Slot<T> {
    /// Not made yet.
    Empty,
    Kept {
        items: Vec<T>,
        /// What was noted, with places relative to the node's.
        notes: Vec<Note>,
        size: Size,
    },
    /// Being made, or too large to be kept.
    Passed,
}

#[derive(Debug)]
struct Kept<T> {
    slots: RefCell<Vec<(Slot<T>, usize)>>,
}

impl<T: Clone> Kept<T> {
    /// With how often each will be used.
    fn new(uses: &[usize]) -> Self {
        let slots = uses.iter().map(|uses| (Slot::Empty, *uses)).collect();
        Self {
            slots: RefCell::new(slots),
        }
    }

    /// Whether others will ask for what is about to be made.
    fn begin(&self, at: usize) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some((slot, uses)) = slots.get_mut(at) else {
            return false;
        };
        *uses = uses.saturating_sub(1);
        let wanted = matches!(slot, Slot::Empty) && *uses > 0;
        *slot = Slot::Passed;
        wanted
    }

    fn keep(&self, at: usize, kept: Slot<T>) {
        if let Some((slot, _)) = self.slots.borrow_mut().get_mut(at) {
            *slot = kept;
        }
    }

    fn is_kept(&self, at: usize) -> bool {
        let slots = self.slots.borrow();
        matches!(slots.get(at), Some((Slot::Kept { .. }, _)))
    }

    fn with_notes(&self, at: usize, each: &mut dyn FnMut(&Note)) {
        if let Some((Slot::Kept { notes, .. }, _)) = self.slots.borrow().get(at) {
            notes.iter().for_each(each);
        }
    }

    /// A copy of one of the items.
    fn item(&self, at: usize, i: usize) -> Option<T> {
        match self.slots.borrow().get(at)? {
            (Slot::Kept { items, .. }, _) => items.get(i).cloned(),
            _ => None,
        }
    }

    /// Ends a use; what need not be held any more.
    fn end(&self, at: usize) -> Size {
        let mut slots = self.slots.borrow_mut();
        let Some((slot, uses)) = slots.get_mut(at) else {
            return Size::default();
        };
        *uses = uses.saturating_sub(1);
        if *uses > 0 {
            return Size::default();
        }
        match std::mem::replace(slot, Slot::Passed) {
            Slot::Kept { size, .. } => size,
            _ => Size::default(),
        }
    }
}

/// Takes series one by one.
pub(crate) type Each<'e> = dyn FnMut(Series) -> Evaluated<()> + 'e;

/// What a query keeps for its later parts.
#[derive(Debug)]
pub(crate) struct Shared {
    columns: Kept<Column>,
    series: Kept<Series>,
    samples: std::cell::Cell<u64>,
}

impl Shared {
    /// With the uses of each shared node, and of each request.
    pub(crate) fn new(nodes: &[usize], requests: &[usize]) -> Self {
        Self {
            columns: Kept::new(nodes),
            series: Kept::new(requests),
            samples: std::cell::Cell::new(0),
        }
    }
}

impl Exec<'_> {
    /// Whether so much more can be kept; it is held then.
    fn can_keep(&self, size: Size) -> bool {
        let all = self.shared.samples.get().saturating_add(size.samples);
        if all > self.max_samples() / SHARE || self.acquire(size).is_err() {
            return false;
        }
        self.shared.samples.set(all);
        true
    }

    fn let_go(&self, size: Size) {
        let samples = self.shared.samples.get().saturating_sub(size.samples);
        self.shared.samples.set(samples);
        self.give_back(size);
    }

    /// The columns of a node that stands in several places.
    pub(crate) fn stream_shared(&self, node: &Node, slot: usize, input: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let kept = &self.shared.columns;
        if kept.is_kept(slot) {
            kept.with_notes(slot, &mut |note| {
                self.notes.add(Note {
                    at: note.at.wrapping_add(node.span.start),
                    ..note.clone()
                });
            });
            let mut i = 0;
            while let Some(column) = kept.item(slot, i) {
                sink(column)?;
                i += 1;
            }
            self.let_go(kept.end(slot));
            return Ok(());
        }
        if !kept.begin(slot) {
            return self.stream(input, sink);
        }
        self.make_shared(node, slot, input, sink)
    }

    /// Evaluates a node and keeps what comes of it. Nothing is passed on before the end, lest notes of those who take
    /// it get among its own; unless it turns out to be too much to be kept.
    fn make_shared(&self, node: &Node, slot: usize, input: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let before = self.notes.take();
        let mut items: Vec<Column> = Vec::new();
        let mut kept = Size::default();
        let mut fits = true;
        self.stream(input, &mut |column| {
            let size = Size {
                samples: column.weight(),
                bytes: column.bytes(),
            };
            if fits && self.can_keep(size) {
                kept.add(size);
                items.push(column);
                return Ok(());
            }
            if fits {
                fits = false;
                for column in items.drain(..) {
                    sink(column)?;
                }
                self.let_go(kept);
            }
            sink(column)
        })?;
        let own = self.notes.take();
        for note in before.into_iter().chain(own.iter().cloned()) {
            self.notes.add(note);
        }
        if !fits {
            return Ok(());
        }
        let relative = |note: Note| Note {
            at: note.at.wrapping_sub(node.span.start),
            ..note
        };
        for column in &items {
            sink(column.clone())?;
        }
        let made = Slot::Kept {
            items,
            notes: own.into_iter().map(relative).collect(),
            size: kept,
        };
        self.shared.columns.keep(slot, made);
        Ok(())
    }

    /// The series of a request, read once where it is made more than once.
    pub(crate) fn each_series_once(
        &self,
        request: usize,
        read: &mut dyn FnMut(&mut Each<'_>) -> Evaluated<()>,
        each: &mut Each<'_>,
    ) -> Evaluated<()> {
        let kept = &self.shared.series;
        if kept.is_kept(request) {
            let mut i = 0;
            while let Some(series) = kept.item(request, i) {
                self.check()?;
                each(series)?;
                i += 1;
            }
            self.let_go(kept.end(request));
            return Ok(());
        }
        if !kept.begin(request) {
            return read(each);
        }
        let mut items: Vec<Series> = Vec::new();
        let (mut size, mut fits) = (Size::default(), true);
        read(&mut |series| {
            let samples = series.samples.len() as u64;
            let labels = series.labels.as_bytes().len() as u64;
            let one = Size {
                samples,
                bytes: OVERHEAD_BYTES + labels + 16 * samples + series.samples.histogram_bytes(),
            };
            if fits && self.can_keep(one) {
                size.add(one);
                items.push(series.clone());
            } else if fits {
                fits = false;
                items = Vec::new();
                self.let_go(size);
            }
            each(series)
        })?;
        if fits {
            let kept = Slot::Kept {
                items,
                notes: Vec::new(),
                size,
            };
            self.shared.series.keep(request, kept);
        }
        Ok(())
    }
}
