//! The groups of a match, and templates filled from them as Go's `Regexp.Expand` fills them.

/// A match of a whole text.
#[derive(Clone, Debug)]
pub struct Captures<'r, 't> {
    text: &'t str,
    names: &'r [Option<String>],
    /// By group number; group 0 is the whole text.
    spans: Vec<Option<(usize, usize)>>,
}

impl<'r, 't> Captures<'r, 't> {
    pub(super) fn new(text: &'t str, names: &'r [Option<String>], spans: Vec<Option<(usize, usize)>>) -> Self {
        Self { text, names, spans }
    }

    /// What a group matched; none where it took no part in the match or does not exist.
    #[must_use]
    pub fn get(&self, group: usize) -> Option<&'t str> {
        let (start, end) = (*self.spans.get(group)?)?;
        self.text.get(start..end)
    }

    /// The same by name; of several groups with one name, the first that took part.
    #[must_use]
    pub fn name(&self, name: &str) -> Option<&'t str> {
        let named = |(group, given): (usize, &Option<String>)| (given.as_deref() == Some(name)).then_some(group);
        self.names
            .iter()
            .enumerate()
            .filter_map(named)
            .find_map(|group| self.get(group))
    }

    /// Replaces `$1`, `$name`, `${1}`, `${name}` by what the groups matched and `$$` by `$`. A name is the longest run
    /// of letters, digits and underscores, so that `$1x` is `${1x}`; an unknown or unmatched group gives nothing; a
    /// `$` that begins no reference stays.
    #[must_use]
    pub fn expand(&self, template: &str) -> String {
        let mut out = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) = reference(after) {
                out.push_str(self.resolve(name).unwrap_or(""));
                rest = after;
            } else {
                out.push('$');
                rest = after;
            }
        }
        out.push_str(rest);
        out
    }

    fn resolve(&self, name: &str) -> Option<&'t str> {
        let leading_zero = name.len() > 1 && name.starts_with('0');
        if name.bytes().all(|b| b.is_ascii_digit()) && !leading_zero {
            return self.get(name.parse().ok()?);
        }
        self.name(name)
    }
}

/// Splits `name rest` or `{name}rest`.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (braced, text) = match text.strip_prefix('{') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    Some((name, if braced { rest.strip_prefix('}')? } else { rest }))
}
