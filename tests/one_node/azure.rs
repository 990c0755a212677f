//! The object store is Azure Blob Storage: Microsoft's emulator, stopped and started while the node runs.

use super::s3::servers::azurite::{self, Azurite, Told};
use super::s3::{get_everything_through_a_network_that_fails, live_through_a_restart_and_an_outage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_live_in_azure_through_a_restart_and_an_outage() {
    let Some(program) = azurite::find() else { return };
    live_through_a_restart_and_an_outage(&mut Azurite::start(program, Told::Emulator)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_gets_through_a_network_that_fails() {
    let Some(program) = azurite::find() else { return };
    get_everything_through_a_network_that_fails(&Azurite::start(program, Told::Endpoint)).await;
}
