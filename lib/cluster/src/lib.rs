//! Raft groups on RocksDB, the metadata group, rings, leases, and service clients.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod assign;
pub mod blocking;
pub mod bounds;
pub mod clients;
pub mod deletes;
pub mod fragments;
pub mod layers;
pub mod meta;
pub mod node;
pub mod others;
pub mod owners;
pub mod placement;
pub mod raft;
pub mod retention;
pub mod router;
pub mod store;
pub mod tls;
