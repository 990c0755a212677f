//! What is wrong with the files that a job names, without scraping anything: `gnomon check config`.

use crate::client::HttpClient;
use crate::config::ScrapeConfig;
use crate::discovery::check_targets;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Files that are not read within this hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found of a job's files, a sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedFiles {
    /// The job could not be scraped.
    pub errors: Vec<String>,
    /// It may be as is wished.
    pub warnings: Vec<String>,
}

/// Reads certificates, keys, credentials, headers and target files as a scraper would.
pub async fn check_files(config: &Arc<ScrapeConfig>) -> CheckedFiles {
    let mut checked = CheckedFiles::default();
    let client = async { HttpClient::new(&config.http).await?.read_files().await };
    match timeout(PATIENCE, client).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => checked.errors.push(error.to_string()),
        Err(_) => checked.errors.push(hangs("certificates, keys and credentials")),
    }
    let job = Arc::clone(config);
    let targets = tokio::task::spawn_blocking(move || check_targets(&job.file_sd_configs));
    match timeout(PATIENCE, targets).await {
        Ok(Ok((bad, missing))) => {
            checked.errors.extend(bad.iter().map(ToString::to_string));
            let missing = missing
                .iter()
                .map(|path| format!("there is no file {} yet", path.display()));
            checked.warnings.extend(missing);
        }
        Ok(Err(error)) => checked.errors.push(error.to_string()),
        Err(_) => checked.errors.push(hangs("target files")),
    }
    checked
}

fn hangs(what: &str) -> String {
    format!("its {what} are not read within {} s", PATIENCE.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScrapeDefaults;
    use gnomon_model::yaml::{At, parse};
    use std::path::Path;

    #[tokio::test]
    async fn files_that_are_missing_or_bad_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("good.json"), r#"[{"targets": ["a:1"]}]"#).unwrap();
        std::fs::write(path("bad.json"), r#"[{"target": ["a:1"]}]"#).unwrap();
        std::fs::write(path("token"), "secret").unwrap();
        let check = async |job: &str| {
            let job = job.replace("DIR", dir.path().to_str().unwrap());
            let root = parse(&format!("{{job_name: x, {job}}}")).unwrap();
            let config = ScrapeConfig::read(&At::root(&root), &ScrapeDefaults::default(), Path::new("/")).unwrap();
            let checked = check_files(&Arc::new(config)).await;
            let shown = |texts: Vec<String>| texts.join("; ").replace(dir.path().to_str().unwrap(), "");
            (shown(checked.errors), shown(checked.warnings))
        };
        let fine = "authorization: {credentials_file: DIR/token}, file_sd_configs: [{files: [DIR/good.json]}]";
        assert_eq!(check(fine).await, (String::new(), String::new()));
        let (errors, _) = check("tls_config: {ca_file: DIR/ca.pem}").await;
        assert!(errors.contains("/ca.pem"), "{errors}");
        let (errors, _) = check("basic_auth: {username: u, password_file: DIR/gone}").await;
        assert!(
            errors.starts_with("unable to read basic auth password file /gone: "),
            "{errors}"
        );
        let (errors, _) = check("http_headers: {X-A: {files: [DIR/gone]}}").await;
        assert!(errors.contains("/gone"), "{errors}");
        let (errors, warnings) =
            check("file_sd_configs: [{files: [DIR/bad.json, DIR/later.json, 'DIR/x*.yml']}]").await;
        assert!(errors.contains("/bad.json") && !errors.contains("good"), "{errors}");
        assert_eq!(
            warnings,
            "there is no file /later.json yet; there is no file /x*.yml yet"
        );
    }
}
