//! Whole-system tests of one node: real processes, real peers, real disks.

mod harness;

#[path = "one_node/api.rs"]
mod api;
#[path = "one_node/azure.rs"]
mod azure;
#[path = "one_node/block.rs"]
mod block;
#[path = "one_node/bucket.rs"]
mod bucket;
#[path = "one_node/config.rs"]
mod config;
#[path = "one_node/counting.rs"]
mod counting;
#[path = "one_node/deletes.rs"]
mod deletes;
#[path = "one_node/disk.rs"]
mod disk;
#[path = "one_node/failures.rs"]
mod failures;
#[path = "one_node/four.rs"]
mod four;
#[path = "one_node/gcs.rs"]
mod gcs;
#[path = "one_node/hostile.rs"]
mod hostile;
#[path = "one_node/hostile_queries.rs"]
mod hostile_queries;
#[path = "one_node/kill.rs"]
mod kill;
#[path = "one_node/lifecycle.rs"]
mod lifecycle;
#[path = "one_node/migration.rs"]
mod migration;
#[path = "one_node/output.rs"]
mod output;
#[path = "one_node/remote_read.rs"]
mod remote_read;
#[path = "one_node/remote_write.rs"]
mod remote_write;
#[path = "one_node/replay.rs"]
mod replay;
#[path = "one_node/retention.rs"]
mod retention;
#[path = "one_node/s3.rs"]
mod s3;
#[path = "one_node/scrape.rs"]
mod scrape;
#[path = "one_node/steps.rs"]
mod steps;
#[path = "one_node/storage_kills.rs"]
mod storage_kills;
#[path = "one_node/swap.rs"]
mod swap;
#[path = "one_node/write_answers.rs"]
mod write_answers;
#[path = "one_node/writers.rs"]
mod writers;
