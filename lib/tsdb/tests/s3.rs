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
    // In a process of its own: the store takes its settings from the environment.
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_accepts_the_bucket_of_its_environment",
            "--ignored",
            "--nocapture",
        ])
        .env("GNOMON_TEST_BUCKET", format!("s3://{}/some/prefix", weed::BUCKET))
        .envs(server.environment())
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
    let bucket = Bucket::open(Some(&url), std::path::Path::new("/nonexistent")).unwrap();
    assert_eq!(bucket.url(), url);
    run_acceptance(&bucket).await.unwrap();
}
