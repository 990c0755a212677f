//! Parser events to a tree, with aliases and merge keys resolved and what they may cost bounded.

use super::{Mark, Node, Scalar, Value, YamlError};
use granit_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Levels of nesting, those that come in by aliases included.
const MAX_HEIGHT: u16 = 256;
/// Bytes that copies for anchors and aliases may take: aliases of aliases could otherwise fill the memory.
const MAX_EXTRA_WEIGHT: usize = 64 << 20;

/// A tree with what the limits need to know of it.
#[derive(Clone)]
struct Built {
    node: Node,
    height: u16,
    weight: usize,
}

impl Built {
    fn leaf(mark: Mark, value: Value) -> Self {
        let text_len = if let Value::Scalar(scalar) = &value {
            scalar.text.len()
        } else {
            0
        };
        Self {
            node: Node { mark, value },
            height: 1,
            weight: size_of::<Node>() + text_len,
        }
    }
}

/// A list or map that has begun.
struct Open {
    mark: Mark,
    anchor: usize,
    height: u16,
    weight: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<(Scalar, Node)>,
        names: HashSet<String>,
        key: Option<Scalar>,
        merged: Vec<Node>,
    },
}

struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Built>,
    root: Option<Node>,
    weight_left: usize,
}

/// Reads the first document of a text; an empty text is null.
///
/// # Errors
/// When the text is not YAML, a name occurs twice in a map, a name is not a plain text, or nesting or aliases exceed
/// their limits (256 levels; 64 MiB of copies).
pub fn parse(text: &str) -> Result<Node, YamlError> {
    let weight_left = text
        .len()
        .saturating_mul(size_of::<Node>())
        .saturating_add(MAX_EXTRA_WEIGHT);
    let mut builder = Builder {
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        weight_left,
    };
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|e| match e.info().as_str() {
            "recursion limit exceeded" => error(mark(*e.marker()), too_deep()),
            other => error(mark(*e.marker()), other),
        })?;
        if matches!(event, Event::DocumentEnd) {
            break;
        }
        builder.event(event, mark(span.start))?;
    }
    Ok(builder.root.unwrap_or(Node {
        mark: Mark { line: 1, column: 1 },
        value: Value::Null,
    }))
}

fn too_deep() -> String {
    format!("nested more than {MAX_HEIGHT} levels deep")
}

fn mark(marker: Marker) -> Mark {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Mark {
        line: number(marker.line()),
        column: number(marker.col()).saturating_add(1),
    }
}

fn error(mark: Mark, message: impl Into<String>) -> YamlError {
    YamlError {
        mark,
        path: String::new(),
        message: message.into(),
    }
}

impl Builder {
    fn event(&mut self, event: Event<'_>, mark: Mark) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(text, style, tag.as_deref(), mark);
                self.finish(Built::leaf(mark, value), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(mark, anchor, Content::List(Vec::new()));
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                let (entries, names, key, merged) = Default::default();
                self.begin(
                    mark,
                    anchor,
                    Content::Map {
                        entries,
                        names,
                        key,
                        merged,
                    },
                );
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.remove(&anchor) else {
                    return Err(error(mark, "an alias stands within what it names"));
                };
                let copy = self.copy(&target)?;
                self.anchors.insert(anchor, target);
                self.finish(copy, 0)
            }
            _ => Ok(()),
        }
    }

    fn copy(&mut self, built: &Built) -> Result<Built, YamlError> {
        let left = self.weight_left.checked_sub(built.weight);
        self.weight_left = left.ok_or_else(|| error(built.node.mark, "the document grows too large by its aliases"))?;
        Ok(built.clone())
    }

    fn begin(&mut self, mark: Mark, anchor: usize, content: Content) {
        self.open.push(Open {
            mark,
            anchor,
            height: 0,
            weight: size_of::<Node>(),
            content,
        });
    }

    fn end(&mut self) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map {
                mut entries,
                mut names,
                merged,
                ..
            } => {
                // What the map says itself goes before what is merged into it, and that in its order.
                for source in merged {
                    merge(source, &mut entries, &mut names)?;
                }
                Value::Map(entries)
            }
        };
        let built = Built {
            node: Node { mark: open.mark, value },
            height: open.height + 1,
            weight: open.weight,
        };
        self.finish(built, open.anchor)
    }

    /// Hands a complete value to what it stands in.
    fn finish(&mut self, built: Built, anchor: usize) -> Result<(), YamlError> {
        let mark = built.node.mark;
        if self.open.len() + usize::from(built.height) > usize::from(MAX_HEIGHT) {
            return Err(error(mark, too_deep()));
        }
        if anchor != 0 {
            let copy = self.copy(&built)?;
            self.anchors.insert(anchor, copy);
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(built.node);
            return Ok(());
        };
        open.height = open.height.max(built.height);
        open.weight = open.weight.saturating_add(built.weight);
        open.content.push(built.node)
    }
}

impl Content {
    fn push(&mut self, node: Node) -> Result<(), YamlError> {
        match self {
            Self::List(items) => items.push(node),
            Self::Map {
                entries,
                names,
                key,
                merged,
            } => match key.take() {
                None => *key = Some(name(node)?),
                Some(name) if name.text == "<<" && name.may_merge => merged.push(node),
                Some(name) => {
                    if !names.insert(name.text.clone()) {
                        return Err(error(name.mark, format!("key {:?} already set in map", name.text)));
                    }
                    entries.push((name, node));
                }
            },
        }
        Ok(())
    }
}

fn name(node: Node) -> Result<Scalar, YamlError> {
    match node.value {
        Value::Scalar(scalar) => Ok(scalar),
        Value::Null => Ok(Scalar {
            mark: node.mark,
            text: String::new(),
            binary: false,
            may_merge: false,
        }),
        Value::List(_) | Value::Map(_) => Err(error(node.mark, "the name of a field is not a text")),
    }
}

fn merge(source: Node, entries: &mut Vec<(Scalar, Node)>, names: &mut HashSet<String>) -> Result<(), YamlError> {
    match source.value {
        Value::Map(merged) => {
            for (name, node) in merged {
                if names.insert(name.text.clone()) {
                    entries.push((name, node));
                }
            }
            Ok(())
        }
        Value::List(sources) if sources.iter().all(|source| matches!(source.value, Value::Map(_))) => {
            sources.into_iter().try_for_each(|source| merge(source, entries, names))
        }
        _ => Err(error(
            source.mark,
            "map merge (<<) requires a map or a list of maps as the value",
        )),
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, mark: Mark) -> Value {
    let kind = tag.and_then(|tag| tag.suffix_in_namespace("tag:yaml.org,2002:"));
    let null_text = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
    let plain = style == ScalarStyle::Plain && tag.is_none();
    if (plain && null_text) || kind.as_deref() == Some("null") {
        return Value::Null;
    }
    Value::Scalar(Scalar {
        mark,
        text: text.into_owned(),
        binary: kind.as_deref() == Some("binary"),
        may_merge: plain || kind.as_deref() == Some("merge"),
    })
}
