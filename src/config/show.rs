//! The configuration as it is shown, in Prometheus' order of sections.

use super::GlobalConfig;
use gnomon_model::yaml::Out;
use gnomon_scraper::config::print::{Printed, duration};

/// The sections as they will be printed; an empty one is left out.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) global: Out,
    pub(super) runtime: Out,
    pub(super) alerting: Out,
    pub(super) rule_files: Out,
    pub(super) scrape_config_files: Out,
    pub(super) scrape_configs: Out,
    pub(super) storage: Out,
    pub(super) tracing: Out,
    pub(super) remote: Vec<(String, Out)>,
    pub(super) otlp: Out,
}

impl Default for Shown {
    fn default() -> Self {
        let (global, runtime, alerting, rule_files) = (Out::Null, Out::Null, Out::Null, Out::Null);
        let (scrape_config_files, scrape_configs, storage) = (Out::Null, Out::Null, Out::Null);
        let (tracing, otlp, remote) = (Out::Null, Out::Null, Vec::new());
        Self {
            global,
            runtime,
            alerting,
            rule_files,
            scrape_config_files,
            scrape_configs,
            storage,
            tracing,
            remote,
            otlp,
        }
    }
}

impl Shown {
    pub(super) fn to_yaml(&self) -> String {
        let mut out = Printed::default();
        for (name, section) in [
            ("global", &self.global),
            ("runtime", &self.runtime),
            ("alerting", &self.alerting),
            ("rule_files", &self.rule_files),
            ("scrape_config_files", &self.scrape_config_files),
            ("scrape_configs", &self.scrape_configs),
            ("storage", &self.storage),
            ("tracing", &self.tracing),
        ] {
            out.put_filled(name, section.clone());
        }
        for (name, section) in &self.remote {
            out.put_filled(name, section.clone());
        }
        out.put_filled("otlp", self.otlp.clone());
        Out::Map(out.0).to_yaml()
    }
}

impl GlobalConfig {
    pub(super) fn to_out(&self) -> Out {
        let mut out = Printed::default();
        self.scrape.print_timing(&mut out);
        out.put("evaluation_interval", duration(self.evaluation_interval));
        if !self.rule_query_offset.is_zero() {
            out.put("rule_query_offset", duration(self.rule_query_offset));
        }
        let path = |path: &Option<std::path::PathBuf>| match path {
            Some(path) => Out::text(path.to_string_lossy()),
            None => Out::Null,
        };
        out.put_filled("query_log_file", path(&self.query_log_file));
        out.put_filled("scrape_failure_log_file", path(&self.scrape.scrape_failure_log_file));
        let labels = self
            .external_labels
            .iter()
            .map(|(name, value)| (name.to_owned(), Out::text(value)))
            .collect();
        out.put_filled("external_labels", Out::Map(labels));
        self.scrape.print_rest(&mut out);
        Out::Map(out.0)
    }
}
