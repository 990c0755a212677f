//! The object of a delete in the bucket; drawn in `format.md`.

use super::Tombstone;
use gnomon_model::{ClusterId, MatchOp, Matcher, TenantId};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"GNMDELE1";
const FORMAT_VERSION: u32 = 1;
/// Length of an object at most.
pub const MAX_TOMBSTONE_BYTES: usize = 1 << 20;

/// An object that says nothing that can be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the object of a delete: {0}")]
pub struct BadTombstone(pub String);

/// What an object says of a delete.
#[derive(Clone, Debug, PartialEq)]
pub struct TombstoneObject {
    pub cluster: ClusterId,
    /// The catalogue's revision when the delete began: its own is greater.
    pub after_revision: u64,
    /// Its own, where it is known: an object is written before.
    pub revision: Option<u64>,
    pub tenant: TenantId,
    pub sets: Vec<Vec<Matcher>>,
    /// Inclusive, milliseconds.
    pub start_ms: i64,
    /// Inclusive, milliseconds.
    pub end_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Body {
    format_version: u32,
    cluster: ClusterId,
    after_revision: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    revision: Option<u64>,
    tenant: TenantId,
    start_ms: i64,
    end_ms: i64,
    series: Vec<Vec<BodyMatcher>>,
}

#[derive(Serialize, Deserialize)]
struct BodyMatcher {
    name: String,
    op: String,
    value: String,
}

fn op_of(text: &str) -> Option<MatchOp> {
    [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]
        .into_iter()
        .find(|op| op.to_string() == text)
}

impl TombstoneObject {
    /// The object's bytes.
    ///
    /// # Errors
    /// When there would be more than [`MAX_TOMBSTONE_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, BadTombstone> {
        let matcher = |m: &Matcher| BodyMatcher {
            name: m.name().to_owned(),
            op: m.op().to_string(),
            value: m.value().to_owned(),
        };
        let body = Body {
            format_version: FORMAT_VERSION,
            cluster: self.cluster,
            after_revision: self.after_revision,
            revision: self.revision,
            tenant: self.tenant.clone(),
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            series: self.sets.iter().map(|set| set.iter().map(matcher).collect()).collect(),
        };
        let body = serde_json::to_vec(&body).map_err(|e| BadTombstone(e.to_string()))?;
        let mut out = Vec::with_capacity(body.len() + 20);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        out.extend_from_slice(&body);
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        if out.len() > MAX_TOMBSTONE_BYTES {
            let bytes = out.len();
            return Err(BadTombstone(format!(
                "it has {bytes} bytes, {MAX_TOMBSTONE_BYTES} are possible"
            )));
        }
        Ok(out)
    }

    /// # Errors
    /// When the bytes are damaged, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadTombstone> {
        let bad = |what: &str| BadTombstone(what.to_owned());
        if bytes.len() > MAX_TOMBSTONE_BYTES {
            return Err(bad("it is too long"));
        }
        let rest = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| bad("it does not begin as one"))?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(|| bad("it is cut short"))?;
        let (body, crc) = usize::try_from(u64::from_le_bytes(*length))
            .ok()
            .and_then(|length| rest.split_at_checked(length))
            .ok_or_else(|| bad("it is cut short"))?;
        if crc != crc32c::crc32c(body).to_le_bytes() {
            return Err(bad("its checksum is wrong"));
        }
        let body: Body = serde_json::from_slice(body).map_err(|e| BadTombstone(e.to_string()))?;
        if body.format_version != FORMAT_VERSION {
            let version = body.format_version;
            return Err(BadTombstone(format!(
                "its version is {version}, {FORMAT_VERSION} is known"
            )));
        }
        let matcher = |m: BodyMatcher| {
            let op = op_of(&m.op).ok_or_else(|| BadTombstone(format!("matcher operator {:?}", m.op)))?;
            Matcher::new(m.name, op, m.value).map_err(|e| BadTombstone(e.to_string()))
        };
        let set = |set: Vec<BodyMatcher>| set.into_iter().map(matcher).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            cluster: body.cluster,
            after_revision: body.after_revision,
            revision: body.revision,
            tenant: body.tenant,
            sets: body.series.into_iter().map(set).collect::<Result<_, _>>()?,
            start_ms: body.start_ms,
            end_ms: body.end_ms,
        })
    }

    /// The delete, as of a revision.
    #[must_use]
    pub fn at_revision(&self, revision: u64) -> Tombstone {
        Tombstone {
            revision,
            tenant: self.tenant.clone(),
            sets: self.sets.clone(),
            start_ms: self.start_ms,
            end_ms: self.end_ms,
        }
    }
}
