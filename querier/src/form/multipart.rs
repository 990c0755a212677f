//! Bodies of `multipart/form-data` (RFC 7578, RFC 2046): the fields that are no files.

/// As Go's `mime/multipart`.
const MAX_PARTS: usize = 1000;

/// The boundary that a `Content-Type` names; none where the type is another.
///
/// # Errors
/// When the type is this one and has no boundary, or none that could be one.
pub(super) fn boundary(content_type: &str) -> Result<Option<String>, String> {
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !media_type.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Ok(None);
    }
    let boundary = parameter(parameters, "boundary").filter(|text| !text.is_empty());
    let boundary = boundary.ok_or("no multipart boundary param in Content-Type")?;
    if boundary.len() > 70 {
        return Err(format!(
            "the multipart boundary has {} bytes: at most 70 are allowed",
            boundary.len()
        ));
    }
    Ok(Some(boundary))
}

/// Names and values, in the order of the body; parts without a name and files are left out.
///
/// # Errors
/// What is wrong with the body. Nothing is allocated beyond its size.
pub(super) fn fields(body: &[u8], boundary: &str) -> Result<Vec<(String, String)>, String> {
    let delimiter = format!("--{boundary}");
    // What stands before the first one is for readers that know no MIME.
    let (_, mut rest) = content(body, &delimiter).ok_or("multipart: no line is the boundary")?;
    let mut fields = Vec::new();
    for _ in 0..MAX_PARTS {
        if rest.starts_with(b"--") {
            // The last boundary: nothing else stands in its line.
            return Ok(fields);
        }
        let (_, after) = line(rest).ok_or("multipart: it ends at a boundary")?;
        let (name, after) = head(after)?;
        let (content, after) = content(after, &delimiter).ok_or("multipart: a part has no end")?;
        if let Some(name) = name {
            fields.push((name, String::from_utf8_lossy(content).into_owned()));
        }
        rest = after;
    }
    Err(format!("multipart: more than {MAX_PARTS} parts"))
}

/// The first line, without its end, and what follows.
fn line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|b| *b == b'\n')?;
    let line = &text[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &text[end + 1..]))
}

/// Reads a part's header: the name of a field, none where it is to be left out, and what follows.
fn head(mut text: &[u8]) -> Result<(Option<String>, &[u8]), String> {
    let mut name = None;
    loop {
        let (header, after) = line(text).ok_or("multipart: it ends in the header of a part")?;
        text = after;
        if header.is_empty() {
            return Ok((name, text));
        }
        let header = String::from_utf8_lossy(header);
        let (key, value) = header
            .split_once(':')
            .ok_or_else(|| format!("multipart: malformed header line {header:?}"))?;
        if key.eq_ignore_ascii_case("content-disposition") {
            let (disposition, parameters) = value.split_once(';').unwrap_or((value, ""));
            let is_field = disposition.trim().eq_ignore_ascii_case("form-data")
                && parameter(parameters, "filename").is_none_or(|file| file.is_empty());
            name = parameter(parameters, "name").filter(|name| is_field && !name.is_empty());
        } else if key.eq_ignore_ascii_case("content-transfer-encoding")
            && !["7bit", "8bit", "binary"].contains(&value.trim().to_ascii_lowercase().as_str())
        {
            return Err(format!(
                "multipart: the transfer encoding {:?} of a part: none is meant to be used",
                value.trim()
            ));
        }
    }
}

/// What stands before the first line that is the boundary, without the end of the line before it, and what behind. A
/// part may be empty, without a line of its own.
fn content<'b>(text: &'b [u8], delimiter: &str) -> Option<(&'b [u8], &'b [u8])> {
    let mut from = 0;
    loop {
        if let Some(after) = behind(&text[from..], delimiter) {
            let before = &text[..from];
            let before = before.strip_suffix(b"\n").unwrap_or(before);
            return Some((before.strip_suffix(b"\r").unwrap_or(before), after));
        }
        from += text[from..].iter().position(|b| *b == b'\n')? + 1;
    }
}

/// None where this line is none, if only one of the content that begins as a boundary does.
fn behind<'b>(line: &'b [u8], delimiter: &str) -> Option<&'b [u8]> {
    let after = line.strip_prefix(delimiter.as_bytes())?;
    let rest = after.strip_prefix(b"--").unwrap_or(after);
    let next = rest.iter().find(|b| !matches!(b, b' ' | b'\t' | b'\r'));
    next.is_none_or(|b| *b == b'\n').then_some(after)
}

/// `name` of `; name=value; name="va\"lue"`.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = after;
    }
}

/// The text up to the closing quote, and what follows that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                escaped @ ('"' | '\\') => value.push(escaped),
                // Browsers of old send paths as they are.
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(fields: &[(String, String)]) -> Vec<(&str, &str)> {
        fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
    }

    #[test]
    fn boundaries_are_found_in_content_types() {
        for (content_type, found) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            (
                "Multipart/Form-Data;charset=utf-8; Boundary=\"a b;c\\\"d\" ; x=y",
                Some("a b;c\"d"),
            ),
            ("application/x-www-form-urlencoded; boundary=a", None),
            ("", None),
        ] {
            assert_eq!(boundary(content_type), Ok(found.map(str::to_owned)), "{content_type}");
        }
        for content_type in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"abc",
        ] {
            let refusal = boundary(content_type).unwrap_err();
            assert_eq!(refusal, "no multipart boundary param in Content-Type");
        }
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        assert!(boundary(&long).unwrap_err().contains("71 bytes"));
    }

    #[test]
    fn fields_are_read_and_files_left_out() {
        let body = "before\r\n--B\r\nContent-Disposition: form-data; name=\"match[]\"\r\n\r\nup{a=\"\r\nb\"}\r\n--B \r\n\
                    content-disposition: FORM-DATA; filename=\"\"; name=q\r\nContent-Type: text/plain\r\n\r\n\r\n--B\r\n\
                    Content-Disposition: form-data; name=f; filename=\"C:\\x\"\r\n\r\n\0\u{1}\r\n--B\r\n\
                    Content-Disposition: attachment; name=other\r\n\r\nx\r\n--B\r\n\r\nnameless\r\n--B\r\n\
                    Content-Disposition: form-data; name=\"ü\\\"\"\r\n\r\n--Bx\r\n--B--x\r\n--B--\t\r\nafter";
        assert_eq!(
            pairs(&fields(body.as_bytes(), "B").unwrap()),
            [("match[]", "up{a=\"\r\nb\"}"), ("q", ""), ("ü\"", "--Bx\r\n--B--x")]
        );
        let by_line_feeds = "--B\nContent-Disposition: form-data; name=a\n\n1\n--B\n\
                             Content-Disposition: form-data; name=b\n\n--B--";
        assert_eq!(
            pairs(&fields(by_line_feeds.as_bytes(), "B").unwrap()),
            [("a", "1"), ("b", "")]
        );
        assert_eq!(fields(b"--B--", "B"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let part = "--B\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n";
        for (body, why) in [
            (String::new(), "no line is the boundary"),
            ("--C--".to_owned(), "no line is the boundary"),
            ("--B".to_owned(), "ends at a boundary"),
            ("--Bx\r\n".to_owned(), "no line is the boundary"),
            ("--B\r\nContent-Dispo".to_owned(), "ends in the header"),
            (
                "--B\r\nnonsense\r\n\r\n".to_owned(),
                "malformed header line \"nonsense\"",
            ),
            (part.to_owned(), "a part has no end"),
            (
                "--B\r\nContent-Transfer-Encoding: base64\r\n\r\n".to_owned(),
                "transfer encoding \"base64\"",
            ),
            (part.repeat(1001) + "--B--", "more than 1000 parts"),
        ] {
            let refusal = fields(body.as_bytes(), "B").unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
        assert_eq!(fields((part.repeat(999) + "--B--").as_bytes(), "B").unwrap().len(), 999);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200), cut in 0..150_usize) {
            let _ = fields(&body, "B");
            let whole = b"--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B\r\nX: y\r\n\r\n2\r\n--B--";
            let mut damaged = whole[..cut.min(whole.len())].to_vec();
            damaged.extend(&body);
            let _ = fields(&damaged, "B");
        }
    }
}
