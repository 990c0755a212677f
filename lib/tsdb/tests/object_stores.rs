//! The acceptance suite against servers: S3 (SeaweedFS), Azure Blob Storage (Azurite), and a stand-in of Google Cloud Storage.
#![allow(clippy::unwrap_used)]

#[path = "object_stores/mod.rs"]
mod servers;

use gnomon_tsdb::Bucket;
use gnomon_tsdb::bucket::acceptance::run_acceptance;
use servers::azurite::Azurite;
use servers::gcs::Gcs;
use servers::weed::proxy::Proxy;
use servers::{Server, azurite, gcs, weed};
use std::process::Command;

#[test]
fn a_real_s3_server_is_accepted() {
    let Some(program) = weed::find() else { return };
    accept(&weed::Server::start(program));
}

/// The same with a network that fails one request of 25, in every way: the client and the bucket make it good.
#[test]
fn an_s3_server_is_accepted_through_a_network_that_fails() {
    let Some(program) = weed::find() else { return };
    accept_through_trouble(&weed::Server::start(program));
}

#[test]
fn azurite_is_accepted() {
    let Some(program) = azurite::find() else { return };
    accept(&Azurite::start(program, azurite::Told::Emulator));
}

/// As any account of Azure's is named, with its key and an endpoint.
#[test]
fn an_azure_account_at_an_endpoint_is_accepted() {
    let Some(program) = azurite::find() else { return };
    let server = Azurite::start(program, azurite::Told::Endpoint);
    accept(&server);
    let mut environment = server.environment();
    for (name, value) in &mut environment {
        if *name == "AZURE_STORAGE_ACCOUNT_KEY" {
            *value = "bm90IHRoZSBrZXk=".into();
        }
    }
    let said = is_refused(&server, environment);
    assert!(said.contains("403"), "{said}");
}

#[test]
fn azurite_is_accepted_through_a_network_that_fails() {
    let Some(program) = azurite::find() else { return };
    accept_through_trouble(&Azurite::start(program, azurite::Told::Emulator));
}

#[test]
fn google_cloud_storage_is_accepted_with_the_key_of_a_service_account() {
    let server = Gcs::start(gcs::Told::ServiceAccount);
    accept(&server);
    assert_eq!(server.refused(), 0);
    let said = is_refused(&server, server.environment_of_another_key());
    assert!(
        said.contains("the signature is not the key") && said.contains("401"),
        "{said}"
    );
}

#[test]
fn google_cloud_storage_is_accepted_with_a_token_of_the_machine() {
    let server = Gcs::start(gcs::Told::Machine);
    accept(&server);
    assert_eq!(server.refused(), 0);
}

/// `STORAGE_EMULATOR_HOST` alone: nobody is asked for credentials.
#[test]
fn an_emulator_of_google_cloud_storage_is_accepted() {
    let server = Gcs::start(gcs::Told::Emulator);
    accept(&server);
    assert_eq!(server.refused(), 0);
}

#[test]
fn google_cloud_storage_is_accepted_through_a_network_that_fails() {
    accept_through_trouble(&Gcs::start(gcs::Told::ServiceAccount));
}

fn accept(server: &dyn Server) {
    let (is_accepted, said) = run(server, server.environment(), 0);
    assert!(is_accepted, "{said}");
    assert_eq!(server.keys(""), Vec::<String>::new(), "nothing is left");
}

fn accept_through_trouble(server: &dyn Server) {
    let proxy = Proxy::start(&server.endpoint(), 1, 40, true);
    let mut environment = server.environment_at(&proxy.endpoint());
    environment.push((server.read_timeout(), "5 seconds".into()));
    let (is_accepted, said) = run(server, environment, 1);
    println!("{} requests, {:?}", proxy.requests(), proxy.counts());
    assert!(is_accepted, "{said}");
    assert!(proxy.counts().iter().map(|(_, n)| n).sum::<u64>() > 0);
}

/// What was said instead.
fn is_refused(server: &dyn Server, environment: Vec<(&'static str, String)>) -> String {
    let (is_accepted, said) = run(server, environment, 0);
    assert!(!is_accepted, "{said}");
    said
}

/// Whether the suite passes, and what it says, in a process of its own: the store takes its settings from the environment.
fn run(server: &dyn Server, environment: Vec<(&'static str, String)>, least_failed: u64) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // What whoever runs the tests has set is none of theirs.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["AWS_", "AZURE_", "GOOGLE_", "GCE_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    let output = command
        .args([
            "--exact",
            "child_accepts_the_bucket_of_its_environment",
            "--ignored",
            "--nocapture",
        ])
        .env("GNOMON_TEST_BUCKET", format!("{}/some/prefix", server.url()))
        .env("GNOMON_TEST_FAILED", least_failed.to_string())
        .envs(environment)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
#[ignore = "run by the other tests of this file, with a server"]
async fn child_accepts_the_bucket_of_its_environment() {
    let Ok(url) = std::env::var("GNOMON_TEST_BUCKET") else {
        println!("skipped: GNOMON_TEST_BUCKET is not set");
        return;
    };
    let least: u64 = std::env::var("GNOMON_TEST_FAILED").unwrap().parse().unwrap();
    let bucket = Bucket::open(Some(&url), std::path::Path::new("/nonexistent")).unwrap();
    assert_eq!(bucket.url(), url);
    run_acceptance(&bucket).await.unwrap();
    let failed = bucket.attempts().unwrap().failed();
    println!("{failed} attempts failed");
    assert!(failed >= least, "{failed} attempts that failed were counted");
}
