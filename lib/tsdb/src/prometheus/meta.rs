//! `meta.json`: what a block says about itself, with the section that Thanos and Mimir add.

use super::{TsdbError, Ulid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

const FILE: &str = "meta.json";
/// Thanos lists every file in it; a larger one is none.
const MAX_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;
/// 57 years: no block lasts longer, whose times are right.
const LONGEST_MS: i64 = 250_000 * 7_200_000;

/// Fields that are not known are read over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TsdbMeta {
    pub ulid: String,
    /// Milliseconds, inclusive.
    pub min_time: i64,
    /// Milliseconds, exclusive.
    pub max_time: i64,
    #[serde(default)]
    pub stats: Stats,
    #[serde(default)]
    pub compaction: Compaction,
    pub version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thanos: Option<Thanos>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    pub num_samples: u64,
    pub num_series: u64,
    pub num_chunks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_tombstones: u64,
}

const fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compaction {
    pub level: u32,
    pub sources: Vec<String>,
    /// Blocks that this one was made of, and replaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Parent {
    pub ulid: String,
    pub min_time: i64,
    pub max_time: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thanos {
    /// Labels of all series, which are not in the block itself.
    pub labels: BTreeMap<String, String>,
    pub downsample: Downsample,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Downsample {
    /// Milliseconds between samples; 0 is all samples as they were.
    pub resolution: i64,
}

impl TsdbMeta {
    /// Of the block in `folder`.
    ///
    /// # Errors
    /// When it cannot be read, is none, is of another version than 1, or is of a downsampled block.
    pub fn read(folder: &Path) -> Result<Self, TsdbError> {
        let file = folder.join(FILE);
        let damaged = |what: String| TsdbError::Damaged {
            file: file.clone(),
            offset: 0,
            what,
        };
        let len = match std::fs::metadata(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound && folder.is_dir() => {
                return Err(damaged("it is missing, without which a block is not whole".to_owned()));
            }
            found => found.map_err(TsdbError::io(&file))?.len(),
        };
        if len > MAX_BYTES {
            return Err(damaged(format!("it has {len} bytes, {MAX_BYTES} are possible")));
        }
        let bytes = std::fs::read(&file).map_err(TsdbError::io(&file))?;
        let meta: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        meta.ulid.parse::<Ulid>().map_err(damaged)?;
        if meta.min_time > meta.max_time {
            return Err(damaged(format!(
                "minTime {} is after maxTime {}",
                meta.min_time, meta.max_time
            )));
        }
        if meta.max_time.saturating_sub(meta.min_time) > LONGEST_MS {
            return Err(damaged(format!(
                "it says that the block lasts from {} to {} ms, which none does",
                meta.min_time, meta.max_time
            )));
        }
        let unsupported = |what: String| TsdbError::Unsupported {
            file: file.clone(),
            what,
        };
        if meta.version != VERSION {
            return Err(unsupported(format!("version {} is unknown, 1 is known", meta.version)));
        }
        let resolution = meta.thanos.as_ref().map_or(0, |thanos| thanos.downsample.resolution);
        if resolution != 0 {
            return Err(unsupported(format!(
                "the block is downsampled to {resolution} ms: take the blocks with resolution 0, which have the samples"
            )));
        }
        Ok(meta)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), TsdbError> {
        let file = folder.join(FILE);
        let io = || TsdbError::io(&file);
        let json = serde_json::to_vec_pretty(self).map_err(|e| io()(e.into()))?;
        std::fs::write(&file, json).map_err(io())?;
        std::fs::File::open(&file).and_then(|f| f.sync_all()).map_err(io())
    }

    /// A description of a block of raw samples.
    pub(super) fn new(ulid: Ulid, min_time: i64, max_time: i64, stats: Stats) -> Self {
        Self {
            ulid: ulid.to_string(),
            min_time,
            max_time,
            stats,
            compaction: Compaction {
                level: 1,
                sources: vec![ulid.to_string()],
                parents: Vec::new(),
            },
            version: VERSION,
            thanos: None,
        }
    }

    /// Labels that every series is given: those of Thanos. Names that begin with `__` are Mimir's own
    /// (`__org_id__`, `__compactor_shard_id__`), which are no labels of series.
    pub fn external_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let labels = self.thanos.iter().flat_map(|thanos| &thanos.labels);
        let labels = labels.filter(|(name, value)| !name.starts_with("__") && !value.is_empty());
        labels.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
