//! The shared files of Amazon's command line and SDKs, `~/.aws/credentials` and `~/.aws/config`: one key for each profile.
//!
//! What else a profile may say (to take on a role, to run a process, to sign on in a browser) is not done; who names such a
//! profile is told so. Format: <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>.

use super::Environment;
use async_trait::async_trait;
use gnomon_model::{Clock, SystemClock};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// After which a key is read again: who renews the file with temporary keys need not restart anything.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// A request waits for that no longer than this, and goes on with the key that is known.
const READ_WITHIN: Duration = Duration::from_secs(1);
const DEFAULT_PROFILE: &str = "default";
/// Settings of a profile that name another way to a key: none of these is gone.
const OTHER_WAYS: [&str; 6] = [
    "role_arn",
    "credential_process",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
    "login_session",
];
/// Either of these comes before any file; all of its names have to be set.
const COMES_BEFORE: [&[&str]; 4] = [
    &["AWS_ACCESS_KEY_ID"],
    &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"],
    &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
    &[
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ],
];

/// What a profile says, of both files.
#[derive(Default)]
pub(super) struct Profile {
    settings: BTreeMap<String, String>,
    /// Where a key is. `None`: the environment has one, or the machine has to have a role.
    pub(super) keys: Option<Arc<KeysOfProfile>>,
}

/// Without what may be secret.
impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.settings.keys().collect();
        f.debug_struct("Profile")
            .field("settings", &names)
            .field("keys", &self.keys)
            .finish()
    }
}

impl Profile {
    /// What cannot be read, or has a key that cannot be used, is an error where the profile was asked for by name and nothing
    /// else has a key; else it is as if there were none, with a word in the log. One without any leaves it to the machine.
    pub(super) fn of(environment: &Environment) -> Result<Self, String> {
        Self::by(&SystemClock::shared(), environment)
    }

    fn by(clock: &Arc<dyn Clock>, environment: &Environment) -> Result<Self, String> {
        let named = environment.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]);
        let unsigned = environment
            .first(&["AWS_SKIP_SIGNATURE"])
            .unwrap_or_default()
            .to_ascii_lowercase();
        let has_key = COMES_BEFORE
            .iter()
            .any(|names| names.iter().all(|name| environment.first(&[name]).is_some()));
        let needs_key = !has_key && !matches!(&unsigned[..], "true" | "1" | "yes" | "on" | "y");
        match Self::read(clock, environment, named, needs_key) {
            Err(error) if named.is_some() && needs_key => Err(error),
            Err(error) => {
                tracing::warn!(%error, "no profile of Amazon's tools is used");
                Ok(Self::default())
            }
            read => read,
        }
    }

    fn read(
        clock: &Arc<dyn Clock>,
        environment: &Environment,
        named: Option<&str>,
        needs_key: bool,
    ) -> Result<Self, String> {
        let files = Files::of(environment);
        let profile = named.unwrap_or(DEFAULT_PROFILE);
        let Some(settings) = files.read(profile)? else {
            return match named {
                Some(name) => Err(format!(
                    "AWS_PROFILE={name}: there is no such profile in {}",
                    files.names()
                )),
                None => Ok(Self::default()),
            };
        };
        let mut keys = None;
        if needs_key {
            let key = key_of(&settings).map_err(|what| format!("profile {profile} in {}: {what}", files.names()))?;
            if let Some(key) = key {
                tracing::info!(
                    profile,
                    files = files.names(),
                    "the object store's key is this profile's"
                );
                keys = Some(Arc::new(KeysOfProfile::new(
                    clock.clone(),
                    files,
                    profile.to_owned(),
                    key,
                )));
            }
        }
        Ok(Self { settings, keys })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.settings.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }
}

/// The two files, of which either may be absent.
#[derive(Clone, Debug)]
struct Files {
    config: Option<PathBuf>,
    credentials: Option<PathBuf>,
}

impl Files {
    fn of(environment: &Environment) -> Self {
        let home = environment.first(&["HOME", "USERPROFILE"]).map(Path::new);
        let file = |variable, name| {
            let named = environment.first(&[variable]).map(PathBuf::from);
            named.or_else(|| Some(home?.join(".aws").join(name)))
        };
        Self {
            config: file("AWS_CONFIG_FILE", "config"),
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        }
    }

    /// What both say of the profile; the file of credentials goes before the other.
    fn read(&self, profile: &str) -> Result<Option<BTreeMap<String, String>>, String> {
        let in_config = match profile {
            DEFAULT_PROFILE => vec![DEFAULT_PROFILE.to_owned(), format!("profile {DEFAULT_PROFILE}")],
            _ => vec![format!("profile {profile}")],
        };
        let mut all: Option<BTreeMap<String, String>> = None;
        for (file, sections) in [(&self.config, in_config), (&self.credentials, vec![profile.to_owned()])] {
            let Some(file) = file else { continue };
            let text = match std::fs::read_to_string(file) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("{}: {error}", file.display())),
            };
            let text = text.trim_start_matches('\u{feff}');
            for settings in sections.iter().filter_map(|section| settings_of(text, section)) {
                all.get_or_insert_default().extend(settings);
            }
        }
        Ok(all)
    }

    fn names(&self) -> String {
        let files = [&self.credentials, &self.config].into_iter().flatten();
        let names: Vec<_> = files.map(|file| file.display().to_string()).collect();
        names.join(" or ")
    }
}

/// The lines of one section; `None` without the section. Settings within settings (lines that are indented, below
/// one without a value) are left out.
fn settings_of(text: &str, section: &str) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    // Whether the section is the one, and the setting before has none of its own.
    let (mut is_in, mut is_within) = (false, false);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = trimmed.strip_prefix('[') {
            let name = header.split(']').next().unwrap_or_default();
            let words: Vec<_> = name.split_whitespace().collect();
            is_in = words.join(" ") == section;
            is_within = false;
            if is_in {
                found.get_or_insert_with(BTreeMap::new);
            }
            continue;
        }
        let is_indented = line.starts_with([' ', '\t']);
        let (true, Some((key, value))) = (is_in && !(is_indented && is_within), trimmed.split_once('=')) else {
            continue;
        };
        // What follows a blank and a sign of comments is one.
        let end = [" #", " ;", "\t#", "\t;"]
            .iter()
            .filter_map(|sign| value.find(sign))
            .min();
        let value = value[..end.unwrap_or(value.len())].trim();
        is_within = value.is_empty();
        found
            .get_or_insert_with(BTreeMap::new)
            .insert(key.trim().to_ascii_lowercase(), value.to_owned());
    }
    found
}

/// The key that a profile has; none is none. Half of one is an error, and so is another way to one, which others would go
/// first.
fn key_of(settings: &BTreeMap<String, String>) -> Result<Option<AwsCredential>, String> {
    let get = |name: &str| settings.get(name).filter(|value| !value.is_empty()).cloned();
    if let Some(way) = OTHER_WAYS.into_iter().find(|way| get(way).is_some()) {
        return Err(format!(
            "{way} is not understood: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`aws configure export-credentials \
             --format env` prints them), or name another profile by AWS_PROFILE"
        ));
    }
    match (get("aws_access_key_id"), get("aws_secret_access_key")) {
        (Some(key_id), Some(secret_key)) => Ok(Some(AwsCredential {
            key_id,
            secret_key,
            token: get("aws_session_token"),
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err("aws_access_key_id without aws_secret_access_key".to_owned()),
        (None, Some(_)) => Err("aws_secret_access_key without aws_access_key_id".to_owned()),
    }
}

/// The key of a profile as its file has it; the last one that was there while it has none.
pub(super) struct KeysOfProfile {
    clock: Arc<dyn Clock>,
    files: Files,
    profile: String,
    known: Mutex<Known>,
}

struct Known {
    key: Arc<AwsCredential>,
    /// Monotonic.
    read_at: Duration,
}

impl std::fmt::Debug for KeysOfProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeysOfProfile").field(&self.profile).finish()
    }
}

impl KeysOfProfile {
    fn new(clock: Arc<dyn Clock>, files: Files, profile: String, key: AwsCredential) -> Self {
        let known = Known {
            key: Arc::new(key),
            read_at: clock.monotonic(),
        };
        Self {
            clock,
            files,
            profile,
            known: Mutex::new(known),
        }
    }

    /// What is known, and whether it is for the caller to read it again.
    fn key(&self) -> (Arc<AwsCredential>, bool) {
        let now = self.clock.monotonic();
        let mut known = self.known.lock();
        let is_due = now.saturating_sub(known.read_at) >= READ_AGAIN_AFTER;
        if is_due {
            known.read_at = now;
        }
        (known.key.clone(), is_due)
    }

    /// Blocks for as long as the files' folder does.
    fn read_again(&self) {
        let settings = self.files.read(&self.profile);
        let settings = settings.and_then(|read| read.ok_or_else(|| "the profile is gone".to_owned()));
        let key = settings.and_then(|settings| key_of(&settings)?.ok_or_else(|| "it has no key any more".to_owned()));
        match key {
            Ok(key) => {
                let mut known = self.known.lock();
                if key != *known.key {
                    tracing::info!(profile = self.profile, "the object store's key was changed in its file");
                    known.key = Arc::new(key);
                }
            }
            Err(error) => {
                tracing::warn!(profile = self.profile, files = self.files.names(), %error, "the key as it was is used");
            }
        }
    }
}

/// One for as long as the store is open.
#[derive(Debug)]
pub(super) struct KeysOfFile(pub(super) Arc<KeysOfProfile>);

#[async_trait]
impl CredentialProvider for KeysOfFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let (key, is_due) = self.0.key();
        if !is_due {
            return Ok(key);
        }
        let keys = self.0.clone();
        let read = tokio::task::spawn_blocking(move || keys.read_again());
        // The folder may be one that hangs.
        let _ = tokio::time::timeout(READ_WITHIN, read).await;
        Ok(self.0.key().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{ManualClock, TimestampMs};

    const CREDENTIALS: &str = "\
# the first\n[default]\naws_access_key_id = AKIA1\naws_secret_access_key=s/1+=\n\n[ other ]\r\nAWS_ACCESS_KEY_ID = AKIA2 # mine\r
  aws_secret_access_key = s2\naws_session_token = t2\ns3 =\n  max_concurrent_requests = 20\n[half]\naws_access_key_id = AKIA3\n";
    const CONFIG: &str = "\
[default]\nregion = eu-west-1\n[profile other]\nregion = eu-north-1\nendpoint_url = http://127.0.0.1:8333\n
[profile role]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n[profile bare]\nregion = us-west-2\n";

    struct Rig(tempfile::TempDir, Arc<ManualClock>);

    impl Rig {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::at(TimestampMs(0)));
            let rig = Self(tempfile::tempdir().unwrap(), clock);
            std::fs::create_dir(rig.0.path().join(".aws")).unwrap();
            rig.write("credentials", CREDENTIALS);
            rig.write("config", CONFIG);
            rig
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join(".aws").join(name), text).unwrap();
        }

        fn profile(&self, more: &[(&str, &str)]) -> Result<Profile, String> {
            let home = self.0.path().to_str().unwrap();
            let pairs: Vec<_> = [("HOME", home)].into_iter().chain(more.iter().copied()).collect();
            let clock: Arc<dyn Clock> = self.1.clone();
            Profile::by(&clock, &Environment::of(&pairs))
        }
    }

    fn key(profile: &Profile) -> Option<(String, String, Option<String>)> {
        let (key, _) = profile.keys.as_ref()?.key();
        Some((key.key_id.clone(), key.secret_key.clone(), key.token.clone()))
    }

    fn of(id: &str, secret: &str, token: Option<&str>) -> Option<(String, String, Option<String>)> {
        Some((id.into(), secret.into(), token.map(Into::into)))
    }

    #[test]
    fn a_profile_is_read_from_both_files() {
        let rig = Rig::new();
        let default = rig.profile(&[]).unwrap();
        assert_eq!(key(&default), of("AKIA1", "s/1+=", None));
        assert_eq!(default.get("region"), Some("eu-west-1"));
        let other = rig.profile(&[("AWS_PROFILE", "other")]).unwrap();
        assert_eq!(key(&other), of("AKIA2", "s2", Some("t2")));
        assert_eq!(other.get("region"), Some("eu-north-1"));
        assert_eq!(other.get("endpoint_url"), Some("http://127.0.0.1:8333"));
        assert_eq!(other.get("max_concurrent_requests"), None);
        // A profile without a key is as good as none; the environment's key goes before any.
        let bare = rig.profile(&[("AWS_PROFILE", "bare")]).unwrap();
        assert_eq!((key(&bare), bare.get("region")), (None, Some("us-west-2")));
        let named = rig.profile(&[("AWS_ACCESS_KEY_ID", "A")]).unwrap();
        assert_eq!((key(&named), named.get("region")), (None, Some("eu-west-1")));
        for (name, file) in [("AWS_PROFILE", "role"), ("AWS_PROFILE", "half")] {
            assert!(
                rig.profile(&[
                    ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"),
                    ("AWS_ROLE_ARN", "r"),
                    (name, file)
                ])
                .is_ok()
            );
        }
        // Elsewhere there is nothing.
        let elsewhere = [
            ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/a"),
            ("AWS_CONFIG_FILE", "/nowhere/b"),
        ];
        let none = rig.profile(&elsewhere).unwrap();
        assert!(none.keys.is_none() && none.settings.is_empty());
        // What nobody asked for by name stands in nobody's way.
        rig.write("config", "[default]\nregion =\nsso_session = work\n");
        assert_eq!(key(&rig.profile(&[]).unwrap()), None);
        rig.write("credentials", "[default]\naws_access_key_id = AKIA3\n");
        assert_eq!(key(&rig.profile(&[]).unwrap()), None);
        std::fs::remove_file(rig.0.path().join(".aws/credentials")).unwrap();
        std::fs::create_dir(rig.0.path().join(".aws/credentials")).unwrap();
        assert_eq!(key(&rig.profile(&[]).unwrap()), None);
    }

    #[test]
    fn what_is_wrong_with_a_profile_is_said() {
        let rig = Rig::new();
        for (name, part) in [
            ("none", "AWS_PROFILE=none: there is no such profile in "),
            ("half", "aws_access_key_id without aws_secret_access_key"),
            ("role", "role_arn is not understood: set AWS_ACCESS_KEY_ID"),
        ] {
            let error = rig.profile(&[("AWS_PROFILE", name)]).unwrap_err();
            assert!(error.contains(part) && error.contains(".aws/credentials"), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_renewed_in_its_file_is_used() {
        let rig = Rig::new();
        let keys = rig.profile(&[]).unwrap().keys.unwrap();
        let id = |after: Duration| {
            rig.1.advance(after);
            let (key, is_due) = keys.key();
            if is_due {
                keys.read_again();
            }
            key.key_id.clone()
        };
        rig.write("credentials", &CREDENTIALS.replace("AKIA1", "AKIA9"));
        assert_eq!(id(Duration::ZERO), "AKIA1");
        assert_eq!(id(READ_AGAIN_AFTER), "AKIA1", "while it is read");
        assert_eq!(id(Duration::ZERO), "AKIA9");
        // Half of a file, while it is written.
        rig.write("credentials", "[default]\naws_access_key_id = AKIA8\n");
        assert_eq!(id(READ_AGAIN_AFTER), "AKIA9");
        assert_eq!(id(Duration::ZERO), "AKIA9");
    }
}
