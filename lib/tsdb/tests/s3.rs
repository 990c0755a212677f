//! The acceptance suite against a real S3 server.
#![allow(clippy::unwrap_used)]

mod weed;

use gnomon_tsdb::Bucket;
use gnomon_tsdb::bucket::acceptance::run_acceptance;
use std::process::Command;

#[test]
fn a_real_s3_server_is_accepted() {
    let Some(program) = weed::find() else { return };
    let server = weed::Server::start(program);
    accept(&server, &server.endpoint(), 0);
}

/// The same with a network that fails one request of 25, in every way: the client and the bucket make it good.
#[test]
fn it_is_accepted_through_a_network_that_fails() {
    let Some(program) = weed::find() else { return };
    let server = weed::Server::start(program);
    let proxy = weed::proxy::Proxy::start(&server.endpoint(), 1, 40, true);
    accept(&server, &proxy.endpoint(), 1);
    println!("{} requests, {:?}", proxy.requests(), proxy.counts());
    assert!(proxy.counts().iter().map(|(_, n)| n).sum::<u64>() > 0);
}

/// In a process of its own: the store takes its settings from the environment.
fn accept(server: &weed::Server, endpoint: &str, least_failed: u64) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_accepts_the_bucket_of_its_environment",
            "--ignored",
            "--nocapture",
        ])
        .env("GNOMON_TEST_BUCKET", format!("s3://{}/some/prefix", weed::BUCKET))
        .env("GNOMON_TEST_FAILED", least_failed.to_string())
        .envs(server.environment())
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_READ_TIMEOUT", "5 seconds")
        .env_remove("AWS_REGION")
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run by a_real_s3_server_is_accepted, with a server"]
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
