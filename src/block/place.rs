//! The gnomon whose blocks are meant: its bucket, and its metadata group, wherever that is.

use crate::bucket::open_as_it_is;
use crate::flags::Where;
use anyhow::{Context, anyhow, bail};
use gnomon_cluster::clients::MetaClient;
use gnomon_cluster::layers::CallMetrics;
use gnomon_cluster::node::{Claim, ClusterMark, NodeHandle, NodeOptions, check_unused, start_node};
use gnomon_cluster::retention::{Budget, OwnBytes, Retention};
use gnomon_model::{Clock, SystemClock};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::MetaState;
use gnomon_tsdb::Bucket;
use gnomon_tsdb::bucket::CLUSTER_MARKER;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the metadata group of a stopped gnomon is waited for, which is this process alone.
const START_WITHIN: Duration = Duration::from_secs(60);

const TAKEN_FOR_STOPPED: &str = "gnomon is taken for stopped, since --cluster.peers names none that runs (its \
                                 --cluster.listen-address, say --cluster.peers=127.0.0.1:9095)";

/// The file of a data folder that says which node's it is.
const NODE_FILE: &str = "node.json";

/// Its bucket, to be written to. It is there: one that is not, as its name is mistyped, is not made. Others may write
/// to it at the same time.
fn bucket(place: &Where) -> anyhow::Result<Bucket> {
    let folder = place.data_dir.join("bucket");
    open_as_it_is(place.object_store.as_deref(), &folder)?;
    let url = match place.object_store.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => url.to_owned(),
        None => {
            let folder = std::path::absolute(&folder).with_context(|| folder.display().to_string())?;
            let url = reqwest::Url::from_file_path(&folder);
            url.map_err(|()| anyhow!("{} is no path", folder.display()))?.into()
        }
    };
    Ok(Bucket::open(Some(&url), &folder)?)
}

/// The same for as long as it is that of a cluster.
fn claimed(place: &Where) -> anyhow::Result<(Bucket, Arc<Claim>)> {
    let bucket = bucket(place)?;
    let (store, registry) = (Arc::clone(bucket.store()), prometheus::Registry::new());
    let claim = Claim::new(store, bucket.url(), SystemClock::shared(), &registry)?;
    Ok((bucket.behind(claim.bucket()), claim))
}

/// An open gnomon: one that runs, or one that is stopped and whose metadata group runs here meanwhile.
pub(super) struct Place {
    pub(super) bucket: Bucket,
    pub(super) meta: Arc<dyn MetaService>,
    node: Option<NodeHandle>,
}

impl Place {
    /// # Errors
    /// When it cannot be reached, or a running process has its data folder, or there is none, or its bucket is another
    /// cluster's.
    pub(super) async fn open(place: &Where, stop: &CancellationToken) -> anyhow::Result<Self> {
        if place.peers.is_empty() {
            check_folder(&place.data_dir)?;
            check_unused(&place.data_dir).context(TAKEN_FOR_STOPPED)?;
            return Self::start(place, stop).await;
        }
        let folder = place.data_dir.join("bucket");
        if place.object_store.is_none() && !folder.is_dir() {
            // Not to be made: the nodes have theirs.
            bail!(
                "the cluster's bucket is not {}: name it in --storage.object-store, as its nodes do",
                folder.display()
            );
        }
        let (bucket, claim) = claimed(place)?;
        let clock: Arc<dyn Clock> = SystemClock::shared();
        let metrics = CallMetrics::register(&prometheus::Registry::new())?;
        let channel = crate::channel::options(place.tls.as_ref(), &clock)?;
        let client = MetaClient::new(None, &place.peers, channel, metrics, clock);
        let client = client.context("--cluster.peers")?;
        let peers = place.peers.join(",");
        let state = client.read().await.with_context(|| {
            let hint = if place.tls.is_none() {
                "; where it speaks TLS, --cluster.tls.* has to be given"
            } else {
                ""
            };
            format!("--cluster.peers={peers}: no gnomon answers there (its --cluster.listen-address is meant{hint})")
        })?;
        let mark = check_mark(&bucket, &state).await?;
        claim.hold(mark.cluster_id, mark.generation, false);
        Ok(Self {
            bucket,
            meta: Arc::new(client),
            node: None,
        })
    }

    async fn start(place: &Where, stop: &CancellationToken) -> anyhow::Result<Self> {
        let (bucket, claim) = claimed(place)?;
        let mut options = NodeOptions::new(
            place.data_dir.clone(),
            Arc::clone(bucket.store()),
            vec!["ingester".into()],
            "127.0.0.1:0".into(),
            SystemClock::shared(),
            prometheus::Registry::new(),
        );
        bucket.url().clone_into(&mut options.bucket_name);
        env!("CARGO_PKG_VERSION").clone_into(&mut options.version);
        options.claim = Some(claim);
        options.join_timeout = START_WITHIN;
        options.stop = stop.child_token();
        let node = start_node(options).await.context(TAKEN_FOR_STOPPED)?;
        let state = node.meta.read().await?;
        let meta = Arc::clone(&node.meta);
        let opened = Self {
            bucket,
            meta,
            node: Some(node),
        };
        if state
            .nodes
            .iter()
            .filter(|n| n.roles.iter().any(|role| role == "ingester"))
            .count()
            > 1
        {
            opened.close().await;
            bail!("it is a cluster of several ingesters: start it, and name them in --cluster.peers");
        }
        Ok(opened)
    }

    /// Ends what runs here.
    pub(super) async fn close(self) {
        if let Some(node) = self.node {
            node.shutdown().await;
        }
    }
}

/// No cluster is founded here: it would be one of this machine, in a folder that is mistyped, say.
fn check_folder(folder: &std::path::Path) -> anyhow::Result<()> {
    let file = folder.join(NODE_FILE);
    if file.try_exists().with_context(|| file.display().to_string())? {
        return Ok(());
    }
    bail!(
        "{} is no gnomon's data folder (there is no {NODE_FILE} in it): name the server's in --storage.tsdb.path, after \
         gnomon was started once where it is new, or a gnomon that runs in --cluster.peers",
        folder.display()
    )
}

/// Blocks in another cluster's bucket would never be found. The mark that is there.
pub(crate) async fn check_mark(bucket: &Bucket, state: &MetaState) -> anyhow::Result<ClusterMark> {
    let url = bucket.url();
    let hint = "name the server's in --storage.object-store or --storage.tsdb.path";
    let found = match bucket.store().get(&Path::from(CLUSTER_MARKER)).await {
        Ok(found) => found.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => bail!("{url} is not the bucket of a gnomon: {hint}"),
        Err(error) => return Err(error).with_context(|| url.to_owned()),
    };
    let mark: ClusterMark =
        serde_json::from_slice(&found).with_context(|| format!("{url}/{CLUSTER_MARKER} is no cluster's mark"))?;
    if mark.cluster_id.to_string() != state.cluster_id {
        bail!(
            "{url} belongs to cluster {}, the gnomon at --cluster.peers to cluster {}: {hint}",
            mark.cluster_id,
            state.cluster_id
        );
    }
    Ok(mark)
}

/// What retention leaves for blocks. The node's own log counts where its folder is here.
pub(super) fn budget(place: &Where, retention: Retention) -> Budget {
    let store = place.data_dir.join("store");
    let own = store.is_dir().then(|| OwnBytes::of(store));
    Budget::new(watch::channel(retention).1, own)
}
