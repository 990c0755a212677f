//! The files below `deploy/` say what this build understands.

use super::{Command, flags, parse};
use crate::config::load;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// `NAME=value` as the flag that it stands for; none for names that are not ours.
fn flag_of(name: &str, value: &str) -> Option<String> {
    if !name.starts_with("GNOMON_") {
        assert!(name.starts_with("AWS_"), "{name}");
        return None;
    }
    let flag = flags().iter().find(|flag| flag.environment == Some(name));
    let flag = flag.unwrap_or_else(|| panic!("{name} is no flag's variable"));
    Some(format!("--{}={value}", flag.name))
}

/// The command line is one of a node that starts; its role.
fn starts(args: Vec<String>) -> String {
    let parsed = parse(std::iter::once("gnomon".to_owned()).chain(args.iter().cloned()));
    let parsed = parsed.unwrap_or_else(|e| panic!("{args:?}: {e}"));
    assert_eq!(parsed.without_effect, [], "{args:?}");
    match parsed.command {
        Command::Run(settings) => settings.roles.names().join(","),
        other => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn the_compose_file_starts_the_cluster_that_it_says() {
    let compose: Value = serde_saphyr::from_str(&text("compose/compose.yaml")).unwrap();
    let services = compose["services"].as_object().unwrap();
    let mut roles = Vec::new();
    for (name, service) in services {
        if service["image"] != "gnomon" {
            continue;
        }
        assert_eq!(service["hostname"], name.as_str());
        let mut args: Vec<String> = service["command"]
            .as_array()
            .unwrap_or_else(|| panic!("{name} has no command"))
            .iter()
            .map(|arg| arg.as_str().unwrap().to_owned())
            .collect();
        let environment = service["environment"].as_object().unwrap();
        args.extend(environment.iter().filter_map(|(k, v)| flag_of(k, v.as_str().unwrap())));
        roles.push(starts(args));
        let volumes = service["volumes"].as_array().unwrap();
        let data = format!("{name}:/data");
        assert!(volumes.iter().any(|v| *v == data.as_str()), "{name}: {volumes:?}");
        assert!(compose["volumes"].as_object().unwrap().contains_key(name), "{name}");
    }
    roles.sort_unstable();
    let expected = [
        "compactor",
        "ingester",
        "ingester",
        "ingester",
        "querier",
        "querier",
        "scraper",
        "scraper",
    ];
    assert_eq!(roles, expected);
}

#[test]
fn the_configurations_that_go_along_are_right() {
    for name in ["compose/prometheus.yml", "quickstart/prometheus.yml"] {
        let loaded = load(&file(name), &|_| None);
        assert!(loaded.is_ok(), "{name}: {:?}", loaded.err());
    }
}

#[test]
fn the_unit_starts_each_role() {
    let unit = text("systemd/gnomon@.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let (program, args) = start.split_once(' ').unwrap();
    assert_eq!(program, "/usr/local/bin/gnomon");
    for section in ["[Unit]", "[Service]", "[Install]"] {
        assert!(unit.lines().any(|line| line == section), "{section}");
    }
    let mut common = Vec::new();
    for name in ["systemd/gnomon.env", "systemd/ingester.env"] {
        for line in text(name)
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (name, value) = line.split_once('=').unwrap();
            common.extend(flag_of(name, value));
        }
    }
    for role in ["ingester", "scraper", "querier", "compactor"] {
        let args = args.replace("%i", role);
        let own = args.split_whitespace().map(str::to_owned);
        assert_eq!(starts(own.chain(common.iter().cloned()).collect()), role);
    }
}
