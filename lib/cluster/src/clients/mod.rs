//! The services of `gnomon_proto::service` across connections: remote bodies (gRPC clients), the server's side of
//! them, and the directory that finds the right body for a node, a shard or the metadata group.

mod decide;
mod directory;
mod leaders;
mod meta;
mod meta_server;
mod network;
mod remote;
mod replicas;
mod resume;
mod server;
mod shard_reads;
mod silence;
#[cfg(test)]
mod tests;

pub use decide::decide;
pub use directory::{Directory, DirectoryOptions, LocalServices};
pub use meta::{MetaClient, follow_meta};
pub use meta_server::{ServedMeta, meta_server};
pub use network::PeerNetwork;
pub use remote::{
    Remote, RemoteBlockRead, RemoteMeta, RemoteNodes, RemoteResults, RemoteShardRead, RemoteShardWrite, RemoteTargets,
};
pub use server::{
    block_read_server, nodes_server, results_server, shard_read_server, shard_write_server, targets_server,
};
pub use shard_reads::ShardReads;

/// Largest message between nodes, in bytes: a page of series, the metadata state.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
