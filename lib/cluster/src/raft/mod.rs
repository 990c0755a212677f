//! Raft groups of a node.
//!
//! ```text
//! Group::propose -> openraft -> GroupLog -> NodeStore (one synced batch for all groups) -> commit
//!                            -> MachineAdapter -> StateMachine::apply -> response
//! flush (by log bytes, or when asked): StateMachine::flush -> one synced batch with the head -> purge, well behind
//! peers: RaftTransport (tonic, or in the process) <-> RaftService (the host)
//! ```
//! Invariant: what a restart finds is the last flush, at exactly one log id, and the log strictly after it.
//! Invariant: a group that fails is restarted from there; callers see `Unavailable` or `Unknown` meanwhile.

mod codec;
mod error;
mod group;
mod grpc;
mod host;
mod local;
mod log;
mod machine;
mod members;
mod metrics;
mod network;
mod pace;
mod recover;
mod service;
mod snapshot;
mod state;
mod supervisor;
#[cfg(test)]
mod tests;
mod transport;
mod types;

pub use error::{GroupError, MAX_ENTRY_BYTES, ProposeError, ReadError};
pub use group::{Group, GroupStatus, Leadership};
pub use grpc::{Addresses, GrpcTransport, raft_server};
pub use host::{FLUSH_LOG_BYTES, GroupHost, HostOptions, RaftTiming};
pub use local::{LinkFault, LocalNetwork};
pub use machine::{Applied, StateError, StateMachine, StateReader, StateWriter};
pub use members::{MemberWishes, PREFER_AFTER, Wish, keep_members};
pub use recover::{LeftGroup, left_groups, make_only_voter};
pub use transport::{AppendAnswers, RaftService, RaftTransport, RpcError};
