//! `gnomon cluster`: what its tasks take.

use super::bucket::is_named;
use super::{BucketCheck, Command};
use clap::{Arg, ArgAction, ArgMatches, value_parser};

/// `gnomon cluster TASK`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Any node of the cluster, http://host:port.
    pub server: String,
    /// One JSON document in place of tables and sentences.
    pub json: bool,
    pub task: ClusterTask,
}

/// `gnomon cluster recover`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recover {
    /// What is left: the bucket, or a node's data folder (`from_minority`).
    pub bucket: BucketCheck,
    pub from_minority: bool,
    /// Without it nothing is changed.
    pub confirm: bool,
    /// The cluster that it was confirmed for, as it was written.
    pub cluster_id: Option<String>,
    /// Nodes that must not answer.
    pub peers: Vec<String>,
    /// Those of them whose names may be unknown by now.
    pub gone: Vec<String>,
}

/// What is to be shown or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterTask {
    Status,
    Drain { node: u64, undo: bool, wait: bool },
    Move { shard: u32, from: u64, to: u64, wait: bool },
    Rebalance,
    Replicas { replicas: u32 },
    Reshard { shards: u32 },
    CancelReshard,
    Forget { node: u64 },
}

/// `gnomon cluster`, as clap knows it.
pub(super) fn cluster() -> clap::Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let number = |name: &'static str, help: &'static str| {
        let id = Arg::new(name).value_name(name.to_uppercase()).help(help).required(true);
        id.value_parser(value_parser!(u64))
    };
    let wait = || flag("wait", "Return when it is done.");
    let json = || flag("json", "Print a JSON document.");
    let server = Arg::new("server")
        .long("server")
        .value_name("URL")
        .default_value("http://127.0.0.1:9090")
        .global(true)
        .help("Any node of the cluster.");
    clap::Command::new("cluster")
        .about("Look at the cluster's nodes and shards, and move them.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(server)
        .subcommand(
            clap::Command::new("status")
                .about("Nodes, shards, who leads, who is behind.")
                .arg(json()),
        )
        .subcommand(
            clap::Command::new("drain")
                .about("Move all replicas away from a node, before it is taken away.")
                .arg(number("node", "Its id, as `status` shows it."))
                .arg(flag("undo", "Let it take replicas again.").conflicts_with("wait"))
                .arg(wait())
                .arg(json()),
        )
        .subcommand(
            clap::Command::new("move")
                .about("Move a replica of a shard from one node to another.")
                .arg(number("shard", "Its number.").value_parser(value_parser!(u32)))
                .arg(number("from", "The node that has it.").long("from"))
                .arg(number("to", "The node that is to have it.").long("to"))
                .arg(wait())
                .arg(json()),
        )
        .subcommand(
            clap::Command::new("rebalance")
                .about("Wait until all replicas are where they are to be.")
                .arg(json()),
        )
        .subcommand(
            clap::Command::new("replicas")
                .about("Change how many replicas each shard is to have.")
                .arg(number("replicas", "1, 3 or 5.").value_parser(value_parser!(u32)))
                .arg(json()),
        )
        .subcommand(
            clap::Command::new("reshard")
                .about("Change the number of shards, from a coming window on; no data moves.")
                .arg(
                    number("shards", "How many there are to be.")
                        .value_parser(value_parser!(u32))
                        .required(false)
                        .required_unless_present("cancel"),
                )
                .arg(flag("cancel", "Call a change off that is not in force yet.").conflicts_with("shards"))
                .arg(json()),
        )
        .subcommand(recover())
        .subcommand(
            clap::Command::new("forget")
                .about("Forget a node that is gone for good and has no replicas; its id is never used again.")
                .arg(number("node", "Its id, as `status` shows it."))
                .arg(json()),
        )
}

fn recover() -> clap::Command {
    let text = |name: &'static str, long: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(long).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    clap::Command::new("recover")
        .about("Recover a cluster that has lost all of its ingesters, or a majority. Shows what there is, and changes nothing without --confirm.")
        .arg(text(
            "object-store",
            "storage.object-store",
            "URL",
            "Where all data folders are lost: the bucket that is left, s3://bucket/prefix, gs://…, az://…, file:///folder.",
        ))
        .arg(
            text(
                "data",
                "storage.tsdb.path",
                "FOLDER",
                "The data folder whose bucket it is; with --from-minority that of the ingester that is left.",
            )
            .default_value("data/"),
        )
        .arg(
            text(
                "shards",
                "ingest.shards",
                "N",
                "How many shards the lost cluster had, if no copy of its catalogue is left.",
            )
            .conflicts_with("from-minority")
            .value_parser(value_parser!(u32).range(1..=gnomon_cluster::meta::MAX_SHARDS as i64)),
        )
        .arg(flag(
            "from-minority",
            "Go on with the replicas of one stopped ingester alone; the others are lost for good.",
        ))
        .arg(
            text(
                "peers",
                "cluster.peers",
                "HOST:PORT,...",
                "Nodes of the lost cluster: nothing is done if one of them answers, or its name is not known.",
            )
            .required(true)
            .value_delimiter(',')
            .value_parser(host_port),
        )
        .arg(
            text(
                "gone",
                "peer-is-gone",
                "HOST:PORT,...",
                "Of --cluster.peers, those whose names went with them.",
            )
            .value_delimiter(',')
            .value_parser(host_port),
        )
        .arg(
            text(
                "confirm",
                "confirm",
                "CLUSTER-ID",
                "Do it. A bucket is taken from the cluster of that id only; without this flag the id is shown.",
            )
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value(""),
        )
}

/// A node's address: one without a port, or without a name, would be taken for a node that does not answer.
fn host_port(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not HOST:PORT")),
    }
}

fn recover_command(task: &ArgMatches) -> Command {
    let text = |name: &str| task.get_one::<String>(name).cloned();
    let confirmed = text("confirm");
    let confirm = confirmed.is_some();
    let nodes = |name: &str| task.get_many::<String>(name).into_iter().flatten().cloned().collect();
    Command::Recover(Recover {
        bucket: BucketCheck {
            object_store: text("object-store"),
            data_dir: text("data").unwrap_or_default().into(),
            data_is_named: is_named(task, "data"),
            peers: Vec::new(),
            tls: None,
            shards: task.get_one("shards").copied(),
            grace_ms: 0,
            verify: false,
            repair: confirm,
            found_anew: confirm,
            json: false,
        },
        from_minority: task.get_flag("from-minority"),
        confirm,
        cluster_id: confirmed.filter(|id| !id.is_empty()),
        peers: nodes("peers"),
        gone: nodes("gone"),
    })
}

pub(super) fn cluster_command(cluster: &ArgMatches) -> Command {
    let (name, task) = cluster.subcommand().unwrap_or(("status", cluster));
    if name == "recover" {
        return recover_command(task);
    }
    let id = |name: &str| task.get_one::<u64>(name).copied().unwrap_or_default();
    let small = |name: &str| task.get_one::<u32>(name).copied().unwrap_or_default();
    let flag = |name: &str| task.get_flag(name);
    Command::Cluster(Cluster {
        server: task.get_one::<String>("server").cloned().unwrap_or_default(),
        json: flag("json"),
        task: match name {
            "drain" => ClusterTask::Drain {
                node: id("node"),
                undo: flag("undo"),
                wait: flag("wait"),
            },
            "move" => ClusterTask::Move {
                shard: small("shard"),
                from: id("from"),
                to: id("to"),
                wait: flag("wait"),
            },
            "rebalance" => ClusterTask::Rebalance,
            "replicas" => ClusterTask::Replicas {
                replicas: small("replicas"),
            },
            "forget" => ClusterTask::Forget { node: id("node") },
            "reshard" if flag("cancel") => ClusterTask::CancelReshard,
            "reshard" => ClusterTask::Reshard {
                shards: small("shards"),
            },
            _ => ClusterTask::Status,
        },
    })
}
