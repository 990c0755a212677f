//! `gnomon bucket`: what its task takes.

use super::{Command, cluster_tls};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use gnomon_cluster::tls::TlsFiles;
use std::path::PathBuf;

/// `gnomon bucket check`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketCheck {
    /// As `--storage.object-store` of the server.
    pub object_store: Option<String>,
    /// As `--storage.tsdb.path` of the server: its bucket is there where no object store is named.
    pub data_dir: PathBuf,
    /// Whether it was said: a default says nothing where an object store is named.
    pub data_is_named: bool,
    /// Nodes of the running cluster; none compares with a checkpoint.
    pub peers: Vec<String>,
    /// To speak to them.
    pub tls: Option<TlsFiles>,
    /// Shards that a catalogue has of which no checkpoint is left.
    pub shards: Option<u32>,
    /// How old an orphan has to be.
    pub grace_ms: i64,
    /// Read every byte.
    pub verify: bool,
    pub repair: bool,
    /// Make a catalogue of what is there, for a new cluster.
    pub found_anew: bool,
    pub json: bool,
}

/// `gnomon bucket`, as clap knows it.
pub(super) fn bucket() -> clap::Command {
    let text = |name: &'static str, long: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(long).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let check = clap::Command::new("check")
        .about("Compare the catalogue with what is in the bucket; 1 if they differ, 2 if that cannot be told.")
        .arg(text(
            "object-store",
            "storage.object-store",
            "URL",
            "The bucket: s3://bucket/prefix, gs://…, az://…, file:///folder.",
        ))
        .arg(
            text(
                "data",
                "storage.tsdb.path",
                "FOLDER",
                "The data folder whose bucket it is.",
            )
            .default_value("data/"),
        )
        .arg(text(
            "peers",
            "cluster.peers",
            "HOST:PORT,...",
            "Nodes of the running cluster, to be asked for its catalogue; else a copy in the bucket is compared.",
        ))
        .args(cluster_tls::args())
        .arg(text("grace", "grace", "DURATION", "How old an orphan has to be.").default_value("1h"))
        .arg(flag("verify", "Read every byte of every block."))
        .arg(flag("json", "Print a JSON document."))
        .arg(flag(
            "repair",
            "Remove orphans; condemn records whose objects are missing (with --cluster.peers).",
        ))
        .arg(
            flag(
                "found-anew",
                "Where all data folders are lost: make a catalogue of what is in the bucket, for a new cluster.",
            )
            .requires("repair")
            .conflicts_with("peers"),
        )
        .arg(
            text(
                "shards",
                "ingest.shards",
                "N",
                "How many shards the lost cluster had, if no copy of its catalogue is left.",
            )
            .requires("found-anew")
            .value_parser(clap::value_parser!(u32).range(1..=gnomon_cluster::meta::MAX_SHARDS as i64)),
        );
    clap::Command::new("bucket")
        .about("Look after the object store.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(check)
}

/// Whether an argument with a default was given.
pub(super) fn is_named(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(name) == Some(ValueSource::CommandLine)
}

pub(super) fn bucket_command(bucket: &ArgMatches) -> Result<Command, String> {
    let check = bucket.subcommand().map_or(bucket, |(_, check)| check);
    let text = |name: &str| check.get_one::<String>(name).cloned();
    let grace = text("grace").unwrap_or_default();
    let peers = text("peers").unwrap_or_default();
    Ok(Command::BucketCheck(BucketCheck {
        object_store: text("object-store"),
        data_dir: text("data").unwrap_or_default().into(),
        data_is_named: is_named(check, "data"),
        peers: peers
            .split(',')
            .map(str::trim)
            .filter(|peer| !peer.is_empty())
            .map(str::to_owned)
            .collect(),
        tls: cluster_tls::of_matches(check)?,
        shards: check.get_one("shards").copied(),
        grace_ms: gnomon_model::duration::parse_duration_ms(&grace).map_err(|e| format!("--grace: {e}"))?,
        verify: check.get_flag("verify"),
        repair: check.get_flag("repair"),
        found_anew: check.get_flag("found-anew"),
        json: check.get_flag("json"),
    }))
}
