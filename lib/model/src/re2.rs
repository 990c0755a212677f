//! Regular expressions with the syntax and meaning of Go's RE2, anchored at both ends, `.` matching a newline.
//!
//! [`parse`] reads RE2 syntax into the `regex-syntax` crate's HIR and refuses what Go refuses, in Go's words;
//! `regex-automata` runs it in time linear in the text. Source: <https://github.com/google/re2/wiki/Syntax> and the
//! documentation of Go's `regexp/syntax`.

mod class;
mod expand;
mod facts;
mod glob;
mod parse;
mod scan;
mod shared;

pub use expand::Captures;
pub use scan::Scan;

use facts::Shape;
use regex_automata::{Anchored, Input, meta};
use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An expression that Go's RE2 would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {message}: `{expression}`")]
pub struct Error {
    /// What is wrong, in Go's words.
    pub message: String,
    /// The part of the expression that is at fault.
    pub expression: String,
}

impl Error {
    /// What Go says of `expression` where it stands between anchors, as `^(?s:expression)$`, which is what Prometheus
    /// compiles, but for matchers: the part at fault may reach into them.
    #[must_use]
    pub fn between_anchors(self, expression: &str) -> Self {
        match parse::parse(&between_anchors(expression)) {
            Err(error) => error,
            // It closes the group that it was put into: Go takes that, we do not.
            Ok(_) => self,
        }
    }

    fn new(message: &str, expression: &str) -> Self {
        Self {
            message: message.to_owned(),
            expression: expression.to_owned(),
        }
    }
}

/// What Prometheus compiles, but for matchers.
fn between_anchors(expression: &str) -> String {
    format!("^(?s:{expression})$")
}

/// Bytes that a compiled expression may take; Go allows 128 MiB, but a query may bring many expressions.
const SIZE_LIMIT_BYTES: usize = 16 << 20;

/// Bytes that an expression may have: reading a longer one alone takes half a second.
const MAX_EXPRESSION_BYTES: usize = 1 << 20;

/// An expression that is longer may be costly to compile.
const CHEAP_BYTES: usize = 1024;

/// Those that may be costly are compiled one at a time: `(?i)\pL{300}` takes 70 ms and, on the way, 40 MB.
static COSTLY: Mutex<()> = Mutex::new(());

/// Whether compiling what is in a text (an expression, or a query with some in quotes) may take more than a moment: it is
/// long, repeats something counted, or has classes of Unicode or escapes that may hide either.
#[must_use]
pub fn is_costly(text: &str) -> bool {
    let costly = |pair: &[u8]| match pair[0] {
        b'{' => pair[1].is_ascii_digit(),
        b'\\' => matches!(pair[1], b'p' | b'P' | b'x' | b'u' | b'U' | b'0'..=b'9'),
        _ => false,
    };
    text.len() > CHEAP_BYTES || text.as_bytes().windows(2).any(costly)
}

thread_local! {
    /// Set once nobody waits for what this thread compiles.
    static GIVEN_UP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Does something that may compile many expressions, for as long as somebody waits for it: once `given_up` is set no further
/// one is compiled on this thread, and those that are wanted are refused. One that has been begun is compiled to its end.
pub fn while_wanted<T>(given_up: Arc<AtomicBool>, work: impl FnOnce() -> T) -> T {
    struct Restores(Option<Arc<AtomicBool>>);
    impl Drop for Restores {
        fn drop(&mut self) {
            GIVEN_UP.replace(self.0.take());
        }
    }
    let _restores = Restores(GIVEN_UP.replace(Some(given_up)));
    work()
}

fn check_wanted(expression: &str) -> Result<(), Error> {
    let is_given_up = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
    match GIVEN_UP.with_borrow(|flag| flag.as_ref().is_some_and(is_given_up)) {
        true => Err(Error::new("not compiled, since nobody waits for it", expression)),
        false => Ok(()),
    }
}

/// A compiled expression that matches whole texts only, as `^(?s:expression)$` does. Cloning shares it.
#[derive(Clone)]
pub struct Regex(Arc<Compiled>);

struct Compiled {
    source: String,
    shape: Shape,
    literal_prefix: String,
    /// Names by group number, the whole match included.
    group_names: Vec<Option<String>>,
    /// Absent where `shape` says all that the engine could.
    engine: Option<meta::Regex>,
}

/// Equal where written alike.
impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.source == other.0.source
    }
}

impl Eq for Regex {}

/// As written: what is compiled may take megabytes, and would take many more as text.
impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Regex").field(&self.0.source).finish()
    }
}

impl Regex {
    /// Compiles `^(?s:expression)$`.
    ///
    /// # Errors
    /// As [`Self::alone`]; also where what is quoted has no end, so that it takes the anchors with it (`\Qa`).
    pub fn anchored(expression: &str) -> Result<Self, Error> {
        let regex = Self::alone(expression)?;
        if expression.contains("\\Q") {
            parse::parse(&between_anchors(expression))?;
        }
        Ok(regex)
    }

    /// Compiles an expression that is read before anchors are put around it, as Prometheus does for matchers.
    ///
    /// # Errors
    /// When Go's RE2 would refuse `expression`, or it has more than 1 MiB, or compiles to more than 16 MiB.
    pub fn alone(expression: &str) -> Result<Self, Error> {
        if expression.len() > MAX_EXPRESSION_BYTES {
            let begins = &expression[..expression.floor_char_boundary(64)];
            return Err(Error::new("expression too large", &format!("{begins}…")));
        }
        if let Some(compiled) = shared::find(expression) {
            return Ok(Self(compiled));
        }
        let one_at_a_time = is_costly(expression).then(|| COSTLY.lock().unwrap_or_else(PoisonError::into_inner));
        // Who waited may find what the one before has compiled.
        if let Some(compiled) = one_at_a_time.as_ref().and_then(|_| shared::find(expression)) {
            return Ok(Self(compiled));
        }
        check_wanted(expression)?;
        let parsed = parse::parse(expression)?;
        let shape = facts::shape(&parsed.hir);
        let literal_prefix = facts::literal_prefix(&parsed.hir);
        let engine = match shape {
            Shape::Other => Some(build_engine(parsed.hir, expression)?),
            Shape::Any { .. } | Shape::NonEmpty { .. } | Shape::Literals { .. } | Shape::Glob { .. } => None,
        };
        let compiled = Arc::new(Compiled {
            source: expression.to_owned(),
            shape,
            literal_prefix,
            group_names: parsed.group_names,
            engine,
        });
        shared::enter(&compiled);
        Ok(Self(compiled))
    }

    /// `(.*)`: matches every text and captures it whole.
    #[must_use]
    pub fn match_all() -> Self {
        Self(Arc::new(Compiled {
            source: "(.*)".to_owned(),
            shape: Shape::Any { wrapping_groups: 1 },
            literal_prefix: String::new(),
            group_names: vec![None, None],
            engine: None,
        }))
    }

    /// The expression as written, without the anchors.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What the compiled expression occupies.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.0.source.len() + self.0.engine.as_ref().map_or(0, meta::Regex::memory_usage)
    }

    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        match &self.0.shape {
            Shape::Any { .. } => true,
            Shape::NonEmpty { .. } => !text.is_empty(),
            Shape::Literals { sorted, .. } => sorted.binary_search_by(|literal| literal.as_str().cmp(text)).is_ok(),
            Shape::Glob { glob, .. } => glob.is_match(text),
            Shape::Other => {
                text.starts_with(&self.0.literal_prefix)
                    && self
                        .0
                        .engine
                        .as_ref()
                        .is_some_and(|engine| engine.is_match(anchored(text)))
            }
        }
    }

    /// The groups of a match; none where `text` does not match.
    #[must_use]
    pub fn captures<'t>(&self, text: &'t str) -> Option<Captures<'_, 't>> {
        let whole = || (self.is_match(text)).then_some((0, text.len()));
        let spans = match &self.0.shape {
            Shape::Any { wrapping_groups }
            | Shape::NonEmpty { wrapping_groups }
            | Shape::Glob { wrapping_groups, .. }
            | Shape::Literals { wrapping_groups, .. } => {
                vec![Some(whole()?); wrapping_groups + 1]
            }
            Shape::Other => {
                let engine = self.0.engine.as_ref()?;
                let mut found = engine.create_captures();
                engine.captures(anchored(text), &mut found);
                found.get_match()?;
                let span = |group| found.get_group(group).map(|span| (span.start, span.end));
                (0..self.0.group_names.len()).map(span).collect()
            }
        };
        Some(Captures::new(text, &self.0.group_names, spans))
    }

    /// All texts that can match, sorted and without duplicates, where the expression is a choice of literals (`a|b`,
    /// `node-[12]`) that stands for at most a few thousand.
    #[must_use]
    pub fn literal_alternatives(&self) -> Option<Vec<String>> {
        match &self.0.shape {
            Shape::Literals { sorted, .. } => Some(sorted.clone()),
            _ => None,
        }
    }

    /// A text with which every match begins; may be empty.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        &self.0.literal_prefix
    }

    /// Whether what begins with [`Self::literal_prefix`] matches, and nothing else (`node-.*`).
    fn is_every_text_with_prefix(&self) -> bool {
        match &self.0.shape {
            Shape::Any { .. } => true,
            Shape::Glob { glob, .. } => glob.is_prefix(),
            Shape::NonEmpty { .. } | Shape::Literals { .. } | Shape::Other => false,
        }
    }

    /// Runs the expression over many texts, one after the other; quickest where they ascend.
    #[must_use]
    pub fn scan(&self) -> Scan<'_> {
        Scan::new(self)
    }

    /// Whether every text matches (`.*`).
    #[must_use]
    pub fn matches_everything(&self) -> bool {
        matches!(self.0.shape, Shape::Any { .. })
    }

    /// Whether every text but the empty one matches, and that one does not (`.+`).
    #[must_use]
    pub fn matches_all_but_empty(&self) -> bool {
        matches!(self.0.shape, Shape::NonEmpty { .. })
    }
}

fn anchored(text: &str) -> Input<'_> {
    Input::new(text).anchored(Anchored::Yes)
}

fn build_engine(hir: regex_syntax::hir::Hir, expression: &str) -> Result<meta::Regex, Error> {
    use regex_syntax::hir::{Hir, Look};
    let whole = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
    let config = meta::Config::new().nfa_size_limit(Some(SIZE_LIMIT_BYTES));
    meta::Builder::new()
        .configure(config)
        .build_from_hir(&whole)
        .map_err(|_| Error::new("expression too large", expression))
}

#[cfg(test)]
mod tests;
