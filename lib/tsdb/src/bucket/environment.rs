//! The variables that stores are set up by.

/// Names and values, as they were when it was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    /// This process's; what is not Unicode is left out.
    pub(super) fn of_process() -> Self {
        let texts =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self(texts.collect())
    }

    #[cfg(test)]
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self(pairs.iter().map(owned).collect())
    }

    /// The first of these variables that is set to something.
    pub(super) fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| {
            let found = self.0.iter().find(|(n, value)| n == name && !value.is_empty());
            found.map(|(_, value)| value.as_str())
        })
    }

    /// Every variable of one store that its client knows: as the key that `K` makes of the name, and the value. Those
    /// that are set to nothing count as absent.
    pub(super) fn keys<'a, K: std::str::FromStr>(&'a self, prefix: &'a str) -> impl Iterator<Item = (K, &'a str)> {
        let ours = self
            .0
            .iter()
            .filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty());
        ours.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value.as_str())))
    }
}
