//! The ingester role: routing, shard groups, the head, sealing and upload.
