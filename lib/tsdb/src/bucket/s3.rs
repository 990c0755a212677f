//! Amazon S3, and servers that speak it: `s3://bucket/prefix`.

use super::profile::{KeysOfFile, Profile};
use super::wire::Wire;
use super::{Bucket, BucketError, Environment};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use std::sync::Arc;
use url::Url;

const DEFAULT_REGION: &str = "us-east-1";

/// Credentials, region and endpoint come from the usual `AWS_…` variables, or else from the shared files of Amazon's tools;
/// with `AWS_ENDPOINT_URL`, requests are path-style and plain HTTP is allowed for `http://`.
pub(super) fn open(text: &str, url: &Url, environment: &Environment) -> Result<Bucket, BucketError> {
    let wire = Wire::new(text, url, "AWS_", environment)?;
    let mut builder = AmazonS3Builder::new();
    for (key, value) in environment.keys::<AmazonS3ConfigKey>("AWS_") {
        builder = builder.with_config(key, value);
    }
    let profile = Profile::of(environment).map_err(|what| wire.setting(what))?;
    if let Some(keys) = &profile.keys {
        builder = builder.with_credentials(Arc::new(KeysOfFile(keys.clone())));
    }
    let region = environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
    let region = region.or_else(|| profile.get("region"));
    builder = builder
        .with_bucket_name(wire.host("bucket")?)
        .with_region(region.unwrap_or(DEFAULT_REGION))
        .with_retry(Wire::retries())
        .with_http_connector(wire.connector());
    for (key, limit) in wire.limits() {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), limit);
    }
    let endpoint = environment.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
    // The last is the client's own name for it.
    let of_profile = profile
        .get("endpoint_url")
        .filter(|_| environment.first(&["AWS_ENDPOINT"]).is_none());
    if let Some(endpoint) = endpoint.or(of_profile) {
        builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        if endpoint.starts_with("http://") {
            builder = builder.with_allow_http(true);
        }
    }
    wire.bucket(builder.build())
}
