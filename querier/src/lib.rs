//! The querier role: the HTTP API, query planning over shards and blocks, merging.
