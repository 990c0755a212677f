//! What the stand-in of Google Cloud Storage keeps, and what it answers to requests of the XML API
//! (<https://cloud.google.com/storage/docs/xml-api/reference-methods>).

use super::dates::{http_date, iso_date};
use std::collections::BTreeMap;
use std::ops::Range;

/// Of each part of an upload but the last.
const LEAST_PART_BYTES: usize = 5 << 20;
const MOST_PARTS: u32 = 10_000;
/// Keys of one answer to a listing: few, so that every listing has several.
const PAGE_KEYS: usize = 2;

pub(super) struct Request {
    pub(super) method: String,
    /// Below the bucket, as it is called; empty for the bucket itself.
    pub(super) key: String,
    pub(super) query: BTreeMap<String, String>,
    /// By their names in small letters.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let (headers, body) = (Vec::new(), body.into());
        Self { status, headers, body }
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let (code, message) = (escaped(code), escaped(message));
        Self::new(
            status,
            format!(
                "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            ),
        )
    }
}

#[derive(Clone)]
struct Object {
    content: Vec<u8>,
    generation: u64,
    last_modified: String,
    last_modified_iso: String,
}

impl Object {
    fn e_tag(&self) -> String {
        format!("\"{:016x}\"", self.generation)
    }
}

/// Parts by their numbers.
struct Upload {
    key: String,
    parts: BTreeMap<u32, (String, Vec<u8>)>,
}

#[derive(Default)]
pub(super) struct Objects {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// Of generations, upload ids, entity tags.
    last_number: u64,
}

impl Objects {
    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects
            .keys()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn answer(&mut self, request: Request) -> Answer {
        let names: Vec<&str> = request.query.keys().map(String::as_str).collect();
        match (request.method.as_str(), request.key.is_empty(), &names[..]) {
            ("GET", true, _) => self.list(&request),
            ("GET" | "HEAD", false, []) => self.get(&request),
            ("PUT", false, []) => self.put(request),
            ("DELETE", false, []) => match self.objects.remove(&request.key) {
                Some(_) => Answer::new(204, ""),
                None => Answer::error(404, "NoSuchKey", "The specified key does not exist."),
            },
            ("POST", false, ["uploads"]) => self.begin(request.key),
            ("PUT", false, ["partNumber", "uploadId"]) => self.part(request),
            ("POST", false, ["uploadId"]) => self.complete(&request),
            ("DELETE", false, ["uploadId"]) => match self.upload(&request) {
                Ok(id) => {
                    self.uploads.remove(&id);
                    Answer::new(204, "")
                }
                Err(answer) => answer,
            },
            (method, _, names) => Answer::error(400, "InvalidArgument", &format!("{method} with {names:?}")),
        }
    }

    fn keep(&mut self, key: String, content: Vec<u8>) -> Answer {
        let object = Object {
            content,
            generation: self.number(),
            last_modified: http_date(),
            last_modified_iso: iso_date(),
        };
        let mut answer = Answer::new(200, "");
        answer.headers.push(("ETag", object.e_tag()));
        answer
            .headers
            .push(("x-goog-generation", object.generation.to_string()));
        self.objects.insert(key, object);
        answer
    }

    fn put(&mut self, request: Request) -> Answer {
        if let Some(wanted) = request.headers.get("x-goog-if-generation-match") {
            // 0: the object must not be there.
            let found = self.objects.get(&request.key).map_or(0, |object| object.generation);
            match wanted.parse::<u64>() {
                Ok(wanted) if wanted == found => {}
                Ok(_) => return Answer::error(412, "PreconditionFailed", "another generation is there"),
                Err(_) => return Answer::error(400, "InvalidArgument", "x-goog-if-generation-match"),
            }
        }
        if request.headers.contains_key("if-none-match") {
            return Answer::error(400, "InvalidArgument", "PUT with If-None-Match");
        }
        self.keep(request.key, request.body)
    }

    fn get(&self, request: &Request) -> Answer {
        let Some(object) = self.objects.get(&request.key) else {
            return Answer::error(404, "NoSuchKey", "The specified key does not exist.");
        };
        let wanted = |name: &str| request.headers.get(name).map(|tags| tags.contains(&object.e_tag()));
        if wanted("if-match") == Some(false) {
            return Answer::error(412, "PreconditionFailed", "another entity is there");
        }
        if wanted("if-none-match") == Some(true) {
            return Answer::new(304, "");
        }
        let size = object.content.len();
        let range = match request.headers.get("range").map(|text| range(text, size)) {
            None => None,
            Some(Some(range)) => Some(range),
            Some(None) => return Answer::error(416, "InvalidRange", "The requested range cannot be satisfied."),
        };
        let mut answer = match range {
            Some(range) => {
                let mut answer = Answer::new(206, &object.content[range.clone()]);
                let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                answer.headers.push(("Content-Range", text));
                answer
            }
            None => Answer::new(200, object.content.clone()),
        };
        answer.headers.push(("ETag", object.e_tag()));
        answer.headers.push(("Last-Modified", object.last_modified.clone()));
        answer
            .headers
            .push(("x-goog-generation", object.generation.to_string()));
        answer
    }

    fn list(&self, request: &Request) -> Answer {
        let known = [
            "list-type",
            "prefix",
            "delimiter",
            "continuation-token",
            "start-after",
            "max-keys",
        ];
        if let Some(name) = request.query.keys().find(|name| !known.contains(&name.as_str())) {
            return Answer::error(400, "InvalidArgument", name);
        }
        let text = |name: &str| request.query.get(name).map_or("", String::as_str);
        if text("list-type") != "2" {
            return Answer::error(400, "InvalidArgument", "list-type");
        }
        let (prefix, delimiter) = (text("prefix"), text("delimiter"));
        let after = match text("continuation-token") {
            "" => text("start-after"),
            token => match token.strip_prefix("after:") {
                Some(key) => key,
                None => return Answer::error(400, "InvalidArgument", "continuation-token"),
            },
        };
        let most = text("max-keys").parse().unwrap_or(PAGE_KEYS).min(PAGE_KEYS);
        let (mut found, mut last, mut is_cut) = (Vec::new(), "", false);
        for (key, object) in &self.objects {
            let Some(rest) = key.strip_prefix(prefix).filter(|_| key.as_str() > after) else {
                continue;
            };
            let common = (!delimiter.is_empty()).then(|| rest.split_once(delimiter)).flatten();
            let entry = match common {
                Some((name, _)) => {
                    let name = escaped(&format!("{prefix}{name}{delimiter}"));
                    format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
                }
                None => format!(
                    "<Contents><Key>{}</Key><Generation>{}</Generation><LastModified>{}</LastModified><ETag>{}</ETag>\
                     <Size>{}</Size></Contents>",
                    escaped(key),
                    object.generation,
                    object.last_modified_iso,
                    escaped(&object.e_tag()),
                    object.content.len()
                ),
            };
            if found.last() != Some(&entry) {
                if found.len() == most {
                    is_cut = true;
                    break;
                }
                found.push(entry);
            }
            last = key;
        }
        let next = match is_cut {
            true => format!("<NextContinuationToken>after:{}</NextContinuationToken>", escaped(last)),
            false => String::new(),
        };
        Answer::new(
            200,
            format!(
                "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><IsTruncated>{is_cut}</IsTruncated>{next}{}\
                 </ListBucketResult>",
                found.concat()
            ),
        )
    }

    fn begin(&mut self, key: String) -> Answer {
        let id = format!("upload-{}", self.number());
        let text = format!(
            "<InitiateMultipartUploadResult><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
            escaped(&key)
        );
        let parts = BTreeMap::new();
        self.uploads.insert(id, Upload { key, parts });
        Answer::new(200, text)
    }

    /// The id of the upload that a request names.
    fn upload(&self, request: &Request) -> Result<String, Answer> {
        let id = &request.query["uploadId"];
        match self.uploads.get(id) {
            Some(upload) if upload.key == request.key => Ok(id.clone()),
            _ => Err(Answer::error(
                404,
                "NoSuchUpload",
                "The requested upload was not found.",
            )),
        }
    }

    fn part(&mut self, request: Request) -> Answer {
        let id = match self.upload(&request) {
            Ok(id) => id,
            Err(answer) => return answer,
        };
        let number = request.query["partNumber"].parse().unwrap_or(0);
        if !(1..=MOST_PARTS).contains(&number) {
            return Answer::error(400, "InvalidArgument", "partNumber");
        }
        let tag = format!("\"part-{}\"", self.number());
        let mut answer = Answer::new(200, "");
        answer.headers.push(("ETag", tag.clone()));
        let upload = self.uploads.get_mut(&id).unwrap();
        upload.parts.insert(number, (tag, request.body));
        answer
    }

    fn complete(&mut self, request: &Request) -> Answer {
        let id = match self.upload(request) {
            Ok(id) => id,
            Err(answer) => return answer,
        };
        let text = String::from_utf8_lossy(&request.body);
        let named: Vec<(u32, String)> = text.split("<Part>").skip(1).map(named_part).collect();
        if named.is_empty() || !text.starts_with("<CompleteMultipartUpload>") {
            return Answer::error(400, "MalformedXML", &text);
        }
        if !named.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Answer::error(400, "InvalidPartOrder", &text);
        }
        let parts = &self.uploads[&id].parts;
        let mut content = Vec::new();
        for (at, (number, tag)) in named.iter().enumerate() {
            let Some((_, bytes)) = parts.get(number).filter(|(kept, _)| kept == tag) else {
                return Answer::error(400, "InvalidPart", &format!("part {number}, {tag}"));
            };
            if at + 1 < named.len() && bytes.len() < LEAST_PART_BYTES {
                return Answer::error(400, "EntityTooSmall", &format!("part {number}: {} bytes", bytes.len()));
            }
            content.extend_from_slice(bytes);
        }
        self.uploads.remove(&id);
        let mut answer = self.keep(request.key.clone(), content);
        let tag = answer.headers.iter().find(|(name, _)| *name == "ETag");
        let tag = tag.map_or_else(String::new, |(_, tag)| escaped(tag));
        answer.body = format!(
            "<CompleteMultipartUploadResult><Key>{}</Key><ETag>{tag}</ETag></CompleteMultipartUploadResult>",
            escaped(&request.key)
        )
        .into_bytes();
        answer
    }
}

fn named_part(text: &str) -> (u32, String) {
    let between = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    };
    let number = between("PartNumber").and_then(|text| text.parse().ok());
    let tag = between("ETag").unwrap_or_default().replace("&quot;", "\"");
    (number.unwrap_or(0), tag)
}

/// Of `bytes=2-5`, `bytes=2-` and `bytes=-4`; none where no byte is in it, or the text is none of these.
fn range(text: &str, size: usize) -> Option<Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", last) => size.saturating_sub(last.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..size.min(last.parse::<usize>().ok()?.checked_add(1)?),
    };
    (range.start < range.end).then_some(range)
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}
