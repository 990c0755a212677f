//! What gnomon asks of an object store. Every kind that is offered passes it in the tests.

use super::{Bucket, Created};
use crate::block::{BlockMeta, BlockReader, BlockWriter, UploadSink};
use crate::page::FloatPageBuilder;
use bytes::Bytes;
use futures::TryStreamExt;
use gnomon_model::{BlockId, ClusterId, Labels, ShardId, TenantId, TimeRange, TimestampMs};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStoreExt, PutPayload};

const PART_BYTES: usize = 5 << 20;

/// Runs all checks below `acceptance/` of the bucket, which must be empty, and removes what it made.
///
/// # Errors
/// The first thing that the store does otherwise than gnomon needs it.
pub async fn run_acceptance(bucket: &Bucket) -> Result<(), String> {
    let text = |step: &'static str| move |error: Error| format!("{step}: {error}");
    put_and_get(bucket).await.map_err(|e| format!("put and get: {e}"))?;
    list_and_delete(bucket)
        .await
        .map_err(|e| format!("list and delete: {e}"))?;
    conditional_create(bucket)
        .await
        .map_err(|e| format!("conditional create: {e}"))?;
    multipart(bucket).await.map_err(|e| format!("multipart: {e}"))?;
    whole_block(bucket).await.map_err(|e| format!("block: {e}"))?;
    let prefix = Path::from("acceptance");
    let left: Vec<_> = bucket
        .store()
        .list(Some(&prefix))
        .try_collect()
        .await
        .map_err(text("list"))?;
    for object in left {
        bucket.store().delete(&object.location).await.map_err(text("delete"))?;
    }
    Ok(())
}

fn key(name: &str) -> Path {
    Path::from(format!("acceptance/{name}"))
}

fn check(holds: bool, what: impl Into<String>) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::Generic {
        store: "acceptance",
        source: what.into().into(),
    })
}

async fn put_and_get(bucket: &Bucket) -> Result<(), Error> {
    let store = bucket.store();
    let path = key("a/b c/object.bin");
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    store.put(&path, PutPayload::from(content.clone())).await?;
    check(store.get(&path).await?.bytes().await? == content, "content")?;
    check(
        store.get_range(&path, 1000..1010).await? == content[1000..1010],
        "range",
    )?;
    let ranges = store
        .get_ranges(&path, &[0..4, 50_000..50_004, 99_996..100_000])
        .await?;
    check(
        ranges.iter().all(|r| r.len() == 4) && ranges[2] == content[99_996..],
        "ranges",
    )?;
    for (suffix, len) in [(100_u64, 100_usize), (1_000_000, 100_000)] {
        let options = GetOptions {
            range: Some(GetRange::Suffix(suffix)),
            ..GetOptions::default()
        };
        let result = store.get_opts(&path, options).await?;
        check(result.meta.size == 100_000, "size with a suffix range")?;
        check(
            result.bytes().await? == content[100_000 - len..],
            format!("suffix of {suffix} bytes"),
        )?;
    }
    check(store.head(&path).await?.size == 100_000, "size")?;
    store.put(&path, PutPayload::from_static(b"second")).await?;
    check(
        store.get(&path).await?.bytes().await? == b"second"[..],
        "content after an overwrite",
    )?;
    let missing = store.get(&key("absent")).await;
    check(
        matches!(missing, Err(Error::NotFound { .. })),
        "an absent object is NotFound",
    )?;
    let missing = store.get_range(&key("absent"), 0..1).await;
    check(
        matches!(missing, Err(Error::NotFound { .. })),
        "a range of an absent object is NotFound",
    )
}

async fn list_and_delete(bucket: &Bucket) -> Result<(), Error> {
    let store = bucket.store();
    let names = ["l/1/x", "l/1/y", "l/10/x", "l/2"];
    for name in names {
        store.put(&key(name), PutPayload::from_static(b"12345")).await?;
    }
    let mut listed: Vec<_> = store.list(Some(&key("l"))).try_collect().await?;
    listed.sort_by(|a, b| a.location.cmp(&b.location));
    let found: Vec<_> = listed.iter().map(|o| (o.location.clone(), o.size)).collect();
    let mut expected: Vec<_> = names.iter().map(|n| (key(n), 5)).collect();
    expected.sort();
    check(found == expected, format!("listing is {found:?}"))?;
    let below: Vec<_> = store.list(Some(&key("l/1"))).try_collect().await?;
    check(below.len() == 2, "a prefix is whole path segments")?;
    store.delete(&key("l/1/x")).await?;
    check(
        matches!(store.head(&key("l/1/x")).await, Err(Error::NotFound { .. })),
        "a deleted object is gone",
    )?;
    let left: Vec<_> = store.list(Some(&key("l"))).try_collect().await?;
    check(left.len() == 3, "a listing after a delete lacks the object")?;
    match store.delete(&key("l/1/x")).await {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn conditional_create(bucket: &Bucket) -> Result<(), Error> {
    let (store, path) = (bucket.store(), key("once"));
    let attempts = (0..8_u8).map(|i| {
        let path = path.clone();
        async move { bucket.create(&path, Bytes::from(vec![i; 4])).await }
    });
    let outcomes = futures::future::try_join_all(attempts).await?;
    let content = store.get(&path).await?.bytes().await?;
    let winner = content.first().copied().unwrap_or(8);
    check(
        winner < 8 && content[..] == [winner; 4],
        "content is that of one of them",
    )?;
    // The winner may find its own content: its answer was lost, and it was made again.
    let is_told = |(i, outcome): (u8, &Created)| match outcome {
        Created::New => i == winner,
        Created::Existing(found) => *found == content,
    };
    check(
        (0..8).zip(&outcomes).all(is_told),
        format!("of 8 concurrent creations that of {winner} took place, and they were told {outcomes:?}"),
    )
}

async fn multipart(bucket: &Bucket) -> Result<(), Error> {
    let store = bucket.store();
    let (kept, dropped) = (key("multi/kept"), key("multi/dropped"));
    let mut upload = store.put_multipart(&kept).await?;
    upload.put_part(PutPayload::from(vec![1; PART_BYTES])).await?;
    upload.put_part(PutPayload::from(vec![2; 10])).await?;
    check(
        matches!(store.head(&kept).await, Err(Error::NotFound { .. })),
        "visible before it is complete",
    )?;
    upload.complete().await?;
    check(
        store.head(&kept).await?.size == PART_BYTES as u64 + 10,
        "size of an upload in parts",
    )?;
    let seam = PART_BYTES as u64;
    check(
        store.get_range(&kept, seam - 1..seam + 1).await? == [1, 2][..],
        "content at the seam of two parts",
    )?;
    let mut upload = store.put_multipart(&dropped).await?;
    upload.put_part(PutPayload::from(vec![1; PART_BYTES])).await?;
    upload.abort().await?;
    check(
        matches!(store.head(&dropped).await, Err(Error::NotFound { .. })),
        "visible after it was aborted",
    )?;
    let listed: Vec<_> = store.list(Some(&key("multi"))).try_collect().await?;
    check(listed.len() == 1, "an aborted upload is listed")
}

async fn whole_block(bucket: &Bucket) -> Result<(), String> {
    let window = TimeRange::new(TimestampMs(0), TimestampMs(7_200_000));
    let meta = BlockMeta::new(BlockId(1), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
    let path = key("block.gnb");
    let mut writer = BlockWriter::new(meta, UploadSink::new(bucket.store().clone(), path.clone()));
    for i in 0..1000_u32 {
        let labels = Labels::from_pairs([("__name__", format!("m{i:04}"))]);
        let mut builder = FloatPageBuilder::new();
        for k in 0..10 {
            builder.append(k * 15_000, f64::from(i)).map_err(|e| e.to_string())?;
        }
        writer
            .add_series(labels.as_ref(), builder.page())
            .await
            .map_err(|e| e.to_string())?;
    }
    let written = writer.finish().await.map_err(|e| e.to_string())?;
    let reader = BlockReader::open(bucket.store().clone(), path)
        .await
        .map_err(|e| e.to_string())?;
    let report = reader.verify().await.map_err(|e| e.to_string())?;
    if report.stats == written.meta.stats && report.bytes == written.bytes {
        Ok(())
    } else {
        Err(format!("{report:?} was read, {written:?} was written"))
    }
}
