//! `gnomon check`: what is wrong with a file, without starting anything.

use crate::config;
use crate::flags::{CheckConfig, CheckMetrics, CheckWebConfig};
use crate::logging::error_text;
use crate::output::Output;
use crate::web;
use gnomon_scraper::check_files;
use gnomon_scraper::config::ScrapeConfig;
use gnomon_scraper::parse::{Severity, check_metrics};
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// As promtool: an exposition that is taken but goes against the conventions.
const EXIT_LINT: u8 = 3;

/// `gnomon check config`: one line per file, problems on standard error; 1 if a file is not good.
#[must_use]
pub fn config(what: &CheckConfig) -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    let (mut out, mut err) = (Output::new(std::io::stdout().lock()), std::io::stderr().lock());
    let mut good = true;
    for path in &what.files {
        good &= config_file(path, what, &environment, &mut out, &mut err);
    }
    end(good, &mut out, &mut err)
}

/// The exit code of a command whose words are said.
fn end(good: bool, out: &mut Output<impl Write>, err: &mut dyn Write) -> ExitCode {
    if let Err(error) = out.end() {
        let _ = writeln!(err, "gnomon check: {}", error_text(error.as_ref()));
        return ExitCode::FAILURE;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a file is good. That nobody reads what is said of it (a closed pipe) changes nothing about that.
fn config_file(
    path: &Path,
    what: &CheckConfig,
    environment: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> bool {
    let config = match config::load(path, environment) {
        Ok(config) => config,
        Err(error) => {
            let _ = writeln!(err, "{error}");
            return false;
        }
    };
    for warning in &config.warnings {
        let _ = writeln!(err, "{warning}");
    }
    for unsupported in &config.unsupported {
        let _ = writeln!(err, "{unsupported}");
    }
    if what.strict
        && let Err(error) = config.require_supported()
    {
        // The server's flag is named another way.
        let error = error.to_string().replace("--config.strict", "--strict");
        let _ = writeln!(err, "{error}");
        return false;
    }
    if !what.syntax_only && !named_files(path, &config.scrape_configs, err) {
        return false;
    }
    let jobs = config.scrape_configs.len();
    let plural = if jobs == 1 { "" } else { "s" };
    let _ = writeln!(out, "{}: good, {jobs} scrape configuration{plural}", path.display());
    true
}

/// Whether the files that jobs name are good.
fn named_files(path: &Path, jobs: &[Arc<ScrapeConfig>], err: &mut dyn Write) -> bool {
    let path = path.display();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(err, "{path}: the files that it names cannot be looked at: {error}");
            return false;
        }
    };
    let mut good = true;
    // Together: where a disk hangs, all wait for it at once.
    let all = runtime.block_on(futures::future::join_all(jobs.iter().map(check_files)));
    for (job, checked) in jobs.iter().zip(all) {
        let name = &job.job_name;
        for warning in checked.warnings {
            let _ = writeln!(err, "{path}: job {name:?}: {warning}");
        }
        for error in checked.errors {
            good = false;
            let _ = writeln!(err, "{path}: job {name:?}: {error}");
        }
    }
    // One that hangs is not waited for.
    runtime.shutdown_background();
    good
}

/// `gnomon check web-config`: one line per file, problems on standard error; 1 if a file is not good.
#[must_use]
pub fn web_config(what: &CheckWebConfig) -> ExitCode {
    let (mut out, mut err) = (Output::new(std::io::stdout().lock()), std::io::stderr().lock());
    let mut good = true;
    for path in &what.files {
        match web::check(path) {
            Ok((found, warnings)) => {
                for warning in warnings {
                    let _ = writeln!(err, "{}: {warning}", path.display());
                }
                let _ = writeln!(out, "{}: good, {found}", path.display());
            }
            Err(error) => {
                good = false;
                let _ = writeln!(err, "{error}");
            }
        }
    }
    end(good, &mut out, &mut err)
}

/// `gnomon check metrics`: problems on standard error; 1 if an exposition is refused, 3 if it is only unconventional.
#[must_use]
pub fn metrics(what: &CheckMetrics) -> ExitCode {
    let standard_input = [Path::new("-").to_owned()];
    let files = if what.files.is_empty() {
        &standard_input[..]
    } else {
        &what.files
    };
    let mut err = std::io::stderr().lock();
    let mut worst = 0;
    for path in files {
        let read = if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        } else {
            std::fs::read(path)
        };
        let code = match read {
            Ok(bytes) => metrics_text(path, &bytes, what.strict, &mut err),
            Err(error) => {
                let _ = writeln!(err, "{}: cannot be read: {error}", path.display());
                1
            }
        };
        // An error (1) outweighs a lint (3).
        worst = if worst == 1 || code == 1 { 1 } else { worst.max(code) };
    }
    ExitCode::from(worst)
}

fn metrics_text(path: &Path, bytes: &[u8], strict: bool, err: &mut dyn Write) -> u8 {
    let problems = check_metrics(bytes, strict);
    for problem in &problems {
        let _ = match problem.line {
            0 => writeln!(err, "{}: {}", path.display(), problem.message),
            line => writeln!(err, "{}:{line}: {}", path.display(), problem.message),
        };
    }
    match problems.iter().any(|problem| problem.severity == Severity::Error) {
        true => 1,
        false if problems.is_empty() => 0,
        false => EXIT_LINT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_is_said_to_be_and_a_bad_one_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.yml");
        let check = |text: &str, strict| {
            std::fs::write(&path, text).unwrap();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let what = CheckConfig {
                files: Vec::new(),
                strict,
                syntax_only: text.contains("syntax"),
            };
            let good = config_file(&path, &what, &|_| None, &mut out, &mut err);
            let text = |bytes| {
                String::from_utf8(bytes)
                    .unwrap()
                    .replace(dir.path().to_str().unwrap(), "")
            };
            (good, text(out), text(err))
        };
        let (good, out, err) = check("scrape_configs: [{job_name: x}]", true);
        assert_eq!(
            (good, out.as_str(), err.as_str()),
            (true, "/p.yml: good, 1 scrape configuration\n", "")
        );
        let (good, out, err) = check("scrape_configs: [{job: x}]", false);
        assert_eq!((good, out.as_str()), (false, ""));
        assert_eq!(err, "/p.yml:1:19: scrape_configs[0].job: unknown field \"job\"\n");
        assert!(check("scrape_configs: [{}]", false).2.ends_with("job_name is empty\n"));
        let later = "rule_files: [a]";
        let (good, _, err) = check(later, false);
        assert!(good && err.contains("/p.yml:1: rule_files has no effect"), "{err}");
        let (good, _, err) = check(later, true);
        assert!(!good && err.contains("--strict forbids"), "{err}");
        assert!(!err.contains("--config.strict"), "{err}");
        let names = "scrape_configs: [{job_name: x, tls_config: {ca_file: /gone.pem}}]";
        let (good, out, err) = check(names, false);
        assert_eq!((good, out.as_str()), (false, ""));
        assert!(
            err.starts_with("/p.yml: job \"x\": ") && err.contains("/gone.pem"),
            "{err}"
        );
        assert!(check(&names.replace(": x", ": syntax"), false).0);
    }

    #[test]
    fn an_exposition_is_refused_or_frowned_upon() {
        let check = |text: &str, strict| {
            let mut err = Vec::new();
            let code = metrics_text(Path::new("m.txt"), text.as_bytes(), strict, &mut err);
            (code, String::from_utf8(err).unwrap())
        };
        let good = "# HELP x_total Things.\n# TYPE x_total counter\nx_total 1\n";
        assert_eq!(check(good, false), (0, String::new()));
        let (code, err) = check("x{ 1\n", false);
        assert!(code == 1 && err.starts_with("m.txt:1: "), "{err}");
        assert_eq!(check("x_bar 1\n", false).0, 3);
        assert_eq!(check(good, true).0, 1);
    }
}
