//! YAML of configuration files, target files and rules: no panic, no endless loop, memory within its bound.
#![no_main]

use gnomon_model::yaml;
use gnomon_scraper::config::{ScrapeConfig, ScrapeDefaults};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(root) = yaml::parse(text) else {
        return;
    };
    let _ = ScrapeConfig::read(&yaml::At::root(&root), &ScrapeDefaults::default(), "/".as_ref());
});
