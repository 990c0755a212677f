//! YAML documents as trees that know where every value stands, so that an error names file, line, column and field.
//!
//! Deriving deserialisers lose positions in flattened structs and cannot tell `field:` (null: the default holds, as in
//! Go's decoder) from an absent one; reading a tree by hand keeps both. The file formats of Prometheus (configuration,
//! rule files, target files; JSON too, being YAML) are read with it.

mod build;
mod read;
mod write;

pub use build::parse;
pub use read::{At, Fields};
pub use write::Out;

use std::fmt;

/// A position in a text, both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What is wrong, and where: `3:5: scrape_configs[0].scrape_interval: not a valid duration string: "5x"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    pub mark: Mark,
    /// The way to the value from the root, empty where there is none (yet): `scrape_configs[0].scrape_interval`.
    pub path: String,
    pub message: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.mark)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", Shortened(&self.path))?;
        }
        Shortened(&self.message).fmt(f)
    }
}

/// A text without its middle where it is long: names and values come from the file, and may be of any length.
struct Shortened<'a>(&'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD_BYTES: usize = 500;
        const TAIL_BYTES: usize = 200;
        let text = self.0;
        if text.len() <= HEAD_BYTES + TAIL_BYTES {
            return f.write_str(text);
        }
        let head = &text[..text.floor_char_boundary(HEAD_BYTES)];
        let tail = &text[text.ceil_char_boundary(text.len() - TAIL_BYTES)..];
        write!(f, "{head}…{tail}")
    }
}

impl std::error::Error for YamlError {}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub mark: Mark,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order of the document; names are unique.
    Map(Vec<(Scalar, Node)>),
}

/// A text as written, its escapes resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    pub mark: Mark,
    pub text: String,
    /// Tagged `!!binary`: the text is base64 of bytes that need not be text.
    pub binary: bool,
    /// Written without quotes, or tagged `!!merge`: as a name, `<<` merges a map.
    pub may_merge: bool,
}

#[cfg(test)]
mod tests;
