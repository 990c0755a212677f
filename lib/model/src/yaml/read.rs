//! Typed values out of a tree. Every error says where.

use super::{Mark, Node, Scalar, Value, YamlError};
use crate::duration::parse_duration_ms;
use crate::size::parse_size_bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// A value in a tree and the way to it.
#[derive(Clone, Debug)]
pub struct At<'n> {
    node: &'n Node,
    path: String,
}

impl<'n> At<'n> {
    /// The root of a document.
    #[must_use]
    pub fn root(node: &'n Node) -> Self {
        Self {
            node,
            path: String::new(),
        }
    }

    #[must_use]
    pub fn node(&self) -> &'n Node {
        self.node
    }

    #[must_use]
    pub fn mark(&self) -> Mark {
        self.node.mark
    }

    /// `scrape_configs[0].scrape_interval`
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    #[must_use]
    pub fn is_null(&self) -> bool {
        self.node.value == Value::Null
    }

    /// An error at this value.
    pub fn error(&self, message: impl ToString) -> YamlError {
        YamlError {
            mark: self.node.mark,
            path: self.path.clone(),
            message: message.to_string(),
        }
    }

    fn child(&self, node: &'n Node, step: &str) -> Self {
        let dot = if self.path.is_empty() || step.starts_with('[') {
            ""
        } else {
            "."
        };
        Self {
            node,
            path: format!("{}{dot}{step}", self.path),
        }
    }

    fn scalar(&self, wanted: &str) -> Result<&'n str, YamlError> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.binary => Ok(&scalar.text),
            Value::Scalar(_) => Err(self.error("a !!binary value, which is not text")),
            Value::Null => Err(self.error(format!("{wanted} is missing"))),
            Value::List(_) => Err(self.error(format!("a list, where {wanted} belongs"))),
            Value::Map(_) => Err(self.error(format!("a map, where {wanted} belongs"))),
        }
    }

    /// A text; a number or a boolean is taken as it is written.
    ///
    /// # Errors
    /// When it is null, a list, a map or `!!binary`.
    pub fn text(&self) -> Result<&'n str, YamlError> {
        self.scalar("a text")
    }

    /// # Errors
    /// When it is not one of the words that YAML 1.1 has for true and false.
    pub fn flag(&self) -> Result<bool, YamlError> {
        let text = self.scalar("true or false")?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(true),
            "false" | "no" | "off" | "n" => Ok(false),
            _ => Err(self.error(format!("{text:?} is neither true nor false"))),
        }
    }

    /// A whole number in decimal, hexadecimal (`0x`), octal (`0o`, `0`) or with an exponent; underscores are skipped.
    ///
    /// # Errors
    /// When it is not a whole number or does not fit.
    pub fn integer(&self) -> Result<i64, YamlError> {
        let text = self.scalar("a number")?;
        whole_number(text).ok_or_else(|| self.error(format!("{text:?} is not a whole number that fits")))
    }

    /// A whole number of zero or more.
    ///
    /// # Errors
    /// When it is not a whole number, negative or does not fit.
    pub fn count(&self) -> Result<u64, YamlError> {
        u64::try_from(self.integer()?).map_err(|_| self.error("must not be negative"))
    }

    /// # Errors
    /// When it is not a number.
    pub fn float(&self) -> Result<f64, YamlError> {
        let text = self.scalar("a number")?;
        let bare = text.replace('_', "").to_ascii_lowercase();
        let number = match bare.as_str() {
            ".inf" | "+.inf" => Ok(f64::INFINITY),
            "-.inf" => Ok(f64::NEG_INFINITY),
            ".nan" => Ok(f64::NAN),
            bare => bare.parse(),
        };
        number.map_err(|_| self.error(format!("{text:?} is not a number")))
    }

    /// # Errors
    /// When it is not a duration as Prometheus writes them.
    pub fn duration(&self) -> Result<Duration, YamlError> {
        let ms = parse_duration_ms(self.scalar("a duration")?).map_err(|e| self.error(e))?;
        Ok(Duration::from_millis(ms.unsigned_abs()))
    }

    /// # Errors
    /// When it is not a size as Prometheus writes them.
    pub fn size_bytes(&self) -> Result<u64, YamlError> {
        parse_size_bytes(self.scalar("a size")?).map_err(|e| self.error(e))
    }

    /// The items of a list; null is an empty one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn items(&self) -> Result<Vec<Self>, YamlError> {
        match &self.node.value {
            Value::Null => Ok(Vec::new()),
            Value::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, item)| self.child(item, &format!("[{i}]")))
                .collect()),
            Value::Scalar(_) | Value::Map(_) => Err(self.error("a list belongs here")),
        }
    }

    /// A list of texts; null is an empty one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn texts(&self) -> Result<Vec<String>, YamlError> {
        self.items()?
            .iter()
            .map(|item| item.text().map(str::to_owned))
            .collect()
    }

    /// The entries of a map with names of the writer's choice; null is an empty one.
    ///
    /// # Errors
    /// When it is something else, or a name is `!!binary`.
    pub fn entries(&self) -> Result<Vec<(&'n str, Self)>, YamlError> {
        let named = |(name, node): &'n (Scalar, Node)| {
            let at = self.child(node, &name.text);
            if name.binary {
                return Err(YamlError {
                    mark: name.mark,
                    ..at.error("a !!binary name, which is not text")
                });
            }
            Ok((name.text.as_str(), at))
        };
        self.map()?.iter().map(named).collect()
    }

    /// A map of texts; null is an empty one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text_map(&self) -> Result<BTreeMap<String, String>, YamlError> {
        // Null is the empty text here: Go's decoder makes it so in a map.
        let value = |at: &Self| {
            if at.is_null() {
                Ok(String::new())
            } else {
                at.text().map(str::to_owned)
            }
        };
        self.entries()?
            .iter()
            .map(|(name, at)| Ok(((*name).to_owned(), value(at)?)))
            .collect()
    }

    /// The fields of a map whose names are known; null has none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn fields(&self) -> Result<Fields<'n>, YamlError> {
        let entries = self.map()?;
        Ok(Fields {
            at: self.clone(),
            entries,
            taken: vec![false; entries.len()],
            asked: Vec::new(),
        })
    }

    fn map(&self) -> Result<&'n [(Scalar, Node)], YamlError> {
        match &self.node.value {
            Value::Null => Ok(&[]),
            Value::Map(entries) => Ok(entries),
            Value::Scalar(_) | Value::List(_) => Err(self.error("a map belongs here")),
        }
    }
}

fn whole_number(text: &str) -> Option<i64> {
    let bare = text.replace('_', "");
    let (negative, digits) = match bare.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, bare.strip_prefix('+').unwrap_or(&bare)),
    };
    let in_base = |prefix: &str, base| digits.strip_prefix(prefix).map(|rest| u64::from_str_radix(rest, base));
    let magnitude = in_base("0x", 16)
        .or_else(|| in_base("0o", 8))
        .or_else(|| in_base("0b", 2))
        .or_else(|| in_base("0", 8).filter(|_| digits.len() > 1))
        .unwrap_or_else(|| digits.parse());
    if let Ok(magnitude) = magnitude {
        let signed = i64::try_from(magnitude).ok()?;
        return Some(if negative { -signed } else { signed });
    }
    let float: f64 = bare.parse().ok()?;
    // Beyond 2^53 a float no longer says which whole number was meant.
    (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
}

/// The fields of one map. Each is asked for by name; what nobody asked for is an unknown field.
///
/// A field that is null counts as absent, as in Go's decoder: the default holds.
#[derive(Debug)]
pub struct Fields<'n> {
    at: At<'n>,
    entries: &'n [(Scalar, Node)],
    taken: Vec<bool>,
    asked: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Where the map stands.
    #[must_use]
    pub fn at(&self) -> &At<'n> {
        &self.at
    }

    /// An error at the map.
    pub fn error(&self, message: impl ToString) -> YamlError {
        self.at.error(message)
    }

    /// An error at a field, or at the map where the field is absent.
    pub fn error_at(&self, name: &str, message: impl ToString) -> YamlError {
        match self.entries.iter().find(|(key, _)| key.text == name) {
            Some((key, node)) => YamlError {
                mark: key.mark,
                ..self.at.child(node, name).error(message)
            },
            None => self.error(message),
        }
    }

    /// A field that is present, be it null.
    pub fn present(&mut self, name: &'static str) -> Option<At<'n>> {
        self.asked.push(name);
        let index = self
            .entries
            .iter()
            .position(|(key, _)| key.text == name && !key.binary)?;
        self.taken[index] = true;
        Some(self.at.child(&self.entries[index].1, name))
    }

    /// A field that has a value.
    pub fn get(&mut self, name: &'static str) -> Option<At<'n>> {
        self.present(name).filter(|at| !at.is_null())
    }

    /// A field read by a method of [`At`]: `fields.read("scrape_interval", At::duration)?`.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&At<'n>) -> Result<T, YamlError>,
    ) -> Result<Option<T>, YamlError> {
        self.get(name).map(|at| read(&at)).transpose()
    }

    /// The items of a list; none where the field is absent.
    ///
    /// # Errors
    /// When the field is not a list.
    pub fn items(&mut self, name: &'static str) -> Result<Vec<At<'n>>, YamlError> {
        Ok(self.read(name, At::items)?.unwrap_or_default())
    }

    /// A text; absent is empty, as in Go.
    ///
    /// # Errors
    /// When the field is not a text.
    pub fn text(&mut self, name: &'static str) -> Result<String, YamlError> {
        Ok(self.read(name, At::text)?.unwrap_or_default().to_owned())
    }

    /// A list of texts; absent is empty.
    ///
    /// # Errors
    /// When the field is not a list of texts.
    pub fn texts(&mut self, name: &'static str) -> Result<Vec<String>, YamlError> {
        Ok(self.read(name, At::texts)?.unwrap_or_default())
    }

    /// A flag; absent is `default`.
    ///
    /// # Errors
    /// When the field is neither true nor false.
    pub fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, YamlError> {
        Ok(self.read(name, At::flag)?.unwrap_or(default))
    }

    /// To be called when all known fields have been asked for.
    ///
    /// # Errors
    /// When there is another one.
    pub fn finish(self) -> Result<(), YamlError> {
        let Some(index) = self.taken.iter().position(|taken| !taken) else {
            return Ok(());
        };
        let (key, node) = &self.entries[index];
        let mut message = format!("unknown field {:?}", key.text);
        let near = self.asked.iter().map(|name| (edits(name, &key.text), name)).min();
        if let Some((_, name)) = near.filter(|(edits, name)| *edits <= 1 + name.len() / 6) {
            message = format!("{message}; is {name:?} meant?");
        }
        Err(YamlError {
            mark: key.mark,
            ..self.at.child(node, &key.text).error(message)
        })
    }
}

/// How many letters must be changed, added or taken away to make one name of the other (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 8 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
