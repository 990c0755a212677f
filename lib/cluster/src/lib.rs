//! Raft groups on RocksDB, the metadata group, rings, leases, and service clients.
