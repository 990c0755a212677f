//! Raft groups of a node.
//!
//! ```text
//! Group::propose(Bytes) -> Result<Bytes, ProposeError>              leader only; answers after commit and apply
//! Group::propose_many(Vec<Bytes>) -> Vec<Result<Bytes, ProposeError>>   pipelined, in order
//! Group::read_index() -> Result<u64, ReadError>                     leader only; returns once applied
//! Group::leader() is_leader() status() flush() initialize(members) add_learner(node) change_membership(voters)
//! GroupHost::open(GroupId, Arc<dyn StateMachine>) -> Group          one host per node
//! ```

mod error;
mod machine;

pub use error::{GroupError, MAX_ENTRY_BYTES, ProposeError, ReadError};
pub use machine::{Applied, StateError, StateMachine, StateReader, StateWriter};
