//! Over real connections.

use super::pki::{Authority, Pair, replace};
use super::*;
use crate::http::{ConnectionLimits, Routes, serve};
use axum::Router;
use axum::routing::get;
use gnomon_model::{ManualClock, TimestampMs};
use reqwest::{Client, StatusCode, Version};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

/// A server with a folder of its own; ends when dropped.
struct Server {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    handshakes: HandshakeMetrics,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    ours: Authority,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const TLS: &str = "tls_server_config:\n  cert_file: node.pem\n  key_file: node.key\n";

impl Server {
    async fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ours = Authority::new("ours");
        ours.pair(&["127.0.0.1"]).write(folder.path());
        replace(&folder.path().join("ca.pem"), &ours.cert);
        let path = folder.path().join("web.yml");
        replace(&path, text);
        let clock = Arc::new(ManualClock::at(TimestampMs(0)));
        let registry = prometheus::Registry::new();
        let handshakes = HandshakeMetrics::register(&registry).unwrap();
        let web = Web::open(path, handshakes.clone(), &registry, clock.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let headers = || async { ([("X-XSS-Protection", "of the handler")], "hello") };
        let routes = Routes::new(
            Router::new()
                .route("/hello", get(|| async { "hello" }))
                .route("/own", get(headers)),
        );
        let limits = ConnectionLimits::new(Some(Duration::from_secs(300)), 512);
        tokio::spawn(serve(listener, routes, Some(web), limits, stop.clone()));
        Self {
            folder,
            clock,
            handshakes,
            address,
            stop,
            ours,
        }
    }

    fn turn(&self, text: &str) {
        replace(&self.folder.path().join("web.yml"), text);
        self.clock.advance(Duration::from_secs(2));
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/hello", self.address)
    }

    /// Of one that trusts our authority, and shows this certificate; each makes connections of its own.
    fn client(&self, shows: Option<&Pair>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.ours.cert)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shows {
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate(&pair.cert)], key)
                    .unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = Client::builder().tls_backend_preconfigured(config).no_proxy();
        client.timeout(Duration::from_secs(20)).build().unwrap()
    }

    async fn status(&self, scheme: &str, login: Option<(&str, &str)>) -> StatusCode {
        let mut request = self.client(None).get(self.url(scheme));
        if let Some((user, password)) = login {
            request = request.basic_auth(user, Some(password));
        }
        request.send().await.unwrap().status()
    }

    /// Whether a client with this certificate is answered.
    async fn takes(&self, shows: Option<&Pair>) -> bool {
        self.client(shows).get(self.url("https")).send().await.is_ok()
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn https_is_served_as_http_2_where_both_sides_can() {
    let server = Server::start(TLS).await;
    let answer = server.client(None).get(server.url("https")).send().await.unwrap();
    assert_eq!((answer.version(), answer.status()), (Version::HTTP_2, StatusCode::OK));
    let plain = server.client(None).get(server.url("http")).send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        plain.text().await.unwrap(),
        "Client sent an HTTP request to an HTTPS server.\n"
    );
    server.turn(&format!("{TLS}http_server_config:\n  http2: false\n"));
    let answer = server.client(None).get(server.url("https")).send().await.unwrap();
    assert_eq!((answer.version(), answer.status()), (Version::HTTP_11, StatusCode::OK));
    let strange = Server::start(TLS).await;
    let error = server.client(None).get(strange.url("https")).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
}

#[tokio::test]
async fn certificates_of_clients_are_looked_at_as_far_as_was_asked_for() {
    let server = Server::start(TLS).await;
    let theirs = Authority::new("theirs");
    let (good, expired) = (
        server.ours.pair(&["client.test"]),
        server.ours.expired(&["client.test"]),
    );
    let (other, strange) = (server.ours.pair(&["other.test"]), theirs.pair(&["client.test"]));
    let clients = [None, Some(&good), Some(&other), Some(&expired), Some(&strange)];
    let ca = "  client_ca_file: ca.pem\n";
    let sans = "  client_allowed_sans: [elsewhere.test, client.test]\n";
    // Each asks for as much as the one before: less would not be taken.
    for (how, with, taken) in [
        ("NoClientCert", "", [true; 5]),
        ("RequestClientCert", ca, [true; 5]),
        ("VerifyClientCertIfGiven", ca, [true, true, true, false, false]),
        ("RequireAnyClientCert", ca, [false, true, true, true, true]),
        ("RequireAndVerifyClientCert", ca, [false, true, true, false, false]),
        (
            "RequireAndVerifyClientCert",
            &format!("{ca}{sans}"),
            [false, true, false, false, false],
        ),
    ] {
        server.turn(&format!("{TLS}{with}  client_auth_type: {how}\n"));
        for (n, (client, expected)) in clients.iter().zip(taken).enumerate() {
            assert_eq!(server.takes(*client).await, expected, "{how} {with} client {n}");
        }
    }
}

#[tokio::test]
async fn the_names_of_clients_are_asked_for_until_a_restart() {
    let how = "  client_auth_type: RequireAnyClientCert\n";
    let sans = "  client_allowed_sans: [elsewhere.test, client.test]\n";
    let server = Server::start(&format!("{TLS}{sans}{how}")).await;
    let (good, other) = (server.ours.pair(&["client.test"]), server.ours.pair(&["other.test"]));
    let strange = Authority::new("theirs").pair(&["client.test"]);
    for text in [format!("{TLS}{sans}{how}"), format!("{TLS}{how}")] {
        server.turn(&text);
        assert!(server.takes(Some(&good)).await && server.takes(Some(&strange)).await);
        assert!(!server.takes(Some(&other)).await && !server.takes(None).await, "{text}");
    }
}

#[tokio::test]
async fn passwords_are_asked_for_everywhere_and_may_change() {
    let users = |name: &str| format!("basic_auth_users:\n  {name}: {}\n", hash());
    let server = Server::start(&users("alice")).await;
    let plain = Client::builder().no_proxy().build().unwrap();
    for path in ["hello", "-/healthy", "nowhere"] {
        let answer = plain
            .get(format!("http://{}/{path}", server.address))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()["WWW-Authenticate"], "Basic");
        assert_eq!(answer.text().await.unwrap(), "Unauthorized\n");
    }
    let (right, wrong) = (("alice", "wonder"), ("alice", "wander"));
    assert_eq!(server.status("http", Some(right)).await, StatusCode::OK);
    assert_eq!(server.status("http", Some(wrong)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(
        server.status("http", Some(("mallory", "wonder"))).await,
        StatusCode::UNAUTHORIZED
    );
    for odd in ["Bearer x", "Basic !", "Basic", "basic YWxpY2U="] {
        let asked = plain.get(server.url("http")).header("Authorization", odd);
        assert_eq!(asked.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{odd}");
    }
    server.turn(&users("bob"));
    assert_eq!(server.status("http", Some(right)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(server.status("http", Some(("bob", "wonder"))).await, StatusCode::OK);
    // What is broken changes nothing.
    server.turn("basic_auth_users:\n  bob: [\n");
    assert_eq!(server.status("http", None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(server.status("http", Some(("bob", "wonder"))).await, StatusCode::OK);
    // TLS may come.
    server.turn(&format!("{TLS}{}", users("bob")));
    assert_eq!(server.status("https", Some(("bob", "wonder"))).await, StatusCode::OK);
}

#[tokio::test]
async fn what_keeps_others_out_does_not_go_with_what_the_file_held() {
    let users = format!("basic_auth_users:\n  alice: {}\n", hash());
    let required = "  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n";
    let server = Server::start(&format!("{TLS}{required}{users}")).await;
    let ours = server.ours.pair(&["client.test"]);
    let strange = Authority::new("theirs").pair(&["client.test"]);
    let in_force = async |what: &str| {
        assert!(!server.takes(None).await, "{what}: a certificate is required");
        assert!(!server.takes(Some(&strange)).await, "{what}: and looked at");
        let client = server.client(Some(&ours));
        let answer = client.get(server.url("https")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{what}");
        let plain = client.get(server.url("http")).send().await;
        assert!(
            !plain.is_ok_and(|answer| answer.status().is_success()),
            "{what}: no plain text"
        );
    };
    in_force("at the start").await;
    for less in [
        String::new(),
        "# cleared\n".to_owned(),
        users.clone(),
        format!("{TLS}{required}"),
        format!("{TLS}{required}basic_auth_users: {{}}\n"),
        format!("{TLS}{users}"),
        format!("{TLS}{}{users}", required.replace("RequireAndVerify", "RequireAny")),
        format!(
            "{TLS}{}{users}",
            required.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven")
        ),
    ] {
        server.turn(&less);
        in_force(&less).await;
    }
    // Emptied in place, as an editor or `>` does it.
    std::fs::write(server.folder.path().join("web.yml"), "").unwrap();
    server.clock.advance(Duration::from_secs(2));
    in_force("truncated").await;
    // What is whole is taken again.
    server.turn(&format!("{TLS}{required}{}", users.replace("alice", "bob")));
    let request = server.client(Some(&ours)).get(server.url("https"));
    let answer = request.basic_auth("bob", Some("wonder")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_servers_certificate_may_change_and_a_broken_one_is_not_taken() {
    let server = Server::start(TLS).await;
    let kept = server.client(None);
    let ask = async || kept.get(server.url("https")).send().await.is_ok();
    assert!(ask().await);
    let folder = server.folder.path();
    server.ours.expired(&["127.0.0.1"]).write(folder);
    server.clock.advance(Duration::from_secs(2));
    assert!(!server.takes(None).await, "new connections are shown the new one");
    assert!(ask().await, "those that were made before go on");
    server.ours.pair(&["127.0.0.1"]).write(folder);
    server.clock.advance(Duration::from_secs(2));
    assert!(server.takes(None).await);
    replace(&folder.join("node.pem"), "-----BEGIN CERTIFICATE-----\n");
    server.clock.advance(Duration::from_secs(2));
    assert!(server.takes(None).await);
    // Here it was 1970 until now; in 2026 it is known that this one has expired.
    server.clock.advance(Duration::from_secs(1_790_000_000));
    server.ours.expired(&["127.0.0.1"]).write(folder);
    server.clock.advance(Duration::from_secs(2));
    assert!(server.takes(None).await);
    assert_eq!(server.handshakes.of("web", "failed"), 1);
}

#[tokio::test]
async fn headers_are_added_and_the_rate_is_kept() {
    let server = Server::start(
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: \"1\"\n\
         rate_limit: {interval: 1s, burst: 3}\n",
    )
    .await;
    let client = server.client(None);
    let answer = client.get(server.url("http")).send().await.unwrap();
    assert_eq!(
        (&answer.headers()["X-Frame-Options"], answer.status()),
        (&"deny".parse().unwrap(), StatusCode::OK)
    );
    let own = client
        .get(format!("http://{}/own", server.address))
        .send()
        .await
        .unwrap();
    assert_eq!(own.headers()["X-XSS-Protection"], "of the handler");
    assert_eq!(server.status("http", None).await, StatusCode::OK);
    let late = client.get(server.url("http")).send().await.unwrap();
    assert_eq!(late.headers()["X-Frame-Options"], "deny");
    assert_eq!(late.status(), StatusCode::TOO_MANY_REQUESTS);
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(server.status("http", None).await, StatusCode::OK);
    assert_eq!(server.status("http", None).await, StatusCode::TOO_MANY_REQUESTS);
}
