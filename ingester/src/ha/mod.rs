//! HA pairs: of several servers that write the same data (two Prometheus servers, say), one is taken, by sample time.
//!
//! ```text
//! series with both labels -> claim (tenant, cluster, replica) -> whose samples count from when to when
//!                                                             -> those are written without the replica's label
//! ```
//! Who has the turn is decided in the metadata group (`gnomon_cluster`'s `meta/ha.rs`), so that all ingesters agree.
//! A sample that is of nobody's turn yet is neither taken nor dropped: its sender is told to come again. What is dropped of a time
//! that whoever has the turn may not reach is held (`held.rs`), and written when the turn goes over (`fill.rs`).

mod fill;
mod held;
mod replicas;
#[cfg(test)]
mod tests;
mod tracker;
mod turns;
mod waits;

pub use fill::fill_turns;
pub(crate) use held::{Fill, Form};
pub(crate) use replicas::{Replicas, Verdicts};
pub(crate) use tracker::HaError;
pub use tracker::{HaOptions, HaTracker};
pub(crate) use turns::Turns;
