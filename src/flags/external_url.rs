//! `--web.external-url`: where users reach this node, or only the path below which they do.

/// The text without its query and fragment, which belong to no link; a path alone begins with a slash. Empty is unset.
///
/// # Errors
/// What is wrong with it, and what is taken.
pub(super) fn external_url(text: &str) -> Result<String, String> {
    let refuse = |why: &str| Err(format!("--web.external-url: {text:?} {why}"));
    if text.starts_with(['"', '\'']) || text.ends_with(['"', '\'']) {
        return refuse("must not begin or end with quotes");
    }
    if text.contains(char::is_whitespace) {
        return refuse("holds a blank");
    }
    let url = text.split(['?', '#']).next().unwrap_or_default();
    // As Go reads it, a host may stand without a scheme.
    let url = url
        .strip_prefix("//")
        .map_or_else(|| url.to_owned(), |rest| format!("http://{rest}"));
    match url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) {
        Some(host) if host.is_empty() || host.starts_with('/') => return refuse("names no host"),
        Some(_) => return Ok(url),
        None => {}
    }
    if url.split('/').next().is_some_and(|first| first.contains(':')) {
        return refuse("must begin with http:// or https://, or be a path alone, as /prometheus");
    }
    match url.trim_matches('/') {
        "" => Ok(String::new()),
        path => Ok(format!("/{path}")),
    }
}

/// `/prom` of `https://host/prom/` and of `/prom`.
pub(super) fn path_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    format!("/{}", path.trim_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_alone_is_taken_and_queries_are_not_part_of_it() {
        for (text, url, path) in [
            ("", "", "/"),
            ("/", "", "/"),
            ("http://h", "http://h", "/"),
            ("https://h/prom/", "https://h/prom/", "/prom"),
            ("https://h/a/b?x=/c#d", "https://h/a/b", "/a/b"),
            ("https://h?x=/c", "https://h", "/"),
            ("http://h#/c", "http://h", "/"),
            ("//h/prom", "http://h/prom", "/prom"),
            ("/foo", "/foo", "/foo"),
            ("foo", "/foo", "/foo"),
            ("foo/bar/?q", "/foo/bar", "/foo/bar"),
            ("example.com", "/example.com", "/example.com"),
            ("/a:b", "/a:b", "/a:b"),
        ] {
            assert_eq!(external_url(text).as_deref(), Ok(url), "{text}");
            assert_eq!(path_of(url), path, "{text}");
        }
        for text in ["example.com:9090", "ftp://h/x", "http://", "https:///x", "/a b", "'/a'"] {
            let refusal = external_url(text).unwrap_err();
            assert!(refusal.starts_with("--web.external-url: "), "{refusal}");
        }
    }
}
