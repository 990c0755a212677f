//! One expression over many texts. Where they are many, an automaton is made that walks over what a text does not share
//! with the one before; where they ascend, it says how far none can match.

use super::{Compiled, Regex, Shape, parse};
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::{Hir, Look};

/// Texts that are looked at before an automaton is made: it takes as long as some hundred of them.
const BEFORE_WALKING: u32 = 256;
/// What the automaton may take, and making it; a larger expression is run as it is otherwise.
const WALK_BYTES: usize = 256 << 10;

/// See [`Regex::scan`].
pub struct Scan<'r> {
    regex: &'r Regex,
    run: u32,
    walk: Option<Walk>,
    /// How much of the last text no match begins with.
    barren: Option<usize>,
}

struct Walk {
    automaton: dense::DFA<Vec<u32>>,
    /// The state before the first byte of `last`, and after each.
    states: Vec<StateID>,
    /// As much of the last text as was walked over.
    last: Vec<u8>,
}

impl<'r> Scan<'r> {
    pub(super) fn new(regex: &'r Regex) -> Self {
        Self {
            regex,
            run: 0,
            walk: None,
            barren: None,
        }
    }

    /// As [`Regex::is_match`].
    pub fn is_match(&mut self, text: &str) -> bool {
        self.barren = None;
        let Compiled {
            shape, literal_prefix, ..
        } = &*self.regex.0;
        let same = text.bytes().zip(literal_prefix.bytes()).take_while(|(a, b)| a == b);
        let same = same.count();
        if same < literal_prefix.len() {
            self.barren = (same < text.len()).then_some(same + 1);
            return false;
        }
        if !matches!(shape, Shape::Other) {
            return self.regex.is_match(text);
        }
        self.run = self.run.saturating_add(1);
        if self.run == BEFORE_WALKING {
            self.walk = Walk::new(self.regex.source());
        }
        let Some(walk) = &mut self.walk else {
            return self.regex.is_match(text);
        };
        let Some(found) = walk.is_match(text.as_bytes()) else {
            return self.regex.is_match(text);
        };
        self.barren = walk.barren();
        found
    }

    /// After a text that does not match: so many of its bytes that nothing that begins with them matches. None where that
    /// is not known.
    #[must_use]
    pub fn barren_prefix(&self) -> Option<usize> {
        self.barren
    }

    /// The places of the texts that match, among `len` texts that ascend by their bytes.
    pub fn places<'t>(&mut self, len: usize, text_at: impl Fn(usize) -> &'t str, mut found: impl FnMut(usize)) {
        let prefix = self.regex.literal_prefix();
        let mut at = partition_point(0..len, |at| text_at(at) < prefix);
        let past = |at: usize, prefix: &[u8]| {
            let text = text_at(at).as_bytes();
            text.get(..prefix.len()).unwrap_or(text) <= prefix
        };
        let end = partition_point(at..len, |at| past(at, prefix.as_bytes()));
        if self.regex.is_every_text_with_prefix() {
            return (at..end).for_each(found);
        }
        while at < end {
            let text = text_at(at);
            if self.is_match(text) {
                found(at);
            } else if let Some(barren) = self.barren.and_then(|len| text.as_bytes().get(..len)) {
                // Mostly it is the next text: searched by steps that double.
                let (mut known, mut step) = (at + 1, 1);
                while known + step < end && past(known + step, barren) {
                    known += step;
                    step *= 2;
                }
                at = partition_point(known..end.min(known + step + 1), |at| past(at, barren));
                continue;
            }
            at += 1;
        }
    }
}

/// The first place of a range for which `before` does not hold; it holds for none after that.
fn partition_point(range: std::ops::Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

impl Walk {
    /// None where the automaton would be too large.
    fn new(expression: &str) -> Option<Self> {
        let hir = parse::parse(expression).ok()?.hir;
        let whole = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
        let nfa = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .nfa_size_limit(Some(WALK_BYTES))
                    .which_captures(thompson::WhichCaptures::None),
            )
            .build_from_hir(&whole)
            .ok()?;
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .match_kind(MatchKind::All)
            .dfa_size_limit(Some(WALK_BYTES))
            .determinize_size_limit(Some(WALK_BYTES));
        let automaton = dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()?;
        let start = automaton
            .start_state(&start::Config::new().anchored(Anchored::Yes))
            .ok()?;
        Some(Self {
            automaton,
            states: vec![start],
            last: Vec::new(),
        })
    }

    /// None where the automaton gives up.
    fn is_match(&mut self, text: &[u8]) -> Option<bool> {
        let same = self.last.iter().zip(text).take_while(|(a, b)| a == b).count();
        self.states.truncate(same + 1);
        self.last.truncate(same);
        let mut state = *self.states.last()?;
        for byte in &text[same..] {
            if self.automaton.is_special_state(state) {
                if self.automaton.is_dead_state(state) {
                    return Some(false);
                }
                if self.automaton.is_quit_state(state) {
                    return None;
                }
            }
            state = self.automaton.next_state(state, *byte);
            self.states.push(state);
            self.last.push(*byte);
        }
        let end = self.automaton.next_eoi_state(state);
        (!self.automaton.is_quit_state(end)).then(|| self.automaton.is_match_state(end))
    }

    fn barren(&self) -> Option<usize> {
        let state = *self.states.last()?;
        self.automaton.is_dead_state(state).then_some(self.last.len())
    }
}
