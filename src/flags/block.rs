//! `gnomon block`: what its tasks take.

use super::settings::default_retention;
use super::{Command, cluster_tls};
use clap::{Arg, ArgAction, ArgMatches};
use gnomon_cluster::retention::Retention;
use gnomon_cluster::tls::TlsFiles;
use gnomon_model::duration::parse_duration_ms;
use gnomon_model::size::parse_size_bytes;
use gnomon_model::{Matcher, TenantId};
use std::path::PathBuf;

/// `gnomon block inspect|verify|diff BLOCK…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub task: BlockTask,
    /// Files, or paths in the object store.
    pub blocks: Vec<String>,
    /// As `--storage.object-store` of the server.
    pub object_store: Option<String>,
}

/// What to do with blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockTask {
    Inspect,
    Verify,
    /// Of exactly two.
    Diff,
}

/// Which gnomon is meant: what of the server's flags says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Where {
    pub object_store: Option<String>,
    pub data_dir: PathBuf,
    /// gRPC addresses of a cluster that runs; none for one that is stopped.
    pub peers: Vec<String>,
    /// To speak to them.
    pub tls: Option<TlsFiles>,
    pub tenant: TenantId,
}

/// `gnomon block import FOLDER…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Blocks, or folders of blocks.
    pub sources: Vec<PathBuf>,
    pub to: Where,
    /// That of the server.
    pub retention: Retention,
    pub skip_damaged: bool,
}

/// What blocks are exported to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    Prometheus,
    Parquet,
}

/// `gnomon block export --format=… --output=FOLDER [BLOCK…]`
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    pub format: ExportFormat,
    pub output: PathBuf,
    /// Files, or paths in the object store; all there are where none is named.
    pub blocks: Vec<String>,
    pub from: Where,
    /// Inclusive, milliseconds.
    pub start_ms: i64,
    /// Inclusive, milliseconds.
    pub end_ms: i64,
    /// A series must match one of these, if there are any: all of its matchers.
    pub matchers: Vec<Vec<Matcher>>,
    /// Width of an exported block's window, milliseconds.
    pub width_ms: i64,
    /// Whether blocks of Prometheus' get start timestamps.
    pub with_starts: bool,
    pub skip_damaged: bool,
}

const DEFAULT_DATA_DIR: &str = "data/";

fn blocks_arg() -> Arg {
    Arg::new("blocks")
        .value_name("BLOCK")
        .action(ArgAction::Append)
        .help("Files, or paths in the object store.")
}

fn object_store_arg(help: &'static str) -> Arg {
    Arg::new("object-store")
        .long("storage.object-store")
        .value_name("URL")
        .help(help)
}

/// Arguments of [`Where`].
fn with_where(command: clap::Command) -> clap::Command {
    command
        .arg(object_store_arg(
            "The server's: s3://bucket/prefix, gs://…, az://…, file:///folder. Default: the folder bucket in --storage.tsdb.path.",
        ))
        .arg(
            Arg::new("path")
                .long("storage.tsdb.path")
                .value_name("DIR")
                .default_value(DEFAULT_DATA_DIR)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The server's data folder."),
        )
        .arg(
            Arg::new("peers")
                .long("cluster.peers")
                .value_name("HOST:PORT,…")
                .value_delimiter(',')
                .action(ArgAction::Append)
                .help("gRPC address of a gnomon that runs (its --cluster.listen-address). Without it, gnomon must be stopped."),
        )
        .args(cluster_tls::args())
        .arg(
            Arg::new("tenant")
                .long("tenant")
                .value_name("NAME")
                .default_value("anonymous")
                .value_parser(|text: &str| text.parse::<TenantId>().map_err(|e| e.to_string())),
        )
}

fn where_of(matches: &ArgMatches) -> Result<Where, String> {
    Ok(Where {
        object_store: matches.get_one("object-store").cloned(),
        data_dir: matches
            .get_one("path")
            .cloned()
            .unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
        peers: matches.get_many("peers").into_iter().flatten().cloned().collect(),
        tls: cluster_tls::of_matches(matches)?,
        tenant: matches.get_one("tenant").cloned().unwrap_or_else(TenantId::anonymous),
    })
}

fn duration(text: &str) -> Result<i64, String> {
    parse_duration_ms(text).map_err(|e| e.to_string())
}

/// Not so short that a range becomes ever so many blocks.
fn width(text: &str) -> Result<i64, String> {
    let width_ms = duration(text)?;
    if (60_000..=31 * 86_400_000).contains(&width_ms) {
        Ok(width_ms)
    } else {
        Err("1m to 31d are possible".into())
    }
}

fn time(text: &str) -> Result<i64, String> {
    gnomon_querier::parse_time(text)
}

fn selector(text: &str) -> Result<Vec<Matcher>, String> {
    gnomon_promql::parse_selector(text).map_err(|e| e.to_string())
}

fn import() -> clap::Command {
    let command = clap::Command::new("import")
        .about("Bring blocks of Prometheus, Thanos or Mimir in; what is there already is not brought in twice.")
        .arg(
            Arg::new("sources")
                .value_name("FOLDER")
                .action(ArgAction::Append)
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help(
                    "Blocks (folders with meta.json), or folders with several, as Prometheus' data folder. Only read.",
                ),
        );
    with_where(command)
        .arg(
            Arg::new("retention-time")
                .long("storage.tsdb.retention.time")
                .value_name("DURATION")
                .value_parser(duration)
                .help("The server's: what is older is not brought in (15d if neither time nor size is set)."),
        )
        .arg(
            Arg::new("retention-size")
                .long("storage.tsdb.retention.size")
                .value_name("SIZE")
                .value_parser(|text: &str| parse_size_bytes(text).map_err(|e| e.to_string()))
                .help("The server's: what does not fit is not brought in."),
        )
        .arg(
            Arg::new("skip-damaged")
                .long("skip-damaged")
                .action(ArgAction::SetTrue)
                .help("Leave out damaged chunks and blocks, and say which; else the first one ends it."),
        )
}

fn export() -> clap::Command {
    let command =
        clap::Command::new("export")
            .about("Write series of blocks out for other programs.")
            .arg(blocks_arg().help(
                "Files, or paths in the object store. Default: all blocks in it, one sample where several have it.",
            ))
            .arg(
                Arg::new("format")
                    .long("format")
                    .value_name("FORMAT")
                    .required(true)
                    .value_parser(["prometheus", "parquet"])
                    .help("prometheus: TSDB blocks, for a data folder of Prometheus or a bucket of Thanos or Mimir; parquet: files with a row for each sample."),
            )
            .arg(
                Arg::new("output")
                    .long("output")
                    .short('o')
                    .value_name("FOLDER")
                    .required(true)
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("Where to; made if need be."),
            );
    let bound = |id: &'static str, help: &'static str| {
        Arg::new(id)
            .long(id)
            .value_name("TIME")
            .value_parser(time)
            .allow_hyphen_values(true)
            .help(help)
    };
    with_where(command)
        .arg(bound(
            "start",
            "From this time on (seconds since the epoch, or RFC 3339).",
        ))
        .arg(bound("end", "Up to this time, inclusive."))
        .arg(
            Arg::new("match")
                .long("match")
                .value_name("SELECTOR")
                .action(ArgAction::Append)
                .value_parser(selector)
                .help("Series that one of these selects: '{job=\"node\"}'. Default: all."),
        )
        .arg(
            Arg::new("width")
                .long("block-duration")
                .value_name("DURATION")
                .default_value("2h")
                .value_parser(width)
                .help("Time that one exported block or file covers, 1m to 31d."),
        )
        .arg(
            Arg::new("start-timestamps")
                .long("start-timestamps")
                .action(ArgAction::SetTrue)
                .help("prometheus: keep start timestamps of floats, in XOR2 chunks, which newer releases read. parquet has them."),
        )
        .arg(
            Arg::new("skip-damaged")
                .long("skip-damaged")
                .action(ArgAction::SetTrue)
                .help("Leave out damaged blocks, and say which; else the first one that is missed ends it."),
        )
}

/// `gnomon block`, as clap knows it.
pub(super) fn block() -> clap::Command {
    let task = |name: &'static str, about: &'static str| {
        clap::Command::new(name)
            .about(about)
            .arg(blocks_arg().required(true))
            .arg(object_store_arg(
                "Where the blocks are, if they are no files: s3://bucket/prefix, gs://…, az://…, file:///folder.",
            ))
    };
    clap::Command::new("block")
        .about("Look into blocks, which are the .gnb files of the object store; bring some in, write some out.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(task(
            "inspect",
            "Show what is in a block, and what takes how much room in it.",
        ))
        .subcommand(task(
            "verify",
            "Read every byte of a block and check all that can be checked; 1 if one is damaged.",
        ))
        .subcommand(
            task(
                "diff",
                "Compare the series and samples of two blocks; 1 if they differ.",
            )
            .mut_arg("blocks", |blocks| blocks.num_args(2)),
        )
        .subcommand(import())
        .subcommand(export())
}

pub(super) fn block_command(block: &ArgMatches) -> Result<Command, String> {
    let (task, matches) = match block.subcommand() {
        Some(("import", matches)) => return Ok(Command::Import(import_of(matches)?)),
        Some(("export", matches)) => return Ok(Command::Export(Box::new(export_of(matches)?))),
        Some(("verify", matches)) => (BlockTask::Verify, matches),
        Some(("diff", matches)) => (BlockTask::Diff, matches),
        Some((_, matches)) => (BlockTask::Inspect, matches),
        None => (BlockTask::Inspect, block),
    };
    Ok(Command::Block(Block {
        task,
        blocks: matches.get_many("blocks").into_iter().flatten().cloned().collect(),
        object_store: matches.get_one("object-store").cloned(),
    }))
}

fn import_of(matches: &ArgMatches) -> Result<Import, String> {
    let size_bytes = matches.get_one("retention-size").copied().filter(|bytes| *bytes > 0);
    let time_ms = matches.get_one("retention-time").copied().filter(|ms| *ms > 0);
    Ok(Import {
        sources: matches.get_many("sources").into_iter().flatten().cloned().collect(),
        to: where_of(matches)?,
        retention: Retention {
            time_ms: time_ms.or(default_retention(size_bytes)),
            size_bytes,
        },
        skip_damaged: matches.get_flag("skip-damaged"),
    })
}

fn export_of(matches: &ArgMatches) -> Result<Export, String> {
    let start_ms = matches.get_one("start").copied().unwrap_or(i64::MIN);
    let end_ms = matches.get_one("end").copied().unwrap_or(i64::MAX);
    if start_ms > end_ms {
        return Err("--start is after --end: nothing is between them".to_owned());
    }
    Ok(Export {
        format: match matches.get_one::<String>("format").map(String::as_str) {
            Some("parquet") => ExportFormat::Parquet,
            _ => ExportFormat::Prometheus,
        },
        output: matches.get_one("output").cloned().unwrap_or_default(),
        blocks: matches.get_many("blocks").into_iter().flatten().cloned().collect(),
        from: where_of(matches)?,
        start_ms,
        end_ms,
        matchers: matches.get_many("match").into_iter().flatten().cloned().collect(),
        width_ms: matches.get_one("width").copied().unwrap_or(2 * 3_600_000),
        with_starts: matches.get_flag("start-timestamps"),
        skip_damaged: matches.get_flag("skip-damaged"),
    })
}
