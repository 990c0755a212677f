//! For stores that know no range counted from an object's end, as Azure Blob Storage: such a range is asked for as one
//! counted from the start, once the size is known.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;

/// Times that an object may be replaced between the request for its size and that for its range.
const REPLACED: usize = 3;

/// Everything but ranges from the end goes to the store as it comes.
#[derive(Debug)]
pub(super) struct WithSuffixRanges<S>(pub(super) S);

impl<S: fmt::Display> fmt::Display for WithSuffixRanges<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<S: ObjectStore> WithSuffixRanges<S> {
    /// The last `wanted` bytes, or all of an object that is shorter. Both requests are answered from the same content.
    async fn last(&self, location: &Path, options: &GetOptions, wanted: u64) -> Result<GetResult> {
        let mut replaced = 0;
        loop {
            let mut head = options.clone();
            (head.head, head.range) = (true, None);
            let meta = self.0.get_opts(location, head).await?.meta;
            let mut get = options.clone();
            get.range = (meta.size > 0).then(|| GetRange::Bounded(meta.size.saturating_sub(wanted)..meta.size));
            let is_pinned = get.if_match.is_none() && meta.e_tag.is_some();
            if is_pinned {
                get.if_match = meta.e_tag;
            }
            match self.0.get_opts(location, get).await {
                Err(Error::Precondition { .. }) if is_pinned && replaced < REPLACED => replaced += 1,
                result => return result,
            }
        }
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for WithSuffixRanges<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match options.range {
            Some(GetRange::Suffix(wanted)) if wanted > 0 && !options.head => {
                self.last(location, &options, wanted).await
            }
            _ => self.0.get_opts(location, options).await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    /// Refuses what Azure's client refuses.
    #[derive(Debug)]
    struct Fussy(InMemory);

    impl fmt::Display for Fussy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("fussy")
        }
    }

    #[async_trait]
    impl ObjectStore for Fussy {
        async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
            self.0.put_opts(location, payload, opts).await
        }
        async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(at, opts).await
        }
        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            if matches!(options.range, Some(GetRange::Suffix(_))) {
                return Err(Error::NotSupported {
                    source: "suffix".into(),
                });
            }
            let is_replaced = options.head && location.as_ref() == "replaced";
            let result = self.0.get_opts(location, options).await;
            if is_replaced {
                // Somebody comes between: what the size was of is gone.
                self.0.put(location, PutPayload::from_static(b"another")).await?;
            }
            result
        }
        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(locations)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    async fn last(store: &WithSuffixRanges<Fussy>, name: &str, wanted: u64) -> Result<bytes::Bytes> {
        let options = GetOptions {
            range: Some(GetRange::Suffix(wanted)),
            ..GetOptions::default()
        };
        store.get_opts(&Path::from(name), options).await?.bytes().await
    }

    #[tokio::test]
    async fn the_end_of_an_object_is_read() {
        let store = WithSuffixRanges(Fussy(InMemory::new()));
        for (name, content) in [("a", "0123456789"), ("empty", ""), ("replaced", "0123456789")] {
            store.put(&Path::from(name), content.into()).await.unwrap();
        }
        assert_eq!(last(&store, "a", 3).await.unwrap(), "789");
        assert_eq!(last(&store, "a", 100).await.unwrap(), "0123456789");
        assert_eq!(last(&store, "empty", 3).await.unwrap(), "");
        assert!(matches!(last(&store, "absent", 3).await, Err(Error::NotFound { .. })));
        // Bytes of one content at the place of another's end are never given.
        let error = last(&store, "replaced", 3).await.unwrap_err();
        assert!(matches!(error, Error::Precondition { .. }), "{error}");
    }
}
