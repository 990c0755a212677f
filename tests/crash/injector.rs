//! Which operation at the seams of storage fails, and how. Operations are counted for each step of the script and each
//! class by itself, so that one that happens a moment earlier or later in another class does not shift the others.

use gnomon_tsdb::bucket::faults::{Fate, Fates, Request};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What is done at a seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Of the bucket.
    Put,
    Upload,
    Get,
    List,
    Delete,
    /// A write batch of the local engine, synced or not.
    Write,
    /// A commit of the metadata group, and a look at its state.
    Commit,
    Look,
    /// An entry of the shard's log.
    Entry,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An error, and nothing was done.
    Refused,
    /// An error, and it was done.
    Lost,
    /// The process ends before it is done.
    CrashBefore,
    /// The process ends after it was done and before anybody knows.
    CrashAfter,
    /// A part of it is done: what is read ends early; in the middle of what is written the process ends.
    Torn,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Refused,
        Self::Lost,
        Self::CrashBefore,
        Self::CrashAfter,
        Self::Torn,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "error before",
            Self::Lost => "error after",
            Self::CrashBefore => "crash before",
            Self::CrashAfter => "crash after",
            Self::Torn => "torn",
        }
    }
}

impl Class {
    /// The ways in which it can fail that differ.
    pub const fn kinds(self) -> &'static [Kind] {
        use Kind::{CrashAfter, CrashBefore, Lost, Refused, Torn};
        match self {
            Self::Put | Self::Write => &[Refused, Lost, CrashBefore, CrashAfter, Torn],
            Self::Delete | Self::Upload => &[Refused, Lost, CrashBefore, CrashAfter],
            Self::Get | Self::List => &[Refused, CrashBefore, Torn],
            // A crash here is one at a write batch.
            Self::Commit | Self::Entry => &[Refused, Lost],
            Self::Look => &[Refused],
        }
    }
}

/// An operation: the how manyeth of its class in a step of the script, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub step: &'static str,
    pub class: Class,
    pub number: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub point: Point,
    pub kind: Kind,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { step, class, number } = self.point;
        write!(f, "{step}: {class:?} {number}: {}", self.kind.name())
    }
}

#[derive(Default)]
struct State {
    /// None outside of the script.
    step: Option<&'static str>,
    counts: BTreeMap<(&'static str, Class), u32>,
    fired: bool,
    /// The process ends once what is under way is done.
    ending: bool,
    /// A write of the engine was under way.
    torn_write: bool,
}

/// One of each run. After a crash nothing has an effect, until the next life.
pub struct Injector {
    case: Option<Case>,
    state: Mutex<State>,
    dead: Mutex<CancellationToken>,
}

impl Injector {
    pub fn new(case: Option<Case>) -> Self {
        Self {
            case,
            state: Mutex::default(),
            dead: Mutex::default(),
        }
    }

    /// From here on operations count as those of a step.
    pub fn begin(&self, step: Option<&'static str>) {
        self.state.lock().step = step;
    }

    /// Cancelled when the process ends.
    pub fn death(&self) -> CancellationToken {
        self.dead.lock().clone()
    }

    pub fn is_dead(&self) -> bool {
        self.dead.lock().is_cancelled()
    }

    /// Another process; whether the last write of the one before was torn.
    pub fn revive(&self) -> bool {
        *self.dead.lock() = CancellationToken::new();
        std::mem::take(&mut self.state.lock().torn_write)
    }

    pub fn has_fired(&self) -> bool {
        self.state.lock().fired
    }

    pub fn counts(&self) -> BTreeMap<(&'static str, Class), u32> {
        self.state.lock().counts.clone()
    }

    /// What becomes of the next operation of a class.
    pub fn next(&self, class: Class) -> Fate {
        if self.is_dead() {
            return Fate::Refused;
        }
        let kind = {
            let mut state = self.state.lock();
            let Some(step) = state.step else {
                return Fate::Sound;
            };
            let count = state.counts.entry((step, class)).or_default();
            let number = *count;
            *count += 1;
            let point = Point { step, class, number };
            let Some(case) = self.case.filter(|case| case.point == point && !state.fired) else {
                return Fate::Sound;
            };
            state.fired = true;
            let ends_later = match case.kind {
                Kind::CrashAfter => true,
                Kind::Torn => matches!(class, Class::Put | Class::Write),
                Kind::Refused | Kind::Lost | Kind::CrashBefore => false,
            };
            state.ending = ends_later;
            state.torn_write = case.kind == Kind::Torn && class == Class::Write;
            case.kind
        };
        match kind {
            Kind::Refused => Fate::Refused,
            Kind::CrashBefore => {
                self.dead.lock().cancel();
                Fate::Refused
            }
            Kind::Lost | Kind::CrashAfter => Fate::LostResponse,
            Kind::Torn => Fate::Torn,
        }
    }

    /// What was to be done is done.
    pub fn done(&self) {
        if std::mem::take(&mut self.state.lock().ending) {
            self.dead.lock().cancel();
        }
    }
}

impl Fates for Injector {
    fn next(&self, request: Request) -> (Fate, Duration) {
        let class = match request {
            Request::Put => Class::Put,
            Request::Begin | Request::Part | Request::Complete | Request::Abort | Request::Copy => Class::Upload,
            Request::Get => Class::Get,
            Request::List => Class::List,
            Request::Delete => Class::Delete,
        };
        (Self::next(self, class), Duration::ZERO)
    }

    fn had_effect(&self) {
        self.done();
    }
}
