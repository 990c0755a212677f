//! Arrows point down: `model` <- `proto`, `promql`, `tsdb` <- `cluster` <- roles <- root package. Role crates never
//! depend on each other (but for a simulation of several), and the bottom crates do no I/O. And pages name what is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Crate, folder, and the highest layer-mates it may depend on.
const LAYERS: &[(&str, &str, u8)] = &[
    ("gnomon-malloc", "lib/malloc", 0),
    ("gnomon-chance", "lib/chance", 0),
    ("base2histogram", "lib/base2histogram", 0),
    ("gnomon-model", "lib/model", 0),
    ("gnomon-proto", "proto", 1),
    ("gnomon-promql", "lib/promql", 1),
    ("gnomon-tsdb", "lib/tsdb", 1),
    ("gnomon-cluster", "lib/cluster", 2),
    ("gnomon-scraper", "scraper", 3),
    ("gnomon-ingester", "ingester", 3),
    ("gnomon-querier", "querier", 3),
    ("gnomon-compactor", "compactor", 3),
    ("gnomon", ".", 4),
];

/// A simulated cluster has scrapers beside its ingesters.
const IN_SIMULATION: (&str, &str) = ("gnomon-ingester", "dev-dependencies:gnomon-scraper");

/// Crates that would bring I/O or an async runtime.
const IO: &[&str] = &[
    "tokio",
    "hyper",
    "axum",
    "tonic",
    "reqwest",
    "object_store",
    "rocksdb",
    "openraft",
];

/// The folder of this package, as cargo says it now: what comes from a cache was built elsewhere, it may be.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn dependencies(folder: &str) -> Vec<String> {
    let path = package().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
        } else if matches!(
            section.as_str(),
            "dependencies" | "dev-dependencies" | "build-dependencies"
        ) && let Some((name, _)) = line.split_once(['.', '=', ' '])
        {
            found.push(format!("{section}:{}", name.trim()));
        }
    }
    assert!(
        [".", "lib/base2histogram"].contains(&folder) || !found.is_empty(),
        "{folder}: no dependency was read from its manifest"
    );
    found
}

#[test]
fn arrows_point_down() {
    let layer: BTreeMap<_, _> = LAYERS.iter().map(|(name, _, layer)| (*name, *layer)).collect();
    for (name, folder, own) in LAYERS {
        for dependency in dependencies(folder) {
            if (*name, dependency.as_str()) == IN_SIMULATION {
                continue;
            }
            let Some((_, dependency)) = dependency.split_once(':') else {
                continue;
            };
            if let Some(theirs) = layer.get(dependency) {
                assert!(
                    theirs < own,
                    "{name} (layer {own}) must not depend on {dependency} (layer {theirs})"
                );
            }
        }
    }
}

#[test]
fn the_bottom_does_no_io() {
    for (name, folder) in [("gnomon-model", "lib/model"), ("gnomon-promql", "lib/promql")] {
        for dependency in dependencies(folder) {
            if let Some(used) = dependency.strip_prefix("dependencies:") {
                assert!(!IO.contains(&used), "{name} must not depend on {used}");
            }
        }
    }
}

#[test]
fn every_crate_has_its_layer() {
    let text = std::fs::read_to_string(package().join("Cargo.toml")).expect("manifest");
    let members = text.lines().find(|l| l.starts_with("members")).expect("members line");
    let count = members.matches('"').count() / 2;
    assert_eq!(
        count,
        LAYERS.len(),
        "a workspace member has no layer in this table: {members}"
    );
}

/// It stands in for the system's random numbers.
#[test]
fn no_program_takes_its_chance_from_a_seed() {
    for (name, folder, _) in LAYERS {
        let with_it = dependencies(folder)
            .into_iter()
            .filter(|d| d.ends_with(":gnomon-chance"));
        let allowed: &[&str] = if *name == "gnomon-ingester" {
            &["dev-dependencies:gnomon-chance"]
        } else {
            &[]
        };
        assert_eq!(with_it.collect::<Vec<_>>(), allowed, "{name}");
    }
}

/// Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn metrics_that_the_cluster_is_to_be_watched_by_are_there() {
    let root = &package();
    let mut files = Vec::new();
    for (_, folder, _) in LAYERS {
        sources(&root.join(folder).join("src"), &mut files);
    }
    let texts = files
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("a source"));
    let all: String = texts.collect();
    let page = std::fs::read_to_string(root.join("docs/cluster.md")).expect("docs/cluster.md");
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = page
        .split(|c| !is_of_name(c))
        .filter(|word| word.starts_with("gnomon_"));
    let mut looked = 0;
    for name in names.filter(|name| !name.ends_with('_')) {
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(
            all.contains(&format!("\"{name}\"")),
            "docs/cluster.md: there is no metric {name}"
        );
        looked += 1;
    }
    assert!(looked > 20, "{looked} metrics");
}
