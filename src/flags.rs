//! The command line: Prometheus' flags, gnomon's own, and the subcommands.
//!
//! Every flag is a row of a table ([`table`]): what it is called, what it takes, and what becomes of it here. So
//! `--help`, `/api/v1/status/flags` and the warnings about flags without effect cannot disagree.

mod block;
mod bucket;
mod cluster;
mod cluster_tls;
mod external_url;
mod ha;
mod number;
mod settings;
mod table;

pub use block::{Block, BlockTask, Export, ExportFormat, Import, Where};
pub use bucket::BucketCheck;
pub use cluster::{Cluster, ClusterTask, Recover};
pub(crate) use settings::CREATED_ZERO;
pub use settings::{CheckConfig, CheckMetrics, CheckWebConfig, Command, Query, Roles, Settings, retention_text};
pub use table::{Effect, Flag, Takes, flags};

use clap::builder::{Styles, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use std::collections::BTreeMap;

/// What a command line asks for.
#[derive(Debug)]
pub struct Parsed {
    pub command: Command,
    /// Flags that were given and have no effect here: name and reason.
    pub without_effect: Vec<(String, &'static str)>,
    /// Every flag with its value, as `/api/v1/status/flags` shows them.
    pub values: BTreeMap<String, String>,
}

/// Reads a command line. `--help` and `--version` come back as errors that print themselves (exit code 0).
///
/// # Errors
/// Unknown flags, values of the wrong form, promises that cannot be kept.
pub fn parse<I, T>(args: I) -> Result<Parsed, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let matches = command().try_get_matches_from(args)?;
    match matches.subcommand() {
        Some(("check", check)) => Ok(Parsed {
            command: settings::check_command(check),
            without_effect: Vec::new(),
            values: BTreeMap::new(),
        }),
        Some(("query", query)) => Ok(Parsed {
            command: settings::query_command(query),
            without_effect: Vec::new(),
            values: BTreeMap::new(),
        }),
        Some(("block", block)) => Ok(Parsed {
            command: block::block_command(block).map_err(|message| refuse(&message))?,
            without_effect: Vec::new(),
            values: BTreeMap::new(),
        }),
        Some(("cluster", cluster)) => Ok(Parsed {
            command: cluster::cluster_command(cluster),
            without_effect: Vec::new(),
            values: BTreeMap::new(),
        }),
        Some(("bucket", bucket)) => Ok(Parsed {
            command: bucket::bucket_command(bucket).map_err(|message| refuse(&message))?,
            without_effect: Vec::new(),
            values: BTreeMap::new(),
        }),
        _ => read_flags(&matches),
    }
}

fn read_flags(matches: &ArgMatches) -> Result<Parsed, clap::Error> {
    let mut values = BTreeMap::new();
    let mut without_effect = Vec::new();
    for flag in flags() {
        values.insert(flag.name.to_owned(), value_of(matches, flag));
        let given = is_given(matches, flag.name) || is_given(matches, &negated(flag));
        match flag.effect {
            Effect::Here | Effect::Hidden => {}
            Effect::None(reason) if given => without_effect.push((flag.name.to_owned(), reason)),
            Effect::Refused(alternative) if given && values[flag.name] != "false" => {
                return Err(refuse(&format!("--{} is not supported: {alternative}", flag.name)));
            }
            Effect::None(_) | Effect::Refused(_) => {}
        }
    }
    let settings = Settings::read(&values).map_err(|message| refuse(&message))?;
    without_effect.extend(
        settings
            .ignored_features
            .iter()
            .map(|f| (format!("enable-feature={f}"), settings::why_ignored(f))),
    );
    Ok(Parsed {
        command: Command::Run(Box::new(settings)),
        without_effect,
        values,
    })
}

fn refuse(message: &str) -> clap::Error {
    command().error(clap::error::ErrorKind::ValueValidation, message)
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let source = matches
        .try_contains_id(id)
        .is_ok_and(|known| known)
        .then(|| matches.value_source(id))
        .flatten();
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

fn negated(flag: &Flag) -> String {
    format!("no-{}", flag.name)
}

fn value_of(matches: &ArgMatches, flag: &Flag) -> String {
    match flag.takes {
        Takes::Nothing => {
            let off = matches.get_flag(&negated(flag));
            (matches.get_flag(flag.name) && !off).to_string()
        }
        Takes::One(_) => matches.get_one::<String>(flag.name).cloned().unwrap_or_default(),
        Takes::Many(_) => {
            let all: Vec<_> = matches
                .get_many::<String>(flag.name)
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            all.join(",")
        }
    }
}

fn argument(flag: &Flag) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .help(help(flag))
        .help_heading(flag.heading)
        .hide(flag.effect != Effect::Here);
    let arg = match flag.takes {
        // As kingpin has it: --x, --no-x and nothing else.
        Takes::Nothing if flag.default == "true" => arg.action(ArgAction::SetTrue).default_value("true"),
        Takes::Nothing => arg.action(ArgAction::SetTrue),
        Takes::One(name) => arg.action(ArgAction::Set).value_name(name).default_value(flag.default),
        Takes::Many(name) if flag.default.is_empty() => arg.action(ArgAction::Append).value_name(name),
        Takes::Many(name) => arg
            .action(ArgAction::Append)
            .value_name(name)
            .default_value(flag.default),
    };
    let arg = if matches!(flag.takes, Takes::Nothing) {
        arg
    } else {
        arg.value_parser(ValueParser::string())
            .allow_hyphen_values(false)
            .hide_default_value(flag.default.is_empty())
    };
    match flag.environment {
        Some(name) => arg.env(name).hide_env_values(true),
        None => arg,
    }
}

fn help(flag: &Flag) -> String {
    match flag.effect {
        Effect::Here | Effect::Hidden => flag.help.to_owned(),
        Effect::None(reason) => format!("No effect: {reason}."),
        Effect::Refused(alternative) => format!("Not supported: {alternative}."),
    }
}

/// The command line as clap knows it.
#[must_use]
pub fn command() -> clap::Command {
    let mut command = clap::Command::new("gnomon")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A Prometheus-compatible monitoring system: one process, or a replicated cluster, from the same binary.")
        .after_help(
            "Prometheus' other flags are accepted with a warning that says why they have no effect, or refused where\n\
             something would be missed (--agent, say).\n\
             Every flag of gnomon's own can be given in the environment too: --cluster.peers as GNOMON_CLUSTER_PEERS.",
        )
        .styles(Styles::plain())
        .subcommand_required(false)
        .args_conflicts_with_subcommands(true)
        .subcommand(settings::check())
        .subcommand(settings::query())
        .subcommand(block::block())
        .subcommand(bucket::bucket())
        .subcommand(cluster::cluster());
    for flag in flags() {
        command = command.arg(argument(flag));
        if matches!(flag.takes, Takes::Nothing) {
            let name = negated(flag);
            command = command.arg(Arg::new(name.clone()).long(name).action(ArgAction::SetTrue).hide(true));
        }
    }
    command
}

#[cfg(test)]
mod deployments;
#[cfg(test)]
mod tests;
