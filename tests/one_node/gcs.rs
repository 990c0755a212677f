//! The object store is Google Cloud Storage: a stand-in that verifies what it is asked, stopped and started while the node runs.

use super::s3::servers::gcs::{Gcs, Told};
use super::s3::{get_everything_through_a_network_that_fails, live_through_a_restart_and_an_outage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_live_in_google_cloud_storage_through_a_restart_and_an_outage() {
    live_through_a_restart_and_an_outage(&mut Gcs::start(Told::ServiceAccount)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_gets_through_a_network_that_fails() {
    get_everything_through_a_network_that_fails(&Gcs::start(Told::Machine)).await;
}
