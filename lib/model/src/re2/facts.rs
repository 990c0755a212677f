//! What can be known of an expression without running it.

use super::glob::Glob;
use regex_syntax::hir::{Class, Hir, HirKind, Repetition};

/// Expressions that need no automaton, and the others.
#[derive(Debug)]
pub(super) enum Shape {
    /// `.*`; `wrapping_groups` counts the capture groups around all of it.
    Any {
        wrapping_groups: usize,
    },
    /// `.+`
    NonEmpty {
        wrapping_groups: usize,
    },
    /// A choice of texts, sorted, without duplicates.
    Literals {
        sorted: Vec<String>,
        wrapping_groups: usize,
    },
    /// Texts with anything between them.
    Glob {
        glob: Glob,
        wrapping_groups: usize,
    },
    Other,
}

/// A product of choices (`[ab][cd]…`) is written out up to this many texts; a plain choice may be longer.
const MAX_PRODUCT: usize = 4096;

pub(super) fn shape(hir: &Hir) -> Shape {
    let (mut inner, mut wrapping_groups) = (hir, 0);
    while let HirKind::Capture(capture) = inner.kind() {
        inner = &capture.sub;
        wrapping_groups += 1;
    }
    if let HirKind::Repetition(Repetition {
        min, max: None, sub, ..
    }) = inner.kind()
        && is_any_char(sub)
    {
        match min {
            0 => return Shape::Any { wrapping_groups },
            1 => return Shape::NonEmpty { wrapping_groups },
            _ => {}
        }
    }
    // Inner groups would have to be captured too: that is for the automaton.
    if inner.properties().explicit_captures_len() > 0 {
        return Shape::Other;
    }
    match literals(inner) {
        Some(mut sorted) => {
            sorted.sort_unstable();
            sorted.dedup();
            Shape::Literals {
                sorted,
                wrapping_groups,
            }
        }
        None => match Glob::of(inner) {
            Some(glob) => Shape::Glob { glob, wrapping_groups },
            None => Shape::Other,
        },
    }
}

pub(super) fn is_any_char(hir: &Hir) -> bool {
    let HirKind::Class(Class::Unicode(class)) = hir.kind() else {
        return false;
    };
    let ranges: Vec<(char, char)> = class
        .ranges()
        .iter()
        .map(|range| (range.start(), range.end()))
        .collect();
    // The ranges on both sides of the surrogates may have been joined.
    matches!(
        ranges[..],
        [('\0', char::MAX)] | [('\0', '\u{d7ff}'), ('\u{e000}', char::MAX)]
    )
}

fn literals(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Empty => Some(vec![String::new()]),
        HirKind::Literal(literal) => Some(vec![std::str::from_utf8(&literal.0).ok()?.to_owned()]),
        HirKind::Class(Class::Unicode(class)) => {
            let count: usize = class
                .ranges()
                .iter()
                .map(regex_syntax::hir::ClassUnicodeRange::len)
                .sum();
            if count > MAX_PRODUCT {
                return None;
            }
            Some(
                class
                    .ranges()
                    .iter()
                    .flat_map(|r| r.start()..=r.end())
                    .map(String::from)
                    .collect(),
            )
        }
        HirKind::Class(Class::Bytes(class)) => class.is_ascii().then(|| {
            class
                .ranges()
                .iter()
                .flat_map(|r| r.start()..=r.end())
                .map(|b| char::from(b).to_string())
                .collect()
        }),
        HirKind::Alternation(subs) => {
            let mut all = Vec::new();
            for sub in subs {
                all.extend(literals(sub)?);
            }
            Some(all)
        }
        HirKind::Concat(subs) => {
            let mut all = vec![String::new()];
            for sub in subs {
                let tails = literals(sub)?;
                if all.len().saturating_mul(tails.len()) > MAX_PRODUCT.max(all.len()).max(tails.len()) {
                    return None;
                }
                all = all
                    .iter()
                    .flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}")))
                    .collect();
            }
            Some(all)
        }
        HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Capture(_) => None,
    }
}

pub(super) fn literal_prefix(hir: &Hir) -> String {
    let mut prefix = String::new();
    push_prefix(hir, &mut prefix);
    prefix
}

/// Appends what the node begins with; true if that is the whole of what it can match.
fn push_prefix(hir: &Hir, prefix: &mut String) -> bool {
    match hir.kind() {
        HirKind::Empty => true,
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0);
            prefix.push_str(text.unwrap_or(""));
            text.is_ok()
        }
        HirKind::Capture(capture) => push_prefix(&capture.sub, prefix),
        HirKind::Concat(subs) => subs.iter().all(|sub| push_prefix(sub, prefix)),
        HirKind::Repetition(repetition) if repetition.min > 0 => {
            push_prefix(&repetition.sub, prefix);
            false
        }
        HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => false,
    }
}
