//! RE2 syntax to HIR. No recursion: groups that are open are a stack, so that nesting costs memory, not stack.

use super::{Error, class};
use regex_syntax::hir::{Capture, Class, Dot, Hir, Look, Repetition};

/// As in Go: deeper trees are refused.
const MAX_HEIGHT: u32 = 1000;
/// As in Go: `x{1001}` is refused, and so is a product of nested counts beyond it.
const MAX_REPEAT: u32 = 1000;

/// What `(?ims-U)` switches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    pub(super) fold_case: bool,
    multi_line: bool,
    dot_matches_newline: bool,
    swap_greed: bool,
}

pub(super) struct Parsed {
    pub(super) hir: Hir,
    /// By group number; group 0, the whole match, has no name.
    pub(super) group_names: Vec<Option<String>>,
}

/// A part of the tree with what the limits need to know of it.
struct Node {
    hir: Hir,
    height: u32,
    /// The largest product of counts on a way down.
    repeats: u32,
}

impl Node {
    fn leaf(hir: Hir) -> Self {
        Self {
            hir,
            height: 1,
            repeats: 1,
        }
    }

    /// Joins nodes below a new one; a single node stays itself.
    fn join(mut nodes: Vec<Self>, make: fn(Vec<Hir>) -> Hir) -> Self {
        if nodes.len() == 1
            && let Some(only) = nodes.pop()
        {
            return only;
        }
        let height = 1 + nodes.iter().map(|node| node.height).max().unwrap_or(0);
        let repeats = nodes.iter().map(|node| node.repeats).max().unwrap_or(1);
        Self {
            hir: make(nodes.into_iter().map(|node| node.hir).collect()),
            height,
            repeats,
        }
    }
}

/// A group that is open, or the whole expression.
struct Group {
    /// The group's number if it captures.
    capture: Option<u32>,
    /// What holds again once it is closed.
    flags_after: Flags,
    branches: Vec<Node>,
    items: Vec<Node>,
}

impl Group {
    fn new(capture: Option<u32>, flags_after: Flags) -> Self {
        Self {
            capture,
            flags_after,
            branches: Vec::new(),
            items: Vec::new(),
        }
    }

    fn end_branch(&mut self) {
        let items = std::mem::take(&mut self.items);
        self.branches.push(Node::join(items, Hir::concat));
    }

    fn close(mut self) -> Node {
        self.end_branch();
        let node = Node::join(self.branches, Hir::alternation);
        let Some(index) = self.capture else {
            return node;
        };
        // Names are looked up in our own table: the engine's would refuse two groups of one name.
        let capture = Capture {
            index,
            name: None,
            sub: Box::new(node.hir),
        };
        Node {
            hir: Hir::capture(capture),
            height: node.height + 1,
            repeats: node.repeats,
        }
    }
}

struct Parser<'t> {
    whole: &'t str,
    flags: Flags,
    outer: Vec<Group>,
    current: Group,
    open_captures: u32,
    budget: class::Budget,
    group_names: Vec<Option<String>>,
}

/// Reads an expression in which `.` matches a newline.
pub(super) fn parse(whole: &str) -> Result<Parsed, Error> {
    let flags = Flags {
        fold_case: false,
        multi_line: false,
        dot_matches_newline: true,
        swap_greed: false,
    };
    let mut parser = Parser {
        whole,
        flags,
        outer: Vec::new(),
        current: Group::new(None, flags),
        open_captures: 0,
        budget: class::Budget::new(whole),
        group_names: vec![None],
    };
    let mut rest = whole;
    // The operator just before `rest`, if that is what stands there.
    let mut last_repeat: Option<&str> = None;
    while let Some(c) = rest.chars().next() {
        let before = rest;
        let repeat = match c {
            '*' => Some((0, None, &rest[1..])),
            '+' => Some((1, None, &rest[1..])),
            '?' => Some((0, Some(1), &rest[1..])),
            '{' => counted_repeat(rest)?,
            _ => None,
        };
        if let Some((min, max, after)) = repeat {
            rest = parser.repeat(min, max, before, after, last_repeat)?;
            last_repeat = Some(before);
        } else {
            rest = parser.item(c, rest)?;
            last_repeat = None;
        }
    }
    if !parser.outer.is_empty() {
        return Err(Error::new("missing closing )", whole));
    }
    let node = parser.current.close();
    check_height(&node, whole)?;
    Ok(Parsed {
        hir: node.hir,
        group_names: parser.group_names,
    })
}

fn check_height(node: &Node, whole: &str) -> Result<(), Error> {
    if node.height > MAX_HEIGHT {
        return Err(Error::new("expression nests too deeply", whole));
    }
    Ok(())
}

impl<'t> Parser<'t> {
    /// Reads what is not a repetition at the front of `rest`, which begins with `c`; gives what follows.
    fn item(&mut self, c: char, rest: &'t str) -> Result<&'t str, Error> {
        let after = &rest[c.len_utf8()..];
        match c {
            '(' if after.starts_with('?') => return self.perl_group(rest),
            '(' => self.open(None, true, self.flags)?,
            '|' => self.current.end_branch(),
            ')' => self.close()?,
            '^' => self.push(Hir::look(if self.flags.multi_line {
                Look::StartLF
            } else {
                Look::Start
            })),
            '$' => self.push(Hir::look(if self.flags.multi_line { Look::EndLF } else { Look::End })),
            '.' => {
                let dot = if self.flags.dot_matches_newline {
                    Dot::AnyChar
                } else {
                    Dot::AnyCharExceptLF
                };
                self.push(Hir::dot(dot));
            }
            '[' => {
                let (class, after) = class::bracket(rest, self.flags, &mut self.budget)?;
                self.push(Hir::class(Class::Unicode(class)));
                return Ok(after);
            }
            '\\' => return self.backslash(rest),
            c => self.push_literal(u32::from(c)),
        }
        Ok(after)
    }

    fn push(&mut self, hir: Hir) {
        self.current.items.push(Node::leaf(hir));
    }

    fn push_literal(&mut self, code_point: u32) {
        let mut class = class::code_points(code_point, code_point);
        if self.flags.fold_case {
            class.case_fold_simple();
        }
        // A class of one becomes a literal; one of none (a surrogate) never matches.
        self.push(Hir::class(Class::Unicode(class)));
    }

    fn open(&mut self, name: Option<&str>, captures: bool, flags_within: Flags) -> Result<(), Error> {
        let capture = if captures {
            // Every open group adds a level: stop a long run of `(` before it costs memory.
            self.open_captures += 1;
            if self.open_captures > MAX_HEIGHT {
                return Err(Error::new("expression nests too deeply", self.whole));
            }
            self.group_names.push(name.map(str::to_owned));
            u32::try_from(self.group_names.len() - 1).ok()
        } else {
            None
        };
        let group = Group::new(capture, self.flags);
        self.outer.push(std::mem::replace(&mut self.current, group));
        self.flags = flags_within;
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(outer) = self.outer.pop() else {
            return Err(Error::new("unexpected )", self.whole));
        };
        let group = std::mem::replace(&mut self.current, outer);
        self.flags = group.flags_after;
        self.open_captures -= u32::from(group.capture.is_some());
        let node = group.close();
        check_height(&node, self.whole)?;
        self.current.items.push(node);
        Ok(())
    }

    /// `(?P<name>`, `(?<name>`, `(?flags)`, `(?flags:`.
    fn perl_group(&mut self, rest: &'t str) -> Result<&'t str, Error> {
        let named = rest.strip_prefix("(?P<").or_else(|| rest.strip_prefix("(?<"));
        // Go needs one byte after the angle bracket to see a name.
        if let Some(body) = named.filter(|body| !body.is_empty()) {
            let end = body
                .find('>')
                .ok_or_else(|| Error::new("invalid named capture", rest))?;
            let (name, after) = (&body[..end], &body[end + 1..]);
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(Error::new("invalid named capture", &rest[..rest.len() - after.len()]));
            }
            self.open(Some(name), true, self.flags)?;
            return Ok(after);
        }
        let mut flags = self.flags;
        let (mut value, mut saw_flag) = (true, false);
        let mut chars = rest[2..].chars();
        for c in chars.by_ref() {
            match c {
                'i' => flags.fold_case = value,
                'm' => flags.multi_line = value,
                's' => flags.dot_matches_newline = value,
                'U' => flags.swap_greed = value,
                '-' if value => {
                    (value, saw_flag) = (false, false);
                    continue;
                }
                ':' | ')' if value || saw_flag => {
                    if c == ':' {
                        self.open(None, false, flags)?;
                    } else {
                        self.flags = flags;
                    }
                    return Ok(chars.as_str());
                }
                _ => break,
            }
            saw_flag = true;
        }
        Err(Error::new(
            "invalid or unsupported Perl syntax",
            &rest[..rest.len() - chars.as_str().len()],
        ))
    }

    fn backslash(&mut self, rest: &'t str) -> Result<&'t str, Error> {
        let look = match rest.as_bytes().get(1) {
            Some(b'A') => Some(Look::Start),
            Some(b'z') => Some(Look::End),
            Some(b'b') => Some(Look::WordAscii),
            Some(b'B') => Some(Look::WordAsciiNegate),
            Some(b'C') => return Err(Error::new("invalid escape sequence", &rest[..2])),
            Some(b'Q') => {
                let body = &rest[2..];
                let (literal, after) = body.split_once("\\E").unwrap_or((body, ""));
                literal.chars().for_each(|c| self.push_literal(u32::from(c)));
                return Ok(after);
            }
            _ => None,
        };
        if let Some(look) = look {
            self.push(Hir::look(look));
            return Ok(&rest[2..]);
        }
        let class = match class::unicode(rest, self.flags, &mut self.budget)? {
            None => class::perl(rest, self.flags),
            found => found,
        };
        if let Some((class, after)) = class {
            self.push(Hir::class(Class::Unicode(class)));
            return Ok(after);
        }
        let (code_point, after) = escape(rest)?;
        self.push_literal(code_point);
        Ok(after)
    }

    /// Repeats the last item. `before` begins with the operator, `after` follows it.
    fn repeat(
        &mut self,
        min: u32,
        max: Option<u32>,
        before: &'t str,
        after: &'t str,
        last_repeat: Option<&'t str>,
    ) -> Result<&'t str, Error> {
        let (lazy, after) = after.strip_prefix('?').map_or((false, after), |after| (true, after));
        if let Some(last) = last_repeat {
            return Err(Error::new(
                "invalid nested repetition operator",
                &last[..last.len() - after.len()],
            ));
        }
        let operator = &before[..before.len() - after.len()];
        let Some(node) = self.current.items.pop() else {
            return Err(Error::new("missing argument to repetition operator", operator));
        };
        let mut repeats = node.repeats;
        if operator.starts_with('{') {
            // `x{0}` matches nothing whatever is in it.
            let count = max.unwrap_or(min);
            repeats = if max == Some(0) {
                1
            } else {
                repeats.saturating_mul(count.max(1))
            };
            if count >= 2 && repeats > MAX_REPEAT {
                return Err(Error::new("invalid repeat count", operator));
            }
        }
        let repetition = Repetition {
            min,
            max,
            greedy: lazy == self.flags.swap_greed,
            sub: Box::new(node.hir),
        };
        let node = Node {
            hir: Hir::repetition(repetition),
            height: node.height + 1,
            repeats,
        };
        check_height(&node, self.whole)?;
        self.current.items.push(node);
        Ok(after)
    }
}

/// Least and greatest count (none: no limit), and what follows the operator.
type Counts<'t> = (u32, Option<u32>, &'t str);

/// Reads `{n}`, `{n,}`, `{n,m}` at the front of `text`; none where it is a literal brace.
fn counted_repeat(text: &str) -> Result<Option<Counts<'_>>, Error> {
    let Some((min, rest)) = text.strip_prefix('{').and_then(count) else {
        return Ok(None);
    };
    let (max, rest) = match rest.strip_prefix(',') {
        None => (Some(min), rest),
        Some(rest) if rest.starts_with('}') => (None, rest),
        Some(rest) => match count(rest) {
            Some((max, rest)) => (Some(max), rest),
            None => return Ok(None),
        },
    };
    let Some(after) = rest.strip_prefix('}') else {
        return Ok(None);
    };
    if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT || max < min) {
        return Err(Error::new("invalid repeat count", &text[..text.len() - after.len()]));
    }
    Ok(Some((min, max, after)))
}

/// A number without needless zeros in front; one that is too large for its type reads as the largest.
fn count(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at(text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len()));
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits.parse().unwrap_or(u32::MAX), rest))
}

/// Reads an escape that stands for one code point at the front of `text`: the code point and what follows.
pub(super) fn escape(text: &str) -> Result<(u32, &str), Error> {
    let mut chars = text.chars();
    chars.next();
    let Some(c) = chars.next() else {
        return Err(Error::new("trailing backslash at end of expression", ""));
    };
    let rest = chars.as_str();
    let bad = |rest: &str| Error::new("invalid escape sequence", &text[..text.len() - rest.len()]);
    let code_point = match c {
        '0'..='7' => return octal(&text[1..]).ok_or_else(|| bad(rest)),
        'x' => return hexadecimal(rest).map_err(bad),
        'a' => 7,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'v' => 11,
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => u32::from(c),
        _ => return Err(bad(rest)),
    };
    Ok((code_point, rest))
}

/// One to three octal digits; a single one that is not zero would be a reference to a group, which RE2 has not.
fn octal(text: &str) -> Option<(u32, &str)> {
    let len = text.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
    if len == 1 && !text.starts_with('0') {
        return None;
    }
    Some((u32::from_str_radix(&text[..len], 8).ok()?, &text[len..]))
}

/// Two hexadecimal digits, or any number of them in braces. An error is the text after what was read in vain.
fn hexadecimal(text: &str) -> Result<(u32, &str), &str> {
    let mut chars = text.chars();
    let Some(first) = chars.next() else {
        return Err(text);
    };
    if first != '{' {
        let second = chars.next();
        let digits = (first.to_digit(16), second.and_then(|c| c.to_digit(16)));
        let (Some(high), Some(low)) = digits else {
            return Err(chars.as_str());
        };
        return Ok((high * 16 + low, chars.as_str()));
    }
    let mut value: Option<u32> = None;
    while let Some(c) = chars.next() {
        if c == '}' {
            return value.map(|value| (value, chars.as_str())).ok_or(chars.as_str());
        }
        let Some(digit) = c.to_digit(16) else {
            return Err(chars.as_str());
        };
        let next = value.unwrap_or(0) * 16 + digit;
        if next > u32::from(char::MAX) {
            return Err(chars.as_str());
        }
        value = Some(next);
    }
    Err("")
}
