//! Where a block is written to.

use super::BlockError;
use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use std::sync::Arc;

/// Takes a block's bytes in order.
pub trait BlockSink: Send {
    /// What is left at the end.
    type Output: Send;
    /// # Errors
    /// When the bytes cannot be kept; the block is lost then.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), BlockError>> + Send;
    /// Makes the block durable and visible.
    ///
    /// # Errors
    /// When it cannot be; it may be visible nevertheless.
    fn finish(self) -> impl Future<Output = Result<Self::Output, BlockError>> + Send;
    /// Gives up what was written so far, as far as that can be done.
    fn abort(self) -> impl Future<Output = ()> + Send;
}

/// Keeps the block in memory.
#[derive(Debug, Default)]
pub struct MemorySink(BytesMut);

impl BlockSink for MemorySink {
    type Output = Bytes;

    async fn write(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(self) -> Result<Bytes, BlockError> {
        Ok(self.0.freeze())
    }

    async fn abort(self) {}
}

/// Uploads in parts of this size (S3 wants 5 MiB at least, all but the last equal); a smaller object is one request.
pub const PART_BYTES: usize = 8 << 20;

/// Writes to one object of a store, holding one part in memory.
pub struct UploadSink {
    store: Arc<dyn ObjectStore>,
    path: Path,
    buffer: BytesMut,
    part_bytes: usize,
    upload: Option<Box<dyn MultipartUpload>>,
    /// Bytes that may still be written, of those that were reserved.
    left_bytes: u64,
    reserved_bytes: u64,
}

impl UploadSink {
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, path: Path) -> Self {
        Self::within(store, path, u64::MAX)
    }

    /// Uploads no more than was reserved: more is an error ([`BlockError::is_over_reservation`]).
    #[must_use]
    pub fn within(store: Arc<dyn ObjectStore>, path: Path, reserved_bytes: u64) -> Self {
        Self {
            store,
            path,
            buffer: BytesMut::new(),
            part_bytes: PART_BYTES,
            upload: None,
            left_bytes: reserved_bytes,
            reserved_bytes,
        }
    }

    /// In parts of another size, at least a byte: for stores that take small ones.
    #[must_use]
    pub fn in_parts_of(mut self, bytes: usize) -> Self {
        self.part_bytes = bytes.max(1);
        self
    }

    async fn put_part(&mut self, part: Bytes) -> Result<(), object_store::Error> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(self.store.put_multipart(&self.path).await?),
        };
        upload.put_part(PutPayload::from(part)).await
    }

    fn error(&self) -> impl FnOnce(object_store::Error) -> BlockError + use<> {
        let path = self.path.clone();
        move |source| BlockError::Store { path, source }
    }

    async fn complete(&mut self) -> Result<(), object_store::Error> {
        let rest = self.buffer.split().freeze();
        if self.upload.is_none() {
            return self.store.put(&self.path, PutPayload::from(rest)).await.map(drop);
        }
        if !rest.is_empty() {
            self.put_part(rest).await?;
        }
        match &mut self.upload {
            Some(upload) => upload.complete().await.map(drop),
            None => Ok(()),
        }
    }
}

impl BlockSink for UploadSink {
    type Output = ();

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BlockError> {
        let left = self.left_bytes.checked_sub(bytes.len() as u64);
        self.left_bytes = left.ok_or_else(|| BlockError::OverReservation {
            path: self.path.clone(),
            reserved_bytes: self.reserved_bytes,
        })?;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.part_bytes - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == self.part_bytes {
                let part = self.buffer.split().freeze();
                let error = self.error();
                self.put_part(part).await.map_err(error)?;
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(), BlockError> {
        let error = self.error();
        match self.complete().await {
            Ok(()) => Ok(()),
            Err(source) => {
                self.abort().await;
                Err(error(source))
            }
        }
    }

    async fn abort(mut self) {
        if let Some(upload) = &mut self.upload
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(path = %self.path, %error, "could not abort an upload; the store's lifecycle rules will");
        }
    }
}
