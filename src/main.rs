//! The `gnomon` binary: reads the command line and does what it says.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use gnomon::flags::{self, Command};
use gnomon::{block, bucket, check, cluster, lifecycle, logging, output, query, recover, run};
use std::io::ErrorKind;
use std::process::ExitCode;

/// Set by `.cargo/config.toml`; why: `docs/decisions/0012-jemalloc.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let parsed = match flags::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are "errors" with exit code 0.
            return match error.print() {
                Err(lost) if error.exit_code() == 0 && lost.kind() != ErrorKind::BrokenPipe => ExitCode::FAILURE,
                _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
            };
        }
    };
    match parsed.command {
        Command::CheckConfig(ref what) => check::config(what),
        Command::CheckMetrics(ref what) => check::metrics(what),
        Command::CheckWebConfig(ref what) => check::web_config(what),
        Command::Query(ref what) => query::run(what),
        Command::Block(ref what) => block::run(what),
        Command::BucketCheck(ref what) => bucket::run(what),
        Command::Cluster(ref what) => cluster::run(what),
        Command::Recover(ref what) => recover::run(what),
        Command::Import(ref what) => block::import::run(what),
        Command::Export(ref what) => block::export::run(what),
        Command::Run(settings) => {
            gnomon_malloc::keep_little();
            let format = if settings.log_json {
                logging::Format::Json
            } else {
                logging::Format::Logfmt
            };
            if let Err(error) = logging::start(&settings.log_level, format) {
                output::tell(format_args!("gnomon: {error}"));
                return ExitCode::FAILURE;
            }
            for (flag, why) in &parsed.without_effect {
                tracing::warn!(flag = %format!("--{flag}"), "flag has no effect: {why}");
            }
            lifecycle::raise_open_files();
            match run::run(*settings, parsed.values) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(error = logging::error_text(error.as_ref()), "gnomon ends");
                    ExitCode::FAILURE
                }
            }
        }
    }
}
