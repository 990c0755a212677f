//! A stand-in of Google Cloud Storage, since no emulator that could be had speaks the XML API that the store's client uses:
//! Google offers none, `fake-gcs-server` 1.54 takes no upload by it, `gcp-storage-emulator` has neither listings, deletes nor
//! uploads in parts there.
//!
//! It is strict: who asks has to be who may (a token that the service account's key has signed, one of the metadata server,
//! or nobody where it stands for an emulator), and what it does not know is an error.

use super::Server;
use super::gcs_account::ServiceAccount;
use super::gcs_objects::{Answer, Objects, Request};
use super::weed::proxy::read_head;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The server's bucket.
pub const BUCKET: &str = "gnomon-test";
const TOKEN_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// How a program comes to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// By the key of a service account, in a file.
    ServiceAccount,
    /// By a token of the machine's metadata server, which this is too.
    Machine,
    /// Anybody is.
    Emulator,
}

struct Shared {
    told: Told,
    account: ServiceAccount,
    objects: Mutex<Objects>,
    tokens: Mutex<BTreeSet<String>>,
    refused: AtomicU64,
    is_stopped: AtomicBool,
    /// Those that are open, to be ended with it.
    connections: Mutex<Vec<TcpStream>>,
}

pub struct Gcs {
    shared: Arc<Shared>,
    port: u16,
    thread: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
}

impl Drop for Gcs {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Gcs {
    pub fn start(told: Told) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Shared {
            told,
            account: ServiceAccount::new("gnomon@test.iam.gserviceaccount.com"),
            objects: Mutex::default(),
            tokens: Mutex::default(),
            refused: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            connections: Mutex::default(),
        };
        let (shared, port) = (Arc::new(shared), listener.local_addr().unwrap().port());
        let folder = tempfile::tempdir().unwrap();
        let thread = Some(serve(shared.clone(), listener));
        Self {
            shared,
            port,
            thread,
            folder,
        }
    }

    /// Requests that came from nobody who may.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// A file of a key that the server does not know, of an account of the same name.
    pub fn environment_of_another_key(&self) -> Vec<(&'static str, String)> {
        let another = ServiceAccount::new("gnomon@test.iam.gserviceaccount.com");
        let file = self.folder.path().join("another.json");
        std::fs::write(&file, another.file(&self.endpoint())).unwrap();
        vec![("GOOGLE_SERVICE_ACCOUNT", file.display().to_string())]
    }
}

impl Server for Gcs {
    fn url(&self) -> String {
        format!("gs://{BUCKET}")
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn environment_at(&self, endpoint: &str) -> Vec<(&'static str, String)> {
        // No credentials of whoever runs the tests.
        let home = ("HOME", self.folder.path().display().to_string());
        match self.shared.told {
            Told::ServiceAccount => {
                let file = self.folder.path().join("account.json");
                std::fs::write(&file, self.shared.account.file(&self.endpoint())).unwrap();
                let mut all = vec![home, ("GOOGLE_SERVICE_ACCOUNT", file.display().to_string())];
                if endpoint != self.endpoint() {
                    all.push(("GOOGLE_BASE_URL", endpoint.into()));
                }
                all
            }
            Told::Machine => vec![
                home,
                ("GOOGLE_BASE_URL", endpoint.into()),
                ("GCE_METADATA_HOST", format!("127.0.0.1:{}", self.port)),
            ],
            Told::Emulator => {
                let host = endpoint.strip_prefix("http://").unwrap_or(endpoint);
                vec![home, ("STORAGE_EMULATOR_HOST", host.into())]
            }
        }
    }

    fn read_timeout(&self) -> &'static str {
        "GOOGLE_READ_TIMEOUT"
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        // The listener hears of it with the next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = thread.join();
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn start_again(&mut self) {
        self.shared.is_stopped.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        self.thread = Some(serve(self.shared.clone(), listener));
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        self.shared.objects.lock().unwrap().keys(prefix)
    }
}

fn serve(shared: Arc<Shared>, listener: TcpListener) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for client in listener.incoming() {
            if shared.is_stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            if let Ok(same) = client.try_clone() {
                shared.connections.lock().unwrap().push(same);
            }
            let shared = shared.clone();
            std::thread::spawn(move || while shared.exchange(&client).is_some() {});
        }
    })
}

impl Shared {
    /// One request and its answer; none where the connection is not to go on.
    fn exchange(&self, mut client: &TcpStream) -> Option<()> {
        let _ = client.set_read_timeout(Some(Duration::from_secs(60)));
        let (head, mut body) = read_head(client)?;
        let mut lines = head.lines();
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length: Option<usize> = headers.get("content-length").and_then(|text| text.parse().ok());
        let mut rest = vec![0; length.unwrap_or(0).saturating_sub(body.len())];
        client.read_exact(&mut rest).ok()?;
        body.extend_from_slice(&rest);
        let (is_head, is_last) = (
            method == "HEAD",
            headers.get("connection").is_some_and(|text| text == "close"),
        );
        let needs_length = matches!(method.as_str(), "PUT" | "POST") && length.is_none();
        let answer = match needs_length {
            true => Answer::error(
                411,
                "MissingContentLength",
                "You must provide the Content-Length HTTP header.",
            ),
            false => self.answer(method, &target, headers, body),
        };
        let mut text = format!(
            "HTTP/1.1 {} stand-in\r\nContent-Length: {}\r\n",
            answer.status,
            answer.body.len()
        );
        for (name, value) in &answer.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if !is_head {
            bytes.extend_from_slice(&answer.body);
        }
        client.write_all(&bytes).ok()?;
        if is_last {
            let _ = client.shutdown(Shutdown::Both);
            return None;
        }
        Some(())
    }

    fn answer(&self, method: String, target: &str, headers: BTreeMap<String, String>, body: Vec<u8>) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path == TOKEN_PATH && self.told == Told::Machine {
            return self.token(&headers);
        }
        if let Err(why) = self.authorize(headers.get("authorization").map(String::as_str)) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Answer::error(401, "AuthenticationRequired", &why);
        }
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if decoded(bucket) != BUCKET {
            return Answer::error(404, "NoSuchBucket", "The specified bucket does not exist.");
        }
        let parameters = query.split('&').filter(|text| !text.is_empty());
        let query = parameters.map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (decoded(name), decoded(&value.replace('+', " ")))
        });
        let request = Request {
            method,
            key: decoded(key),
            query: query.collect(),
            headers,
            body,
        };
        self.objects.lock().unwrap().answer(request)
    }

    /// As the metadata server of a machine at Google's answers.
    fn token(&self, headers: &BTreeMap<String, String>) -> Answer {
        if headers.get("metadata-flavor").map(String::as_str) != Some("Google") {
            return Answer::error(403, "Forbidden", "Metadata-Flavor: Google is missing");
        }
        let mut tokens = self.tokens.lock().unwrap();
        let token = format!("machine-token-{}", tokens.len() + 1);
        tokens.insert(token.clone());
        let document = serde_json::json!({"access_token": token, "expires_in": 3600, "token_type": "Bearer"});
        let mut answer = Answer::new(200, document.to_string());
        answer.headers.push(("Content-Type", "application/json".into()));
        answer
    }

    fn authorize(&self, header: Option<&str>) -> Result<(), String> {
        let token = header.map(|text| text.strip_prefix("Bearer").map_or(text, str::trim));
        match (self.told, token) {
            (Told::Emulator, None | Some("")) => Ok(()),
            (Told::Emulator, Some(_)) => Err("credentials that are nobody's business".into()),
            (Told::ServiceAccount, Some(token)) => self.account.verify(token),
            (Told::Machine, Some(token)) if self.tokens.lock().unwrap().contains(token) => Ok(()),
            (_, token) => Err(format!("{token:?} is no token")),
        }
    }
}

/// What percent-encoded text stands for.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [byte, after @ ..] = rest {
        let code = (*byte == b'%' && after.len() >= 2)
            .then(|| std::str::from_utf8(&after[..2]).ok())
            .flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
