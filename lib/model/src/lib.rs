//! What everything else in gnomon is made of: labels, samples, histograms, matchers, instants and identities.
//!
//! Invariant: nothing here does I/O or knows of an async runtime.

pub mod clock;
pub mod duration;
pub mod gofloat;
pub mod histogram;
pub mod ids;
pub mod labels;
pub mod matcher;
pub mod re2;
pub mod relabel;
pub mod sample;
pub mod size;
pub mod time;
pub mod yaml;

pub use clock::{Clock, ManualClock, SystemClock};
pub use ids::{
    BlockId, ClusterId, ConfigRevision, FeatureLevel, GroupId, NodeId, PartId, PlacementEpoch, SeriesRef, ShardId,
    TargetId, TenantId,
};
pub use labels::{Labels, LabelsBuilder, LabelsRef, METRIC_NAME};
pub use matcher::{MatchOp, Matcher};
pub use sample::{NORMAL_NAN, STALE_NAN, is_stale_nan};
pub use time::{TimeRange, TimestampMs};
