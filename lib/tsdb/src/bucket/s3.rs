//! Amazon S3, and servers that speak it: `s3://bucket/prefix`.

use super::wire::Wire;
use super::{Bucket, BucketError, Environment};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use url::Url;

const DEFAULT_REGION: &str = "us-east-1";

/// Credentials, region and endpoint come from the usual `AWS_…` variables; with `AWS_ENDPOINT_URL`, requests are
/// path-style and plain HTTP is allowed for `http://`.
pub(super) fn open(text: &str, url: &Url, environment: &Environment) -> Result<Bucket, BucketError> {
    let wire = Wire::new(text, url, "AWS_", environment)?;
    let mut builder = AmazonS3Builder::new();
    for (key, value) in environment.keys::<AmazonS3ConfigKey>("AWS_") {
        builder = builder.with_config(key, value);
    }
    let region = environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
    builder = builder
        .with_bucket_name(wire.host("bucket")?)
        .with_region(region.unwrap_or(DEFAULT_REGION))
        .with_retry(Wire::retries())
        .with_http_connector(wire.connector());
    for (key, limit) in wire.limits() {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), limit);
    }
    if let Some(endpoint) = environment.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]) {
        builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        if endpoint.starts_with("http://") {
            builder = builder.with_allow_http(true);
        }
    }
    wire.bucket(builder.build())
}
