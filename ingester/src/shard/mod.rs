//! A shard: the log's entries, the state machine that applies them to the heads, and what its leader has to do.

mod apply;
mod batch_run;
mod count;
pub mod entry;
mod flush;
mod held;
mod keys;
mod machine;
mod records;
pub(crate) mod select;
mod state;

pub use machine::ShardMachine;
pub(crate) use state::TimeBounds;

pub(crate) fn series_count(state: &state::ShardState) -> u64 {
    state.series_count()
}

#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;
