//! Google Cloud Storage: `gs://bucket/prefix`.

use super::wire::Wire;
use super::{Bucket, BucketError, Environment};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use url::Url;

/// Where the credentials may be written down; without any, the machine's metadata server is asked for a token (which is
/// how workload identity works in a cluster).
const SERVICE_ACCOUNT_FILE: [&str; 3] = [
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "SERVICE_ACCOUNT",
];
const SERVICE_ACCOUNT_KEY: [&str; 1] = ["GOOGLE_SERVICE_ACCOUNT_KEY"];
/// `host:port` or a URL of an emulator, by the name that Google's own clients read. It takes no credentials.
const EMULATOR: [&str; 1] = ["STORAGE_EMULATOR_HOST"];

/// Credentials come from a service account (a file or its content), the application's default credentials, or the
/// machine.
pub(super) fn open(text: &str, url: &Url, environment: &Environment) -> Result<Bucket, BucketError> {
    let wire = Wire::new(text, url, "GOOGLE_", environment)?;
    if environment.first(&SERVICE_ACCOUNT_FILE).is_some() && environment.first(&SERVICE_ACCOUNT_KEY).is_some() {
        return Err(wire.setting(format!(
            "both {} and {} are set: unset one of them",
            SERVICE_ACCOUNT_FILE[0], SERVICE_ACCOUNT_KEY[0]
        )));
    }
    let mut builder = GoogleCloudStorageBuilder::new();
    if let Some(file) = environment.first(&["SERVICE_ACCOUNT"]) {
        builder = builder.with_service_account_path(file);
    }
    for (key, value) in environment.keys::<GoogleConfigKey>("GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    builder = builder
        .with_bucket_name(wire.host("bucket")?)
        .with_retry(Wire::retries())
        .with_http_connector(wire.connector());
    for (key, limit) in wire.limits() {
        builder = builder.with_config(GoogleConfigKey::Client(key), limit);
    }
    if let Some(emulator) = environment.first(&EMULATOR) {
        let Some(base) = emulator_url(emulator) else {
            return Err(wire.setting(format!("{}={emulator:?} is neither host:port nor a URL", EMULATOR[0])));
        };
        // The client asks for a token before each upload and delete even where it is told to sign nothing.
        builder = builder
            .with_base_url(&base)
            .with_bearer_token("")
            .with_config(GoogleConfigKey::SkipSignature, "true");
    }
    wire.bucket(builder.build())
}

fn emulator_url(text: &str) -> Option<String> {
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    Url::parse(&url).ok()?;
    Some(url.trim_end_matches('/').to_owned())
}
