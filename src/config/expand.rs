//! `$NAME` and `${NAME}` in external labels, replaced from the environment as Prometheus does (Go's `os.Expand`).

/// Replaces every reference by what `lookup` gives for its name. `$$` gives `$`; a malformed reference (`${}`, `${x`)
/// loses its dollar and braces; a dollar that no name follows stays.
pub(super) fn expand(text: &str, mut lookup: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, len) = name(after);
        match (name, len) {
            ("", 0) => out.push('$'),
            ("", _) => {}
            ("$", _) => out.push('$'),
            (name, _) => out.push_str(&lookup(name)),
        }
        rest = &after[len..];
    }
    out.push_str(rest);
    out
}

/// Shell's own one-letter names, which stand alone: `$1x` is `${1}x`.
fn is_special(byte: u8) -> bool {
    matches!(byte, b'*' | b'#' | b'$' | b'@' | b'!' | b'?' | b'-' | b'0'..=b'9')
}

/// The name at the front of `text`, which follows a dollar, and how many bytes it takes with its braces.
fn name(text: &str) -> (&str, usize) {
    let bytes = text.as_bytes();
    match bytes {
        [] => ("", 0),
        [b'{', special, b'}', ..] if is_special(*special) => (&text[1..2], 3),
        [b'{', ..] => match text.find('}') {
            // An empty name or one without an end: the braces are eaten.
            Some(1) => ("", 2),
            Some(end) => (&text[1..end], end + 1),
            None => ("", 1),
        },
        [special, ..] if is_special(*special) => (&text[..1], 1),
        _ => {
            let end = bytes
                .iter()
                .position(|b| !b.is_ascii_alphanumeric() && *b != b'_')
                .unwrap_or(bytes.len());
            (&text[..end], end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_as_go_does() {
        let lookup = |name: &str| match name {
            "TEST" => "TestValue".to_owned(),
            "1" => "one".to_owned(),
            "with space" => "odd".to_owned(),
            _ => String::new(),
        };
        for (text, expanded) in [
            ("bar", "bar"),
            ("${TEST}", "TestValue"),
            ("$TEST", "TestValue"),
            ("$$TEST", "$TEST"),
            ("$${TEST}", "${TEST}"),
            ("${$}TEST", "$TEST"),
            ("foo${TEST}bar", "fooTestValuebar"),
            ("$TESTx", ""),
            ("$TEST.x", "TestValue.x"),
            ("$1x", "onex"),
            ("${with space}", "odd"),
            ("${}x", "x"),
            ("${TEST", "TEST"),
            ("100$", "100$"),
            ("$ x", "$ x"),
            ("$é", "$é"),
            ("${é}", ""),
        ] {
            assert_eq!(expand(text, lookup), expanded, "{text}");
        }
    }
}
