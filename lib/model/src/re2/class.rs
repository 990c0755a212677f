//! Character classes: `[…]`, `\d`, `[:alpha:]`, `\p{Greek}`.

use super::Error;
use super::parse::{Flags, escape};
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

const BAD_RANGE: &str = "invalid character class range";

/// What classes may cost in one expression, so that a long one is refused before it takes seconds.
pub(super) struct Budget {
    /// Ranges of Unicode classes that may still come; `\pL` has some 650.
    ranges: usize,
    /// Bytes from the last `:]` to the end of the expression: without one ahead there is no `[:name:]` to look for.
    posix_end: Option<usize>,
}

impl Budget {
    pub(super) fn new(expression: &str) -> Self {
        let posix_end = expression.rfind(":]").map(|at| expression.len() - at);
        Self {
            ranges: 250_000,
            posix_end,
        }
    }
}

fn ranges(pairs: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(pairs.iter().map(|(start, end)| ClassUnicodeRange::new(*start, *end)))
}

/// Folds before negating, as RE2 does: `(?i)\W` does not match the Kelvin sign.
fn finish(mut class: ClassUnicode, flags: Flags, negated: bool) -> ClassUnicode {
    if flags.fold_case {
        class.case_fold_simple();
    }
    if negated {
        class.negate();
    }
    class
}

const DIGIT: &[(char, char)] = &[('0', '9')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
/// Without the vertical tab, unlike `[:space:]`.
const SPACE: &[(char, char)] = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];

/// `\d`, `\S` and the like at the front of `text`: the class and what follows.
pub(super) fn perl(text: &str, flags: Flags) -> Option<(ClassUnicode, &str)> {
    let mut chars = text.strip_prefix('\\')?.chars();
    let letter = chars.next()?;
    let pairs = match letter.to_ascii_lowercase() {
        'd' => DIGIT,
        's' => SPACE,
        'w' => WORD,
        _ => return None,
    };
    Some((
        finish(ranges(pairs), flags, letter.is_ascii_uppercase()),
        chars.as_str(),
    ))
}

fn posix_ranges(name: &str) -> Option<&'static [(char, char)]> {
    Some(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => DIGIT,
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => WORD,
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}

/// `[:alpha:]` or `[:^alpha:]` within a bracket; none where `text` does not begin like one.
fn posix<'t>(text: &'t str, flags: Flags, budget: &Budget) -> Result<Option<(ClassUnicode, &'t str)>, Error> {
    if budget.posix_end.is_none_or(|from_end| text.len() < from_end) {
        return Ok(None);
    }
    let Some(end) = text.strip_prefix("[:").and_then(|inner| inner.find(":]")) else {
        return Ok(None);
    };
    let (written, rest) = text.split_at(end + 4);
    let name = &written[2..written.len() - 2];
    let (negated, name) = name.strip_prefix('^').map_or((false, name), |name| (true, name));
    let pairs = posix_ranges(name).ok_or_else(|| Error::new(BAD_RANGE, written))?;
    Ok(Some((finish(ranges(pairs), flags, negated), rest)))
}

/// `\pL`, `\p{Greek}`, `\P{^Lu}` at the front of `text`; none where it begins otherwise.
pub(super) fn unicode<'t>(
    text: &'t str,
    flags: Flags,
    budget: &mut Budget,
) -> Result<Option<(ClassUnicode, &'t str)>, Error> {
    let (mut negated, body) = match (text.strip_prefix("\\p"), text.strip_prefix("\\P")) {
        (Some(body), _) => (false, body),
        (_, Some(body)) => (true, body),
        _ => return Ok(None),
    };
    let (mut name, written_len) = if let Some(braced) = body.strip_prefix('{') {
        let end = braced.find('}').ok_or_else(|| Error::new(BAD_RANGE, text))?;
        (&braced[..end], end + 4)
    } else {
        let len = body.chars().next().map_or(0, char::len_utf8);
        (&body[..len], len + 2)
    };
    let (written, rest) = text.split_at(written_len);
    if let Some(inverse) = name.strip_prefix('^') {
        (negated, name) = (!negated, inverse);
    }
    let class = category_or_script(name).ok_or_else(|| Error::new(BAD_RANGE, written))?;
    let left = budget.ranges.checked_sub(class.ranges().len());
    budget.ranges = left.ok_or_else(|| Error::new("expression too large", written))?;
    Ok(Some((finish(class, flags, negated), rest)))
}

/// Scripts whose own name is as short as the codes of four letters that stand for scripts elsewhere, but not in Go.
const SHORT_SCRIPTS: [&str; 8] = ["ahom", "cham", "kawi", "lisu", "modi", "newa", "thai", "toto"];

fn category_or_script(name: &str) -> Option<ClassUnicode> {
    // Spaces, underscores, hyphens and case do not count (Unicode TR18, and Go from 1.25 on).
    let loose: String = name
        .chars()
        .filter(|c| !matches!(c, ' ' | '_' | '-'))
        .collect::<String>()
        .to_lowercase();
    if loose.is_empty() || !loose.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let lookup = |property: &str| {
        let hir = regex_syntax::parse(&format!("\\p{{{property}={loose}}}")).ok()?;
        match hir.into_kind() {
            HirKind::Class(Class::Unicode(class)) => Some(class),
            // A class of one character comes back as a literal.
            HirKind::Literal(literal) => {
                let c = std::str::from_utf8(&literal.0).ok()?.chars().next()?;
                Some(ranges(&[(c, c)]))
            }
            _ => None,
        }
    };
    if loose == "lc" {
        return cased_letter();
    }
    lookup("gc").or_else(|| {
        let code = loose.len() == 4 && !SHORT_SCRIPTS.contains(&loose.as_str());
        if code { None } else { lookup("sc") }
    })
}

fn cased_letter() -> Option<ClassUnicode> {
    let mut all = ClassUnicode::empty();
    for name in ["Lu", "Ll", "Lt"] {
        all.union(&category_or_script(name)?);
    }
    Some(all)
}

/// Reads `[…]` at the front of `text`: the class and what follows.
pub(super) fn bracket<'t>(text: &'t str, flags: Flags, budget: &mut Budget) -> Result<(ClassUnicode, &'t str), Error> {
    let inner = text.strip_prefix('[').unwrap_or(text);
    let (negated, mut rest) = inner.strip_prefix('^').map_or((false, inner), |rest| (true, rest));
    // Made a class once, at the end: that sorts them, and folding a class that is folded already adds nothing.
    let mut all = Vec::new();
    let mut first = true;
    // A bracket that closes at once is a member.
    while first || !rest.starts_with(']') {
        first = false;
        let named = match posix(rest, flags, budget)? {
            None => unicode(rest, flags, budget)?,
            found => found,
        };
        if let Some((part, after)) = named.or_else(|| perl(rest, flags)) {
            all.extend_from_slice(part.ranges());
            rest = after;
            continue;
        }
        let range_start = rest;
        let (low, after) = member(rest, text)?;
        rest = after;
        let mut high = low;
        if let Some(after) = rest.strip_prefix('-')
            && !after.is_empty()
            && !after.starts_with(']')
        {
            (high, rest) = member(after, text)?;
            if high < low {
                return Err(Error::new(BAD_RANGE, &range_start[..range_start.len() - rest.len()]));
            }
        }
        all.extend_from_slice(code_points(low, high).ranges());
    }
    Ok((finish(ClassUnicode::new(all), flags, negated), &rest[1..]))
}

/// One member of a bracket: a code point, which an escape may give as a surrogate.
fn member<'t>(rest: &'t str, whole: &str) -> Result<(u32, &'t str), Error> {
    if rest.starts_with('\\') {
        return escape(rest);
    }
    let mut chars = rest.chars();
    match chars.next() {
        Some(c) => Ok((u32::from(c), chars.as_str())),
        None => Err(Error::new("missing closing ]", whole)),
    }
}

/// The scalar values from `low` to `high`, both included; surrogates, which no text holds, are left out.
pub(super) fn code_points(low: u32, high: u32) -> ClassUnicode {
    let start = char::from_u32(low).unwrap_or('\u{e000}');
    let end = char::from_u32(high).unwrap_or('\u{d7ff}');
    if u32::from(start) > high || end < start {
        return ClassUnicode::empty();
    }
    ranges(&[(start, end)])
}
