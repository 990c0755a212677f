//! What happened, in order: a hash of all of it, and the newest events in words.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Events that a failure shows.
const SHOWN: usize = 60;

/// The record of one run; clones are the same.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Inner>);

struct Inner {
    began: Instant,
    /// Whether events are printed as they come.
    is_told: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hash: u64,
    messages: u64,
    newest: VecDeque<String>,
    failure: Option<String>,
}

impl Trace {
    pub(crate) fn new(is_told: bool) -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            is_told,
            state: Mutex::default(),
        }))
    }

    /// Simulated time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    fn mix(&self, state: &mut State, bytes: &[u8]) {
        let at = self.elapsed().as_nanos() as u64;
        state.hash = xxh3_64_with_seed(bytes, state.hash ^ at);
    }

    /// Something worth telling.
    pub(crate) fn event(&self, text: impl Into<String>) {
        let text = text.into();
        let mut state = self.0.state.lock();
        self.mix(&mut state, text.as_bytes());
        let line = format!("{:>10.3} s  {text}", self.elapsed().as_secs_f64());
        if self.0.is_told {
            eprintln!("{line}");
        }
        if state.newest.len() == SHOWN {
            state.newest.pop_front();
        }
        state.newest.push_back(line);
    }

    /// A message between two machines.
    pub(crate) fn message(&self, kind: u8, from: usize, to: usize, lasting: Duration) {
        let mut state = self.0.state.lock();
        state.messages += 1;
        let mut bytes = [kind; 17];
        bytes[1..5].copy_from_slice(&(from as u32).to_le_bytes());
        bytes[5..9].copy_from_slice(&(to as u32).to_le_bytes());
        bytes[9..].copy_from_slice(&(lasting.as_nanos() as u64).to_le_bytes());
        self.mix(&mut state, &bytes);
    }

    /// Something that must not be. The first one counts.
    pub(crate) fn fail(&self, why: impl Into<String>) {
        let why = why.into();
        self.event(format!("FAILURE: {why}"));
        self.0.state.lock().failure.get_or_insert(why);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.0.state.lock().failure.clone()
    }

    pub(crate) fn newest(&self) -> Vec<String> {
        self.0.state.lock().newest.iter().cloned().collect()
    }

    /// The hash, and how many messages went.
    pub(crate) fn sum(&self) -> (u64, u64) {
        let state = self.0.state.lock();
        (state.hash, state.messages)
    }
}
