//! `admin/tsdb`: deletes, and carrying them out.
//!
//! A delete is an object in the bucket, then a record of the catalogue, then an entry in the log of every shard, which the
//! shards' leaders see to. It is acknowledged when all of these are there: whoever asks a shard afterwards with a view
//! that does not know of it is sent for a newer one.

use crate::answer::Answer;
use crate::error::{ApiError, ErrorType};
use crate::form::Form;
use crate::params;
use crate::router::Api;
use crate::snapshot::{Snapshot, name_at, remove_unfinished};
use axum::extract::State;
use gnomon_cluster::clients::decide;
use gnomon_cluster::deletes::masks;
use gnomon_model::ids::DELETES_FEATURE_LEVEL;
use gnomon_model::{BlockId, Matcher};
use gnomon_proto::matchers::sets_to_wire;
use gnomon_proto::v1::block_record;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{AddTombstone, CleanTombstones, MetaResponse, MetaState, RaiseFeatureLevel, TombstoneRecord};
use gnomon_tsdb::bucket::{delete_object, tombstone_path};
use gnomon_tsdb::deletes::TombstoneObject;
use http::StatusCode;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the logs of all shards may take to have a delete.
const DELETE_WITHIN: Duration = Duration::from_secs(30);
/// How long it is waited for blocks that are written anew.
const CLEAN_WITHIN: Duration = Duration::from_secs(10 * 60);

/// What a delete names.
struct Wanted {
    sets: Vec<Vec<Matcher>>,
    start_ms: i64,
    end_ms: i64,
}

/// `delete_series`.
pub(super) async fn delete_series(State(api): State<Arc<Api>>, form: Form) -> Result<StatusCode, ApiError> {
    api.require_admin()?;
    form.require_whole()?;
    if form.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let window = params::window(&form)?;
    let sets = api.selectors(&form).await?;
    let mut sets = sets.map_err(|e| ApiError::parameter("match[]", e))?;
    // As in Prometheus: `{}` names nothing, and `{a=~".*"}` all there is.
    sets.retain(|set| !set.is_empty());
    if window.start_ms <= window.end_ms && !sets.is_empty() {
        let wanted = Wanted {
            sets,
            start_ms: window.start_ms,
            end_ms: window.end_ms,
        };
        // It goes on where nobody waits for it any more: half a delete is of no use.
        let deleting = tokio::spawn(async move { api.delete(wanted).await });
        deleting
            .await
            .map_err(|e| ApiError::new(ErrorType::Internal, format!("delete: {e}")))??;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `clean_tombstones`.
pub(super) async fn clean_tombstones(State(api): State<Arc<Api>>) -> Result<StatusCode, ApiError> {
    api.require_admin()?;
    let answer = api.decide(Command::CleanTombstones(CleanTombstones {})).await?;
    let revision = answer.tombstone_revision;
    let left = |state: &MetaState| {
        let live = state.blocks.iter().filter(|b| b.state() == block_record::State::Live);
        let due = |block: &&gnomon_proto::v1::BlockRecord| {
            let mut deletes = state.tombstones.iter().take_while(|t| t.revision <= revision);
            deletes.any(|delete| masks(delete, block))
        };
        live.filter(due).count()
    };
    api.until(answer.revision, CLEAN_WITHIN, |state| match left(state) {
        0 => Ok(()),
        blocks => Err(format!("{blocks} blocks are still to be written anew; that goes on")),
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Go's `strconv.ParseBool`.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `snapshot`.
pub(super) async fn snapshot(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    api.require_admin()?;
    let skip_head = match form.get("skip_head") {
        "" => false,
        text => go_bool(text).ok_or_else(|| {
            let why = format!("unable to parse boolean: strconv.ParseBool: parsing {text:?}: invalid syntax");
            ApiError::parameter("skip_head", why)
        })?,
    };
    let making = tokio::spawn(async move {
        let busy = |_| unavailable("another snapshot is being made: try again when it is there");
        let _only = api.snapshots.try_lock().map_err(busy)?;
        let name = name_at(api.state.clock.now().0, rand::random());
        let folder = &api.state.admin.snapshots;
        std::fs::create_dir_all(folder).map_err(|e| {
            ApiError::new(
                ErrorType::Internal,
                format!("create snapshot directory {}: {e}", folder.display()),
            )
        })?;
        remove_unfinished(folder);
        let snapshot = Snapshot {
            fanout: &api.state.fanout,
            bucket: &api.state.admin.bucket,
            with_heads: !skip_head,
        };
        snapshot.make(folder, &name).await?;
        tracing::info!(name, folder = %folder.display(), "a snapshot was made");
        Ok::<_, ApiError>(name)
    });
    let name = making
        .await
        .map_err(|e| ApiError::new(ErrorType::Internal, format!("snapshot: {e}")))??;
    let write = move |json: &mut crate::json::Json| {
        json.raw(r#"{"name":""#);
        json.raw(&name);
        json.raw(r#""}"#);
        Ok(())
    };
    Ok(Answer::new(false, Box::new(write)))
}

fn unavailable(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorType::Unavailable, why)
}

impl Api {
    /// # Errors
    /// In Prometheus' words, where it is not switched on.
    pub(crate) fn require_admin(&self) -> Result<(), ApiError> {
        match self.state.admin.enabled {
            true => Ok(()),
            false => Err(ApiError::new(ErrorType::Disabled, "admin APIs disabled")),
        }
    }

    /// Proposes a command that may be given twice, until it is decided; the answer may be a refusal.
    async fn decide(&self, command: Command) -> Result<MetaResponse, ApiError> {
        Ok(decide(self.state.fanout.meta.as_ref(), command).await?)
    }

    /// Waits for a state, not older than a revision, that is as wanted; else says why it is not.
    async fn until(
        &self,
        revision: u64,
        within: Duration,
        is_done: impl Fn(&MetaState) -> Result<(), String>,
    ) -> Result<(), ApiError> {
        let mut states = self.state.fanout.view.clone();
        let mut why = format!("revision {revision} of the metadata is not known here");
        let waiting = async {
            loop {
                let state = Arc::clone(&states.borrow_and_update());
                if state.revision >= revision {
                    match is_done(&state) {
                        Ok(()) => return Ok(()),
                        Err(not) => why = not,
                    }
                }
                if states.changed().await.is_err() {
                    return Err(unavailable("the node is stopping"));
                }
            }
        };
        match tokio::time::timeout(within, waiting).await {
            Ok(done) => done,
            Err(_) => Err(unavailable(format!("not done within {within:?}: {why}"))),
        }
    }

    async fn delete(&self, wanted: Wanted) -> Result<(), ApiError> {
        let state = self.state.fanout.meta.read().await?;
        if state.feature_level < DELETES_FEATURE_LEVEL.0 {
            let level = DELETES_FEATURE_LEVEL.0;
            let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
            let refused = self.decide(raise).await?.refused;
            if !refused.is_empty() {
                let why = format!("deletes need feature level {level} of all nodes: {refused}");
                return Err(unavailable(why));
            }
        }
        let tenant = &self.state.fanout.tenant;
        let path = tombstone_path(tenant, BlockId(rand::random()));
        self.put_tombstone(&state, &path, &wanted, None).await?;
        let tombstone = TombstoneRecord {
            path: path.to_string(),
            tenant: tenant.to_string(),
            series: sets_to_wire(&wanted.sets),
            start_ms: wanted.start_ms,
            end_ms: wanted.end_ms,
            ..TombstoneRecord::default()
        };
        let added = self.decide(Command::AddTombstone(AddTombstone {
            tombstone: Some(tombstone),
        }));
        let answer = added.await?;
        if !answer.refused.is_empty() {
            // Where it fails the compactor does it in a while.
            let _ = delete_object(self.state.admin.bucket.as_ref(), &path).await;
            return Err(unavailable(answer.refused));
        }
        let delete = answer.tombstone_revision;
        tracing::info!(revision = delete, %path, "a delete is in the catalogue");
        // The object says which delete it is, for a catalogue that is lost. Where it cannot, the compactor sees to it.
        if let Err(error) = self.put_tombstone(&state, &path, &wanted, Some(delete)).await {
            tracing::warn!(%path, %error, "the object of a delete does not say its revision yet");
        }
        self.until(answer.revision, DELETE_WITHIN, |state| {
            let record = state.tombstones.iter().find(|t| t.revision == delete);
            let pending = record.map_or(&[][..], |record| &record.pending_shards);
            if pending.is_empty() {
                return Ok(());
            }
            Err(format!(
                "the delete is recorded, and will be in the logs of the shards {pending:?} once they have leaders: until \
                 then samples that are written may be deleted too"
            ))
        })
        .await
    }

    /// Before it is recorded without its revision, then with it.
    async fn put_tombstone(
        &self,
        state: &MetaState,
        path: &Path,
        wanted: &Wanted,
        revision: Option<u64>,
    ) -> Result<(), ApiError> {
        let internal = |why: String| ApiError::new(ErrorType::Internal, why);
        let object = TombstoneObject {
            cluster: state
                .cluster_id
                .parse()
                .map_err(|e: gnomon_model::ids::BadId| internal(e.to_string()))?,
            after_revision: state.catalogue_revision,
            revision,
            tenant: self.state.fanout.tenant.clone(),
            sets: wanted.sets.clone(),
            start_ms: wanted.start_ms,
            end_ms: wanted.end_ms,
        };
        let bytes = object.encode().map_err(|e| ApiError::bad_data(e.to_string()))?;
        let put = self.state.admin.bucket.put(path, bytes.into()).await;
        put.map_err(|e| unavailable(format!("the object of a delete cannot be written to the bucket: {e}")))?;
        Ok(())
    }
}
