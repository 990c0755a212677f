//! `gnomon bucket check`: whether a catalogue and its bucket say the same, and mending it where they do not.

mod compare;

use crate::block::place::check_mark;
use crate::flags::BucketCheck;
use crate::output;
use anyhow::{Context, bail};
use compare::{Content, Finding, Kind, Object, Totals, compare, totals};
use futures::{StreamExt, TryStreamExt};
use gnomon_cluster::clients::MetaClient;
use gnomon_cluster::layers::CallMetrics;
use gnomon_cluster::meta::{
    FoundBlock, FoundDelete, read_newest_checkpoint, rebuild, remove_newer_checkpoints, write_checkpoint,
};
use gnomon_cluster::node::check_unused;
use gnomon_model::{Clock, SystemClock};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{CondemnBlocks, ForgetBlocks, MetaCommand, MetaState};
use gnomon_tsdb::bucket::{BlockKey, CLUSTER_MARKER, checkpoint_path, delete_object, is_tombstone};
use gnomon_tsdb::deletes::{MAX_TOMBSTONE_BYTES, TombstoneObject};
use gnomon_tsdb::{BlockReader, Bucket};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

/// Objects that are looked into at the same time.
const AT_ONCE: usize = 16;
/// What could not be checked.
const CANNOT: u8 = 2;
/// A copy of the catalogue that is newer has a writer.
const QUIET_MS: i64 = 60_000;

/// Runs the command: 0 where all is well (or is now), 1 where it is not, 2 where that cannot be told.
#[must_use]
pub fn run(what: &BucketCheck) -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(check(what)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::fail("gnomon bucket check", &error);
            ExitCode::from(CANNOT)
        }
    }
}

pub(crate) fn open(what: &BucketCheck) -> anyhow::Result<Bucket> {
    open_as_it_is(what.object_store.as_deref(), &what.data_dir.join("bucket"))
}

/// Opens a bucket without touching it: a folder may be that of a node that runs, and one that is mistyped is not made.
pub(crate) fn open_as_it_is(url: Option<&str>, default_folder: &std::path::Path) -> anyhow::Result<Bucket> {
    let folder = match url.filter(|url| !url.is_empty()) {
        None => default_folder.to_owned(),
        Some(text) => {
            // Others are opened without a request, or refused.
            let is_folder = |url: &reqwest::Url| {
                let is_whole = || text.get("file:".len()..).is_some_and(|path| path.starts_with('/'));
                url.scheme() == "file" && url.password().is_none() && is_whole()
            };
            let Some(url) = reqwest::Url::parse(text).ok().filter(is_folder) else {
                return Ok(Bucket::open(Some(text), default_folder)?);
            };
            let folder = url.to_file_path();
            folder.map_err(|()| anyhow::anyhow!("{url} is no path here"))?
        }
    };
    let store = LocalFileSystem::new_with_prefix(&folder);
    let store = store.with_context(|| format!("there is no bucket in the folder {}", folder.display()))?;
    Ok(Bucket::from_store(
        Arc::new(store),
        format!("file://{}", folder.display()),
    ))
}

/// Where the catalogue is from.
enum Source {
    Cluster(Box<MetaClient>),
    /// None was written yet, and there is nothing that would be in it.
    Nothing,
    /// With the time when it was written.
    Checkpoint {
        written_ms: i64,
    },
    /// None can be read, for this reason.
    Lost(String),
}

/// What was found.
struct Checked {
    bucket: Bucket,
    source: Source,
    state: MetaState,
    objects: Vec<Object>,
    deletes: Vec<FoundDelete>,
    findings: Vec<Finding>,
    totals: Totals,
}

pub(crate) async fn check(what: &BucketCheck) -> anyhow::Result<bool> {
    let bucket = open(what)?;
    if what.found_anew {
        check_unused_folder(what)?;
        check_quiet(&bucket).await?;
    }
    // Listed first: what is listed and has no record afterwards never had one, or has none any more.
    let listed = list(&bucket).await?;
    let (state, source) = catalogue(what, &bucket).await?;
    if listed.is_empty() && matches!(source, Source::Nothing) {
        check_is_bucket(&bucket).await?;
    }
    let (objects, deletes) = look_into(what, &bucket, listed).await?;
    let source = match source {
        Source::Nothing if !(objects.is_empty() && deletes.is_empty()) => {
            Source::Lost("there is no checkpoint of it".into())
        }
        source => source,
    };
    let orphans_until_ms = match &source {
        Source::Cluster(_) => SystemClock::shared().now().0.saturating_sub(what.grace_ms),
        // A record is there before its object: where the object was written before the checkpoint, it is in it.
        Source::Checkpoint { written_ms } => written_ms.saturating_sub(what.grace_ms),
        Source::Nothing | Source::Lost(_) => i64::MIN,
    };
    let mut totals = totals(&state, &objects);
    let (findings, unjudged) = compare(&state, &objects, orphans_until_ms);
    let findings = confirmed(&bucket, &source, findings).await?;
    totals.unjudged = unjudged;
    let mut checked = Checked {
        bucket,
        source,
        state,
        objects,
        deletes,
        findings,
        totals,
    };
    if what.repair {
        checked.repair(what).await?;
    }
    let is_lost = matches!(checked.source, Source::Lost(_));
    let is_sound = checked.findings.iter().all(|f| f.repaired) && (!is_lost || what.found_anew);
    output::say(&if what.json {
        checked.json(is_sound)?
    } else {
        checked.table(is_sound)
    })?;
    Ok(is_sound)
}

/// A data folder whose store a process has open is that of a node that runs, and so is its bucket. One that is only the
/// default says nothing of an object store that was named.
fn check_unused_folder(what: &BucketCheck) -> anyhow::Result<()> {
    if what.object_store.is_some() && !what.data_is_named {
        return Ok(());
    }
    check_unused(&what.data_dir).context("the bucket of a node that runs is not given to a new cluster")
}

/// A copy of the catalogue that was just written has a writer. An older one says nothing: copies are written only when the
/// catalogue changes, which may take hours.
async fn check_quiet(bucket: &Bucket) -> anyhow::Result<()> {
    // One that cannot be read is judged by what follows.
    let Ok(Some(state)) = read_newest_checkpoint(bucket.store().as_ref()).await else {
        return Ok(());
    };
    let path = checkpoint_path(state.catalogue_revision);
    let written = bucket.store().head(&path).await;
    let written = written.context("the newest copy of the catalogue")?;
    let age_ms = SystemClock::shared().now().0 - written.last_modified.timestamp_millis();
    if age_ms < QUIET_MS {
        bail!(
            "{path} was written {} s ago: its cluster seems to run. Where it does not, ask again in a minute",
            age_ms.max(0) / 1000
        );
    }
    Ok(())
}

/// A folder that has nothing of a gnomon's is mistyped, it may be: nothing can be told of it.
async fn check_is_bucket(bucket: &Bucket) -> anyhow::Result<()> {
    match bucket.store().head(&Path::from(CLUSTER_MARKER)).await {
        Ok(_) => Ok(()),
        Err(object_store::Error::NotFound { .. }) => bail!(
            "{} has neither a cluster's mark ({CLUSTER_MARKER}) nor a catalogue: it is not the bucket of a gnomon. Name the \
             server's in --storage.object-store or --storage.tsdb.path",
            bucket.url()
        ),
        Err(error) => Err(error).context(bucket.url().to_owned()),
    }
}

/// Without what was only changing while it was looked at: a block that came after the listing, or was replaced after the
/// catalogue was read.
async fn confirmed(bucket: &Bucket, source: &Source, findings: Vec<Finding>) -> anyhow::Result<Vec<Finding>> {
    let mut left = Vec::with_capacity(findings.len());
    for finding in findings {
        let is_there = finding.kind == Kind::Missing
            && match bucket.store().head(&Path::from(finding.path.as_str())).await {
                Ok(_) => true,
                Err(object_store::Error::NotFound { .. }) => false,
                Err(error) => return Err(error.into()),
            };
        if !is_there {
            left.push(finding);
        }
    }
    if let Source::Cluster(client) = source {
        let state = client.read().await?;
        let is_live = |id: &str| state.blocks.iter().any(|b| b.id == id && b.state() == State::Live);
        left.retain(|finding| finding.block.is_empty() || is_live(&finding.block));
    }
    Ok(left)
}

async fn list(bucket: &Bucket) -> anyhow::Result<Vec<ObjectMeta>> {
    let all = bucket.store().list(None).try_filter(|object| {
        let ours = BlockKey::parse(&object.location).is_some() || is_tombstone(&object.location);
        std::future::ready(ours)
    });
    all.try_collect()
        .await
        .with_context(|| format!("cannot list {}", bucket.url()))
}

async fn catalogue(what: &BucketCheck, bucket: &Bucket) -> anyhow::Result<(MetaState, Source)> {
    if !what.peers.is_empty() {
        let metrics = CallMetrics::register(&prometheus::Registry::new())?;
        let clock: Arc<dyn Clock> = SystemClock::shared();
        let channel = crate::channel::options(what.tls.as_ref(), &clock)?;
        let client = MetaClient::new(None, &what.peers, channel, metrics, clock)?;
        let state = client.read().await.with_context(|| match what.tls {
            Some(_) => "the cluster's metadata group",
            None => "the cluster's metadata group (where its nodes speak TLS, --cluster.tls.* has to be given)",
        })?;
        if state.epochs.is_empty() {
            bail!("the cluster is not initialized yet");
        }
        check_mark(bucket, &state).await?;
        return Ok(((*state).clone(), Source::Cluster(Box::new(client))));
    }
    match read_newest_checkpoint(bucket.store().as_ref()).await {
        Ok(Some(state)) => {
            let path = checkpoint_path(state.catalogue_revision);
            let written = bucket.store().head(&path).await.context("the newest checkpoint")?;
            let written_ms = written.last_modified.timestamp_millis();
            Ok((state, Source::Checkpoint { written_ms }))
        }
        Ok(None) => Ok((MetaState::default(), Source::Nothing)),
        Err(error @ gnomon_cluster::meta::CheckpointError::Bad { .. }) => {
            Ok((MetaState::default(), Source::Lost(error.to_string())))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads of each object what it says of itself, or all of it.
async fn look_into(
    what: &BucketCheck,
    bucket: &Bucket,
    listed: Vec<ObjectMeta>,
) -> anyhow::Result<(Vec<Object>, Vec<FoundDelete>)> {
    let looking = listed.into_iter().map(|listed| async move {
        let path = listed.location.to_string();
        let mut delete = None;
        let content = if is_tombstone(&listed.location) {
            delete = read_delete(bucket, &listed).await?;
            match delete {
                Some(_) => Content::Delete,
                None => Content::Damaged("it is not the object of a delete".into()),
            }
        } else {
            read_block(what, bucket, &listed.location).await?
        };
        let object = Object {
            path: path.clone(),
            bytes: listed.size,
            written_ms: listed.last_modified.timestamp_millis(),
            content,
        };
        Ok::<_, anyhow::Error>((object, delete.map(|object| FoundDelete { path, object })))
    });
    let found: Vec<_> = futures::stream::iter(looking).buffered(AT_ONCE).try_collect().await?;
    let (objects, deletes): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    Ok((objects, deletes.into_iter().flatten().collect()))
}

async fn read_delete(bucket: &Bucket, listed: &ObjectMeta) -> anyhow::Result<Option<TombstoneObject>> {
    if listed.size > MAX_TOMBSTONE_BYTES as u64 {
        return Ok(None);
    }
    match bucket.store().get(&listed.location).await {
        Ok(got) => Ok(TombstoneObject::decode(&got.bytes().await?).ok()),
        // Forgotten just now.
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn read_block(what: &BucketCheck, bucket: &Bucket, path: &Path) -> anyhow::Result<Content> {
    let read = async {
        let block = BlockReader::open(Arc::clone(bucket.store()), path.clone()).await?;
        if what.verify {
            block.verify().await?;
        } else {
            block.verify_header().await?;
        }
        Ok(block.meta().clone())
    };
    match read.await {
        Ok(meta) => Ok(Content::Block(Box::new(meta))),
        Err(error) => {
            let error: gnomon_tsdb::BlockError = error;
            if error.is_damage() || error.is_not_found() {
                Ok(Content::Damaged(error.to_string()))
            } else {
                Err(error.into())
            }
        }
    }
}

impl Checked {
    async fn repair(&mut self, what: &BucketCheck) -> anyhow::Result<()> {
        if what.found_anew {
            return self.found_anew(what).await;
        }
        if let Source::Lost(why) = &self.source {
            bail!(
                "the catalogue is lost ({why}): where its cluster runs, name a node of it in --cluster.peers; where the \
                 data folders of its nodes are lost, --found-anew makes a new one of what is in the bucket"
            );
        }
        for finding in self.findings.iter_mut().filter(|f| f.kind == Kind::Orphan) {
            delete_object(self.bucket.store().as_ref(), &Path::from(finding.path.as_str())).await?;
            finding.repaired = true;
        }
        let Source::Cluster(client) = &self.source else {
            return Ok(());
        };
        let mut missing = self
            .findings
            .iter_mut()
            .filter(|f| f.kind == Kind::Missing && !f.block.is_empty());
        for finding in &mut missing {
            let ids = vec![finding.block.clone()];
            let only_staged = false;
            propose(
                client,
                Command::CondemnBlocks(CondemnBlocks {
                    ids: ids.clone(),
                    only_staged,
                }),
            )
            .await?;
            propose(client, Command::ForgetBlocks(ForgetBlocks { ids })).await?;
            finding.repaired = true;
        }
        Ok(())
    }

    /// Makes a catalogue of what is in the bucket, and gives the bucket up for a new cluster.
    async fn found_anew(&mut self, what: &BucketCheck) -> anyhow::Result<()> {
        let checkpoint = match &self.source {
            Source::Cluster(_) => bail!("--found-anew is for a cluster whose nodes are lost: this one answers"),
            Source::Checkpoint { .. } => Some(&self.state),
            Source::Nothing | Source::Lost(_) => None,
        };
        let blocks: Vec<_> = self.objects.iter().filter_map(found_block).collect();
        if checkpoint.is_none() && what.shards.is_none() && !blocks.is_empty() {
            bail!(
                "no copy of the catalogue can be read, so that it is not known how many shards there were, by which series are \
                 found: say it by --ingest.shards"
            );
        }
        let state = rebuild(checkpoint, &blocks, &self.deletes, what.shards);
        write_checkpoint(self.bucket.store().as_ref(), &state).await?;
        // Copies that could not be read would be taken for newer ones.
        remove_newer_checkpoints(self.bucket.store().as_ref(), state.catalogue_revision).await?;
        delete_object(self.bucket.store().as_ref(), &Path::from(CLUSTER_MARKER)).await?;
        for finding in &mut self.findings {
            // What is not in the new catalogue is collected by the cluster that is founded with it.
            let is_in = state.blocks.iter().any(|b| b.path == finding.path);
            finding.repaired =
                matches!(finding.kind, Kind::Missing | Kind::Orphan) || is_in || finding.kind == Kind::Damaged;
        }
        self.totals = totals(&state, &self.objects);
        self.state = state;
        Ok(())
    }

    fn source(&self) -> String {
        match &self.source {
            Source::Cluster(_) => "that of the running cluster".to_owned(),
            Source::Checkpoint { written_ms } => {
                let at = gnomon_querier::Rfc3339(*written_ms);
                format!("a checkpoint of {at}; what is newer is not judged (--cluster.peers asks the cluster)")
            }
            Source::Nothing => "none yet: a node writes it with its first block".to_owned(),
            Source::Lost(why) => format!("lost: {why}"),
        }
    }

    fn table(&self, is_sound: bool) -> String {
        let Totals {
            live,
            staged,
            condemned,
            objects,
            ..
        } = &self.totals;
        let mut out = String::new();
        let revision = self.state.catalogue_revision;
        // Writing to a string does not fail.
        let _ = writeln!(out, "catalogue  revision {revision}: {}", self.source());
        let _ = writeln!(out, "bucket     {}\n", self.bucket.url());
        let _ = writeln!(out, "{:<12} {:>9} {:>16}", "", "blocks", "bytes");
        for (name, total) in [
            ("live", live),
            ("staged", staged),
            ("condemned", condemned),
            ("in bucket", objects),
        ] {
            let _ = writeln!(out, "{name:<12} {:>9} {:>16}", total.blocks, total.bytes);
        }
        let _ = writeln!(
            out,
            "\n{} deletes in the catalogue, {} in the bucket; {} objects without a record are too new to be judged",
            self.totals.deletes, self.totals.delete_objects, self.totals.unjudged
        );
        for finding in &self.findings {
            let kind = format!("{:?}", finding.kind).to_lowercase();
            let repaired = if finding.repaired { " (repaired)" } else { "" };
            let _ = writeln!(
                out,
                "{kind:<9} {:>12} bytes  {}: {}{repaired}",
                finding.bytes, finding.path, finding.what
            );
        }
        let _ = writeln!(out, "{}", if is_sound { "sound" } else { "not sound" });
        out
    }

    fn json(&self, is_sound: bool) -> anyhow::Result<String> {
        let document = serde_json::json!({
            "catalogue": { "source": self.source(), "revision": self.state.catalogue_revision },
            "bucket": self.bucket.url(),
            "totals": self.totals,
            "findings": self.findings,
            "sound": is_sound,
        });
        Ok(serde_json::to_string_pretty(&document)? + "\n")
    }
}

fn found_block(object: &Object) -> Option<FoundBlock> {
    match &object.content {
        Content::Block(meta) => Some(FoundBlock {
            path: object.path.clone(),
            bytes: object.bytes,
            meta: (**meta).clone(),
        }),
        Content::Delete | Content::Damaged(_) => None,
    }
}

async fn propose(client: &MetaClient, command: Command) -> anyhow::Result<()> {
    let command = MetaCommand {
        proposed_at_ms: 0,
        command: Some(command),
    };
    let answer = client.propose(command).await?;
    if !answer.refused.is_empty() {
        bail!("the metadata group refuses it: {}", answer.refused);
    }
    Ok(())
}
