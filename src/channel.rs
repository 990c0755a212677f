//! How this process speaks to other nodes.

use anyhow::Context;
use gnomon_cluster::layers::ChannelOptions;
use gnomon_cluster::tls::{ClusterTls, TlsFiles};
use gnomon_model::Clock;
use std::sync::Arc;

/// In plain text where no certificates are named.
///
/// # Errors
/// When the certificates cannot be used.
pub(crate) fn options(tls: Option<&TlsFiles>, clock: &Arc<dyn Clock>) -> anyhow::Result<ChannelOptions> {
    let open = |files: &TlsFiles| ClusterTls::open(files.clone(), Arc::clone(clock));
    Ok(ChannelOptions {
        tls: tls.map(open).transpose().context("--cluster.tls.*")?,
        ..ChannelOptions::default()
    })
}
