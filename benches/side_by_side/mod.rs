//! What the benchmarks beside other servers share: the servers, what their processes use, settings from the environment.

#![allow(dead_code, reason = "shared by several benchmarks, each of which uses a part of it")]

pub(crate) mod course;
pub(crate) mod measure;
pub(crate) mod servers;

use crate::harness::{Http, remote};
use std::time::Duration;

/// A setting of the environment.
pub(crate) fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// A number of the environment.
pub(crate) fn number(name: &str, default: usize) -> usize {
    let text = setting(name, &default.to_string());
    text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number"))
}

/// A whole number as the pages write it: 1,315,789.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 { format!("-{text}") } else { text }
}

/// The servers that `SERVERS` names, all if it is not set.
pub(crate) fn wanted_servers() -> Vec<&'static str> {
    let wanted = setting("SERVERS", &servers::NAMES.join(","));
    let names = servers::NAMES.into_iter().chain([servers::BEFORE]);
    names.filter(|n| wanted.split(',').any(|w| w.trim() == *n)).collect()
}

/// Writes a remote-write body, as often as the server asks for it.
pub(crate) async fn send(http: Http, body: Vec<u8>) {
    loop {
        match remote::send(&http, body.clone()).await {
            Ok((code, _)) if (200..300).contains(&code) => return,
            Ok((503 | 429, _)) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok((code, text)) => panic!("{}: {code} {text}", http.url("")),
        }
    }
}
