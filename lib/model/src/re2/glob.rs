//! Expressions that are texts with anything between them (`.*error.*`, `node-.+:9100`): no automaton is needed.

use super::facts::is_any_char;
use memchr::memmem::Finder;
use regex_syntax::hir::{Hir, HirKind, Repetition};

/// A text, after something of any characters unless it is the first.
#[derive(Debug)]
struct Piece {
    /// Characters that lie before it at least; none where it is the beginning.
    gap: Option<u32>,
    finder: Finder<'static>,
}

impl Piece {
    fn text(&self) -> &[u8] {
        self.finder.needle()
    }
}

/// Texts in order, with anything between them.
#[derive(Debug)]
pub(super) struct Glob {
    pieces: Vec<Piece>,
    /// Characters that follow the last text at least; none where it is the end.
    tail: Option<u32>,
}

/// The rest of a text after so many characters; none where it has fewer.
fn after(text: &str, chars: u32) -> Option<&str> {
    let mut rest = text.chars();
    for _ in 0..chars {
        rest.next()?;
    }
    Some(rest.as_str())
}

impl Glob {
    /// None where the expression is not of this kind.
    pub(super) fn of(hir: &Hir) -> Option<Self> {
        let HirKind::Concat(subs) = hir.kind() else {
            return None;
        };
        let mut pieces = Vec::new();
        let mut gap = None;
        for sub in subs {
            match sub.kind() {
                HirKind::Empty => {}
                HirKind::Literal(literal) => {
                    std::str::from_utf8(&literal.0).ok()?;
                    if gap.is_none() && !pieces.is_empty() {
                        return None;
                    }
                    pieces.push(Piece {
                        gap: gap.take(),
                        finder: Finder::new(&literal.0).into_owned(),
                    });
                }
                HirKind::Repetition(Repetition {
                    min, max: None, sub, ..
                }) if is_any_char(sub) => {
                    gap = Some(min.saturating_add(gap.unwrap_or(0)));
                }
                _ => return None,
            }
        }
        (!pieces.is_empty()).then_some(Self { pieces, tail: gap })
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        let mut rest = text;
        for (at, piece) in self.pieces.iter().enumerate() {
            let found = match piece.gap {
                None => rest.as_bytes().starts_with(piece.text()).then_some(0),
                Some(chars) => {
                    let Some(from) = after(rest, chars) else {
                        return false;
                    };
                    rest = from;
                    // The first place is as good as any other, but for a text that has to be at the end.
                    if self.tail.is_none() && at + 1 == self.pieces.len() {
                        return rest.as_bytes().ends_with(piece.text());
                    }
                    piece.finder.find(rest.as_bytes())
                }
            };
            // A text that is found begins and ends between characters.
            let Some(next) = found.and_then(|at| rest.get(at + piece.text().len()..)) else {
                return false;
            };
            rest = next;
        }
        self.tail.map_or(rest.is_empty(), |chars| after(rest, chars).is_some())
    }

    /// Whether everything that begins with the literal prefix matches.
    pub(super) fn is_prefix(&self) -> bool {
        matches!(self.pieces.as_slice(), [only] if only.gap.is_none()) && self.tail == Some(0)
    }
}
