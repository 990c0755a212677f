//! The files below `deploy/` say what this build understands.

use super::{Command, flags, parse};
use crate::config::load;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The roles of the processes that each of the files together starts.
const TOPOLOGY: [&str; 8] = [
    "compactor",
    "ingester",
    "ingester",
    "ingester",
    "querier",
    "querier",
    "scraper",
    "scraper",
];

/// The folder of this package, as cargo says it now: what comes from a cache was built elsewhere, it may be.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn file(name: &str) -> PathBuf {
    package().join("deploy").join(name)
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
    assert_eq!(roles, TOPOLOGY);
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
    let common = environment("systemd/gnomon.env");
    let mut roles = Vec::new();
    for host in std::fs::read_dir(file("systemd/hosts")).unwrap() {
        let host = host.unwrap().file_name().into_string().unwrap();
        let (role, number) = host.strip_suffix(".env").unwrap().split_once('-').unwrap();
        assert!(number.parse::<u32>().is_ok(), "{host}");
        let variables = environment(&format!("systemd/hosts/{host}"));
        let name = host.trim_end_matches(".env");
        let advertised = format!("--cluster.advertise-address={name}:9095");
        assert!(variables.contains(&advertised), "{host}: {variables:?}");
        let own = args.replace("%i", role);
        let own = own.split_whitespace().map(str::to_owned);
        assert_eq!(starts(own.chain(common.clone()).chain(variables).collect()), role);
        assert!(text("systemd/README.md").contains(&format!("/etc/gnomon/{role}.env")));
        roles.push(role.to_owned());
    }
    roles.sort_unstable();
    assert_eq!(roles, TOPOLOGY);
}

/// The flags that a file of variables stands for.
fn environment(name: &str) -> Vec<String> {
    let text = text(name);
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let flag = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
        flag_of(name, value)
    };
    lines.filter_map(flag).collect()
}

/// What systemd itself says of the unit, where it is installed.
#[test]
fn systemd_takes_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("gnomon@.service");
    // It looks whether the program is there.
    let here = std::env::current_exe().unwrap();
    let here = text("systemd/gnomon@.service").replace("/usr/local/bin/gnomon", here.to_str().unwrap());
    std::fs::write(&unit, here).unwrap();
    let verify = |unit: &Path| {
        let mut command = std::process::Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(unit).output()
    };
    let Ok(said) = verify(&unit) else {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        said.status.success() && said.stderr.is_empty(),
        "{}{}",
        text(&said.stdout),
        text(&said.stderr)
    );
    // And it does look.
    let wrong = std::fs::read_to_string(&unit)
        .unwrap()
        .replace("RestartSec=2", "RestartSex=2");
    std::fs::write(&unit, wrong).unwrap();
    let said = verify(&unit).unwrap();
    assert!(text(&said.stderr).contains("RestartSex"), "{}", text(&said.stderr));
}
