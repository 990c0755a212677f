//! The web configuration: what is taken, what is refused and how it says so, and that it does what it says over real
//! connections.

#[path = "../../lib/cluster/src/tls/tests/pki.rs"]
mod pki;
mod serving;

use super::*;
use config::ClientAuth;
use std::path::Path;
use std::time::Duration;

fn parse(text: &str) -> Result<WebConfig, String> {
    WebConfig::parse(text, Path::new("/etc/gnomon/web.yml")).map_err(|error| error.to_string())
}

/// Of the password `wonder`.
fn hash() -> String {
    bcrypt::hash_with_salt("wonder", 4, [7; 16]).unwrap().to_string()
}

#[test]
fn what_asks_for_nothing_gives_nothing() {
    for text in [
        "",
        "{}\n",
        "# nothing\n",
        "tls_server_config: {}\nbasic_auth_users: {}\n",
        "tls_server_config:\nbasic_auth_users:\nhttp_server_config:\n  http2: false\n",
        "tls_server_config: {cert_file: , min_version: TLS13}\n",
        "rate_limit: {interval: 0, burst: 0}\nhttp_server_config: {headers: {X-XSS-Protection: }}\n",
    ] {
        let config = parse(text).unwrap();
        let is_empty = config.tls.is_none() && config.users.is_empty() && config.headers.is_empty();
        assert!(
            is_empty && config.rate.is_none() && config.warnings.is_empty(),
            "{text}"
        );
    }
}

#[test]
fn everything_there_is_to_say_is_understood() {
    let text = format!(
        "tls_server_config:
  cert: |
    pem
  key_file: node.key
  client_ca_file: /ca.pem
  client_auth_type: RequireAndVerifyClientCert
  client_allowed_sans: [a.test, 10.0.0.1]
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]
  prefer_server_cipher_suites: false
  curve_preferences: [CurveP256, CurveP521]
  min_version: TLS10
  max_version: TLS13
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    Strict-Transport-Security: max-age=31536000
basic_auth_users:
  alice: {}
rate_limit:
  interval: 1m1.5s
  burst: 20
",
        hash()
    );
    let config = parse(&text).unwrap();
    let tls = config.tls.unwrap();
    assert!(matches!(tls.cert.pem, config::Pem::Inline(_)));
    assert!(matches!(&tls.key.pem, config::Pem::File(path) if path == Path::new("/etc/gnomon/node.key")));
    assert!(matches!(&tls.client_ca.unwrap().pem, config::Pem::File(path) if path == Path::new("/ca.pem")));
    assert_eq!(tls.client_auth, ClientAuth::RequireAndVerify);
    assert_eq!(tls.allowed_sans.unwrap(), ["a.test", "10.0.0.1"]);
    // All three of TLS 1.3, which cannot be chosen, and the one that can be.
    assert_eq!(tls.suites.len(), 4);
    assert!(tls.curves.len() == 1 && !tls.prefer_server_suites && tls.versions.len() == 2);
    assert!(!config.http2 && config.headers.len() == 2 && config.users.len() == 1);
    let rate = config.rate.unwrap();
    assert_eq!((rate.interval, rate.burst), (Duration::from_millis(61_500), 20));
    let warned = config.warnings.join("\n");
    for part in [
        "min_version",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA is left out",
        "CurveP521",
    ] {
        assert!(warned.contains(part), "{warned}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let cases = [
        ("tls_config: {}\n", "1:1: tls_config: unknown field \"tls_config\""),
        ("[]", "1:1: a map belongs here"),
        (
            "http_server_config: {http2: maybe}",
            "1:29: http_server_config.http2: \"maybe\" is neither",
        ),
        (
            "tls_server_config:\n  cert_file: x\n",
            "2:3: tls_server_config: key_file (or key) is missing",
        ),
        (
            "tls_server_config:\n  key_file: x\n",
            "2:3: tls_server_config: cert_file (or cert) is missing",
        ),
        (
            "tls_server_config: {client_auth_type: NoClientCert}\n",
            "1:20: tls_server_config: cert_file (or cert) is missing",
        ),
        (
            "tls_server_config:\n  cert_file: x\n  cert: y\n  key: z\n",
            "2:14: tls_server_config.cert_file: cert is set too",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_auth_type: Sometimes\n",
            "4:21: tls_server_config.client_auth_type: \"Sometimes\" is none of NoClientCert",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_ca: z\n",
            "4:3: tls_server_config.client_ca: has no meaning without client_auth_type",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_auth_type: RequireAndVerifyClientCert\n",
            "4:3: tls_server_config.client_auth_type: needs client_ca_file",
        ),
        (
            "tls_server_config:\n  cert: x\n  key: y\n  client_allowed_sans: [a]\n  client_auth_type: RequestClientCert\n",
            "4:3: tls_server_config.client_allowed_sans: needs client_auth_type",
        ),
        (
            "tls_server_config: {min_version: SSL3}",
            "1:34: tls_server_config.min_version: \"SSL3\" is none of TLS10",
        ),
        (
            "tls_server_config: {max_version: TLS11}",
            "1:21: tls_server_config.max_version: min_version and max_version leave",
        ),
        (
            "tls_server_config:\n  cipher_suites:\n  - ROT13\n",
            "3:5: tls_server_config.cipher_suites[0]: unknown cipher suite \"ROT13\"",
        ),
        (
            "tls_server_config: {curve_preferences: [Circle]}",
            "1:41: tls_server_config.curve_preferences[0]: \"Circle\" is none of",
        ),
        (
            "http_server_config:\n  headers:\n    X-Own: 1\n",
            "3:12: http_server_config.headers.X-Own: \"X-Own\" cannot be set: Strict-Transport-Security",
        ),
        (
            "http_server_config:\n  headers:\n    X-Frame-Options: maybe\n",
            "3:22: http_server_config.headers.X-Frame-Options: \"maybe\" is not deny or sameorigin",
        ),
        (
            "basic_auth_users:\n  alice: secret\n",
            "2:10: basic_auth_users: not a bcrypt hash",
        ),
        (
            "basic_auth_users:\n  alice: [x]\n",
            "2:10: basic_auth_users: a bcrypt hash belongs here",
        ),
        (
            "rate_limit: {interval: soon, burst: 1}",
            "1:24: rate_limit.interval: \"soon\" is no duration",
        ),
        ("rate_limit: {interval: 1s}", "1:13: rate_limit: must be 1 or more"),
    ];
    for (text, message) in cases {
        let error = parse(text).unwrap_err();
        let expected = format!("/etc/gnomon/web.yml:{message}");
        assert!(error.starts_with(&expected), "{text}\n{error}\n{expected}");
        assert!(!error.contains("alice") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn files_that_it_names_are_read_and_named_where_they_are_not_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.yml");
    let authority = pki::Authority::new("ours");
    authority.pair(&["a.test"]).write(folder.path());
    let checked = |text: &str| {
        std::fs::write(&path, text).unwrap();
        check(&path).map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
    };
    let good = "tls_server_config:\n  cert_file: node.pem\n  key_file: node.key\n";
    assert_eq!(checked(good).unwrap().0, "TLS, 0 users");
    assert_eq!(checked("").unwrap().0, "plain text, 0 users");
    assert!(checked(good).unwrap().1.is_empty());
    authority.expired(&["a.test"]).write(folder.path());
    let (_, warnings) = checked(good).unwrap();
    let is_told = warnings
        .iter()
        .any(|warning| warning.ends_with("node.pem: the certificate expired on 2002-01-01 00:00 UTC"));
    assert!(is_told, "{warnings:?}");
    authority.pair(&["a.test"]).write(folder.path());
    let gone = checked(&good.replace("node.key", "gone.key")).unwrap_err();
    assert_eq!(
        gone,
        "/web.yml:3:13: tls_server_config.key_file: /gone.key: there is no such file"
    );
    let swapped = checked("tls_server_config:\n  cert_file: node.key\n  key_file: node.pem\n").unwrap_err();
    assert!(
        swapped.starts_with("/web.yml:2:14: tls_server_config.cert_file: /node.key: holds no PEM"),
        "{swapped}"
    );
    let other = authority.pair(&["a.test"]);
    pki::replace(&folder.path().join("node.key"), &other.key);
    let unfit = checked(good).unwrap_err();
    assert!(
        unfit.contains("node.pem and ") && unfit.contains("cannot be used together"),
        "{unfit}"
    );
    let none = check(Path::new("/nonexistent/web.yml")).unwrap_err().to_string();
    assert_eq!(none, "/nonexistent/web.yml: there is no such file");
}

#[test]
fn a_file_that_asks_less_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.yml");
    pki::Authority::new("ours").pair(&["a.test"]).write(folder.path());
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Current::read(&path, &mut Files::default()).unwrap()
    };
    let now = gnomon_model::TimestampMs(1_790_000_000_000);
    let tls = "tls_server_config:\n  cert_file: node.pem\n  key_file: node.key\n";
    let (users, any) = (
        format!("basic_auth_users:\n  alice: {}\n", hash()),
        format!("{tls}  client_auth_type: RequireAnyClientCert\n"),
    );
    for (before, after, part) in [
        (tls, "", "TLS is in force"),
        (&*users, "{}", "passwords are asked for"),
        (&*any, tls, "client_auth_type asks less"),
    ] {
        let refused = read(after)
            .in_place_of(Some(&read(before)), &path, now)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(part) && refused.contains("web.yml: ") && refused.contains("restart"),
            "{refused}"
        );
        assert!(
            read(before).in_place_of(Some(&read(after)), &path, now).is_ok(),
            "more is asked"
        );
        assert!(read(after).in_place_of(None, &path, now).is_ok(), "at the start");
    }
}

#[test]
fn names_in_certificates_are_found_and_damage_is_no_panic() {
    use rcgen::SanType;
    let authority = pki::Authority::new("ours");
    let sans = vec![
        SanType::DnsName("a.test".try_into().unwrap()),
        SanType::Rfc822Name("a@b.test".try_into().unwrap()),
        SanType::URI("spiffe://c.test/x".try_into().unwrap()),
        SanType::IpAddress([10, 0, 0, 1].into()),
        SanType::IpAddress("fd00::1".parse().unwrap()),
    ];
    let pem = authority.with_sans(sans).cert;
    let der = gnomon_cluster::tls::certificates(pem.as_bytes(), "test").unwrap()[0].to_vec();
    let names = san::names(&der).unwrap();
    assert_eq!(
        names,
        ["a.test", "a@b.test", "spiffe://c.test/x", "10.0.0.1", "fd00::1"]
    );
    for length in 0..der.len() {
        assert_eq!(san::names(&der[..length]), None);
    }
    for at in 0..der.len() {
        for value in [0, 0x80, 0x84, 0xff] {
            let mut damaged = der.clone();
            damaged[at] = value;
            let _ = san::names(&damaged);
        }
    }
}

#[test]
fn tokens_come_back_at_their_rate() {
    use config::Rate;
    let mut tokens = limit::Tokens::default();
    let rate = Rate {
        interval: Duration::from_millis(100),
        burst: 2,
    };
    let at = |ms| Duration::from_millis(ms);
    let taken = [
        (0, true),
        (0, true),
        (0, false),
        (99, false),
        (100, true),
        (150, false),
        (10_000, true),
    ];
    for (ms, is_there) in taken {
        assert_eq!(tokens.take(rate, at(ms)), is_there, "at {ms}");
    }
    assert!(
        tokens.take(rate, at(10_000)) && !tokens.take(rate, at(10_000)),
        "two at most"
    );
    assert!(
        tokens.take(Rate { burst: 1, ..rate }, at(10_000)),
        "another rate begins anew"
    );
}
