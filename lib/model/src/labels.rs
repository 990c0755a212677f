//! Label sets in one canonical byte form, so that a set is hashed, compared, stored and sent without taking it apart.
//!
//! ```text
//! canonical bytes = { uvarint(len(name)) name uvarint(len(value)) value }*
//! ```
//!
//! Pairs are sorted by name (byte order), names are unique and not empty, values are not empty (an empty value is the
//! absence of the label). Equal sets have equal bytes, and only they.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The label that holds the metric's name.
pub const METRIC_NAME: &str = "__name__";

/// An owned label set; cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[u8]>);

/// A borrowed label set. Whoever makes one from bytes vouches that they are canonical ([`LabelsRef::checked`] checks).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelsRef<'a>(&'a [u8]);

/// Bytes that are not the canonical form of a label set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLabels {
    #[error("label bytes end within a label")]
    Truncated,
    #[error("a label name or value is not UTF-8")]
    NotUtf8,
    #[error("label names are not sorted or not unique")]
    NotSorted,
    #[error("an empty label name or value")]
    Empty,
}

/// Appends `value` as LEB128, 7 bits a byte, low bits first.
pub fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a LEB128 number from the front of `bytes`: the number and what follows. None if cut short or over 64 bits.
#[must_use]
#[inline]
pub fn get_uvarint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((u64::from(first), rest));
    }
    let mut value = u64::from(first & 0x7f);
    let mut shift = 7;
    for (i, &byte) in rest.iter().enumerate() {
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value, rest.get(i + 1..)?));
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
    None
}

fn split_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = get_uvarint(bytes)?;
    rest.split_at_checked(usize::try_from(len).ok()?)
}

/// The pairs of a set, by name.
#[derive(Clone)]
pub struct Pairs<'a>(&'a [u8]);

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let (name, rest) = split_text(self.0)?;
        let (value, rest) = split_text(rest)?;
        self.0 = rest;
        // Canonical bytes are UTF-8; a set that is not (a caller broke its word) reads as ended.
        Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
    }
}

/// A pair of a set as it is in the canonical bytes.
#[derive(Clone, Copy, Debug)]
pub struct RawPair<'a> {
    pub name: &'a [u8],
    /// Name and value with their lengths.
    pub bytes: &'a [u8],
}

/// The pairs of a set, by name.
#[derive(Clone)]
pub struct RawPairs<'a>(&'a [u8]);

impl<'a> Iterator for RawPairs<'a> {
    type Item = RawPair<'a>;

    fn next(&mut self) -> Option<RawPair<'a>> {
        let (name, rest) = split_text(self.0)?;
        let (_, rest) = split_text(rest)?;
        let (bytes, _) = self.0.split_at(self.0.len() - rest.len());
        self.0 = rest;
        Some(RawPair { name, bytes })
    }
}

impl<'a> LabelsRef<'a> {
    /// Takes bytes that are known to be canonical.
    #[must_use]
    pub const fn from_canonical(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Takes bytes from outside.
    ///
    /// # Errors
    /// When they are not canonical.
    pub fn checked(bytes: &'a [u8]) -> Result<Self, BadLabels> {
        let mut rest = bytes;
        let mut last: Option<&[u8]> = None;
        // Lengths are in there too, so that this is no more than a short cut.
        let is_ascii = bytes.is_ascii();
        while !rest.is_empty() {
            let (name, after) = split_text(rest).ok_or(BadLabels::Truncated)?;
            let (value, after) = split_text(after).ok_or(BadLabels::Truncated)?;
            if name.is_empty() || value.is_empty() {
                return Err(BadLabels::Empty);
            }
            if !is_ascii && (std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err()) {
                return Err(BadLabels::NotUtf8);
            }
            if last.is_some_and(|last| last >= name) {
                return Err(BadLabels::NotSorted);
            }
            last = Some(name);
            rest = after;
        }
        Ok(Self(bytes))
    }

    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn iter(self) -> Pairs<'a> {
        Pairs(self.0)
    }

    #[must_use]
    pub fn raw_pairs(self) -> RawPairs<'a> {
        RawPairs(self.0)
    }

    /// The value of a label; none where it is absent.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a str> {
        let mut bytes = self.0;
        while !bytes.is_empty() {
            let (its_name, rest) = split_text(bytes)?;
            let (value, rest) = split_text(rest)?;
            if its_name == name.as_bytes() {
                return std::str::from_utf8(value).ok();
            }
            bytes = rest;
        }
        None
    }

    /// The value of `__name__`, or the empty text.
    #[must_use]
    pub fn metric_name(self) -> &'a str {
        self.get(METRIC_NAME).unwrap_or("")
    }

    /// A hash that is the same on every node and in every release: XXH3-64 of the canonical bytes.
    #[must_use]
    pub fn stable_hash(self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0)
    }

    /// The hash that Prometheus gives the set: xxHash64 of its "stringlabels" layout, in which the length of a name or
    /// value is a byte, or 255 and three bytes from low to high. `limit_ratio` picks series by it.
    #[must_use]
    pub fn prometheus_hash(self) -> u64 {
        let mut layout = Vec::with_capacity(self.0.len() + 8);
        for text in self.iter().flat_map(|(name, value)| [name, value]) {
            match u8::try_from(text.len()) {
                Ok(short) if short < 255 => layout.push(short),
                _ => {
                    layout.push(255);
                    layout.extend_from_slice(&(text.len() as u32).to_le_bytes()[..3]);
                }
            }
            layout.extend_from_slice(text.as_bytes());
        }
        xxhash_rust::xxh64::xxh64(&layout, 0)
    }

    #[must_use]
    pub fn to_owned(self) -> Labels {
        Labels(self.0.into())
    }
}

impl PartialOrd for LabelsRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How many bytes two texts begin with in common.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const CHUNK: usize = 16;
    let chunks = a.chunks_exact(CHUNK).zip(b.chunks_exact(CHUNK));
    let equal = chunks.take_while(|(a, b)| a == b).count() * CHUNK;
    let rest = a[equal..].iter().zip(&b[equal..]);
    equal + rest.take_while(|(a, b)| a == b).count()
}

/// By pairs, name before value, a prefix before what it begins: the order in which Prometheus sorts series.
impl Ord for LabelsRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let equal = common_prefix(self.0, other.0);
        if equal == self.0.len() || equal == other.0.len() {
            return self.0.len().cmp(&other.0.len());
        }
        // Only the first pair that differs is looked at.
        let (mut left, mut right) = (self.0, other.0);
        while let Some((pair_len, rest)) = next_pair_len(left) {
            if self.0.len() - rest.len() > equal {
                break;
            }
            left = rest;
            right = &right[pair_len..];
        }
        // Texts are ordered by their bytes.
        match (split_text(left), split_text(right)) {
            (Some((a, left)), Some((b, right))) if a == b => split_text(left)
                .map(|(value, _)| value)
                .cmp(&split_text(right).map(|(value, _)| value)),
            (a, b) => a.map(|(name, _)| name).cmp(&b.map(|(name, _)| name)),
        }
    }
}

/// The length of the first pair, and what follows it.
fn next_pair_len(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (_, rest) = split_text(bytes)?;
    let (_, rest) = split_text(rest)?;
    Some((bytes.len() - rest.len(), rest))
}

impl Labels {
    #[must_use]
    pub fn empty() -> Self {
        Self(Arc::from([].as_slice()))
    }

    /// From pairs in any order; a later pair of the same name wins, empty values are left out.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    #[must_use]
    pub fn as_ref(&self) -> LabelsRef<'_> {
        LabelsRef(&self.0)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn iter(&self) -> Pairs<'_> {
        self.as_ref().iter()
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.as_ref().get(name)
    }

    #[must_use]
    pub fn metric_name(&self) -> &str {
        self.as_ref().metric_name()
    }

    #[must_use]
    pub fn stable_hash(&self) -> u64 {
        self.as_ref().stable_hash()
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl Borrow<[u8]> for Labels {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().cmp(&other.as_ref())
    }
}

fn fmt_pairs(pairs: Pairs<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("{")?;
    for (i, (name, value)) in pairs.enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        if is_legacy_label_name(name) {
            write!(f, "{name}={}", Quoted(value))?;
        } else {
            write!(f, "{}={}", Quoted(name), Quoted(value))?;
        }
    }
    f.write_str("}")
}

/// A text in double quotes with `\`, `"` and newline escaped, as in an exposition.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

impl fmt::Display for LabelsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_pairs(self.iter(), f)
    }
}
impl fmt::Debug for LabelsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_pairs(self.iter(), f)
    }
}
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_pairs(self.iter(), f)
    }
}
impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_pairs(self.iter(), f)
    }
}

/// `[a-zA-Z_][a-zA-Z0-9_]*`: a label name that needs no quotes.
#[must_use]
pub fn is_legacy_label_name(name: &str) -> bool {
    let legal = |(i, b): (usize, u8)| b.is_ascii_alphabetic() || b == b'_' || (i > 0 && b.is_ascii_digit());
    !name.is_empty() && name.bytes().enumerate().all(legal)
}

/// `[a-zA-Z_:][a-zA-Z0-9_:]*`: a metric name that needs no quotes.
#[must_use]
pub fn is_legacy_metric_name(name: &str) -> bool {
    let legal =
        |(i, b): (usize, u8)| b.is_ascii_alphabetic() || b == b'_' || b == b':' || (i > 0 && b.is_ascii_digit());
    !name.is_empty() && name.bytes().enumerate().all(legal)
}

/// Edits a label set; kept between uses so that its memory is reused.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    /// Sorted by name; values are not empty.
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    #[must_use]
    pub fn from_labels(labels: LabelsRef<'_>) -> Self {
        Self {
            pairs: labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        }
    }

    pub fn clear(&mut self) {
        self.pairs.clear();
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name))
    }

    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) {
        match (self.find(name), value.is_empty()) {
            (Ok(at), true) => drop(self.pairs.remove(at)),
            (Ok(at), false) => value.clone_into(&mut self.pairs[at].1),
            (Err(_), true) => {}
            (Err(at), false) => self.pairs.insert(at, (name.to_owned(), value.to_owned())),
        }
    }

    pub fn remove(&mut self, name: &str) {
        if let Ok(at) = self.find(name) {
            self.pairs.remove(at);
        }
    }

    /// The value of a label, or the empty text.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.find(name).map_or("", |at| self.pairs[at].1.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Keeps the labels for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        self.pairs.retain(|(n, v)| keep(n, v));
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Appends the canonical bytes to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.pairs {
            for text in [name, value] {
                put_uvarint(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    #[must_use]
    pub fn build(&self) -> Labels {
        let mut bytes = Vec::with_capacity(self.pairs.iter().map(|(n, v)| n.len() + v.len() + 2).sum());
        self.write_to(&mut bytes);
        Labels(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_have_equal_bytes_whatever_the_order() {
        let a = Labels::from_pairs([("job", "x"), (METRIC_NAME, "up"), ("gone", "")]);
        let b = Labels::from_pairs([(METRIC_NAME, "up"), ("job", "x")]);
        assert_eq!(a, b);
        assert_eq!(a.stable_hash(), b.stable_hash());
        assert_eq!(a.metric_name(), "up");
        // Computed with the reference implementation over "\x08__name__\x02up\x03job\x01x".
        assert_eq!(a.as_ref().prometheus_hash(), 9_830_462_365_500_808_578);
        assert_eq!(a.to_string(), r#"{__name__="up", job="x"}"#);
        assert_eq!(LabelsRef::checked(a.as_bytes()), Ok(a.as_ref()));
    }

    #[test]
    fn bytes_from_outside_are_checked() {
        assert_eq!(
            LabelsRef::checked(&[1, b'b', 1, b'x', 1, b'a', 1, b'x']),
            Err(BadLabels::NotSorted)
        );
        assert_eq!(LabelsRef::checked(&[1, b'a', 0]), Err(BadLabels::Empty));
        assert_eq!(LabelsRef::checked(&[1, b'a', 5, b'x']), Err(BadLabels::Truncated));
        assert_eq!(LabelsRef::checked(&[1, 0xff, 1, b'x']), Err(BadLabels::NotUtf8));
    }

    #[test]
    fn order_is_by_pairs_not_by_bytes() {
        let long = Labels::from_pairs([("a", "xxxxxxxxxx")]);
        let short = Labels::from_pairs([("a", "y")]);
        assert!(long < short);
        assert!(Labels::empty() < short);
        let sets = [
            Labels::empty(),
            Labels::from_pairs([("a", "a-value-of-some-length")]),
            Labels::from_pairs([("a", "a-value-of-some-length"), ("b", "x")]),
            Labels::from_pairs([("a", "a-value-of-some-length"), ("b", "xx")]),
            Labels::from_pairs([("a", "a-value-of-some-length"), ("b", "xx"), ("c", "x")]),
            Labels::from_pairs([("a", "a-value-of-some-length"), ("b", "y")]),
            Labels::from_pairs([("a", "a-value-of-some-length"), ("bb", "x")]),
            Labels::from_pairs([("a", "b")]),
            Labels::from_pairs([("aa", "a")]),
        ];
        for (i, a) in sets.iter().enumerate() {
            for (j, b) in sets.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a} {b}");
                assert_eq!(a.iter().cmp(b.iter()), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn uvarints_round_trip_and_refuse_overflow() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_uvarint(&mut out, value);
            assert_eq!(get_uvarint(&out), Some((value, &[][..])));
        }
        assert_eq!(get_uvarint(&[0x80]), None);
        assert_eq!(get_uvarint(&[0xff; 11]), None);
    }
}
