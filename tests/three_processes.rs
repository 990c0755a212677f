//! Three ingesters (and six) as processes on loopback: what needs other builds, or real servers that write to several of them,
//! or the memory of a process.

mod harness;

#[path = "three_processes/cancel.rs"]
mod cancel;
#[path = "three_processes/commands.rs"]
mod commands;
#[path = "three_processes/configurations.rs"]
mod configurations;
#[path = "three_processes/ha_pairs.rs"]
mod ha_pairs;
#[path = "three_processes/ledger.rs"]
mod ledger;
#[path = "three_processes/local_cluster.rs"]
mod local_cluster;
#[path = "three_processes/names.rs"]
mod names;
#[path = "three_processes/scrapers.rs"]
mod scrapers;
#[path = "three_processes/senders.rs"]
mod senders;
#[path = "three_processes/slow_link.rs"]
mod slow_link;
#[path = "three_processes/trio.rs"]
mod trio;
#[path = "three_processes/upgrade.rs"]
mod upgrade;
#[path = "three_processes/zones.rs"]
mod zones;
