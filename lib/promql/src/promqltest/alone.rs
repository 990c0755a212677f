//! The engine alone, over series in memory.

use super::{Answer, LoadedSeries, Subject, When};
use crate::engine::Engine;
use crate::limits::{CancelFlag, Limits};
use crate::parser::{ParseOptions, parse};
use crate::plan::{EvalParams, Plan};
use crate::source::MemorySource;
use crate::value::SampleValue;

/// This crate's engine over a [`MemorySource`].
#[derive(Debug)]
pub struct EngineAlone {
    source: MemorySource,
    delayed_name_removal: bool,
}

impl EngineAlone {
    #[must_use]
    pub fn new(delayed_name_removal: bool) -> Self {
        Self {
            source: MemorySource::new(),
            delayed_name_removal,
        }
    }
}

impl Subject for EngineAlone {
    fn clear(&mut self) -> Result<(), String> {
        self.source.clear();
        Ok(())
    }

    fn load(&mut self, series: Vec<LoadedSeries>) -> Result<(), String> {
        for LoadedSeries { labels, samples } in series {
            for sample in samples {
                match sample.value {
                    SampleValue::Float(value) => {
                        self.source.add_float(&labels, sample.timestamp_ms, value);
                        if let Some(start_ms) = sample.start_ms {
                            self.source.set_start_time(&labels, sample.timestamp_ms, start_ms);
                        }
                    }
                    SampleValue::Histogram(histogram) => {
                        self.source.add_histogram(&labels, sample.timestamp_ms, histogram);
                    }
                }
            }
        }
        self.source.set_reset_hints();
        Ok(())
    }

    fn eval(&mut self, query: &str, when: When) -> Result<Answer, String> {
        let params = match when {
            When::At(at_ms) => EvalParams::instant(at_ms),
            When::Range {
                start_ms,
                end_ms,
                step_ms,
            } => EvalParams::range(start_ms, end_ms, step_ms),
        };
        let params = EvalParams {
            delayed_name_removal: self.delayed_name_removal,
            use_start_times: true,
            ..params
        };
        let expr = parse(query, &ParseOptions::everything()).map_err(|e| e.to_string())?;
        let plan = Plan::new(query, &expr, params).map_err(|e| e.to_string())?;
        let result = Engine::execute(&plan, &self.source, &Limits::default(), &CancelFlag::new());
        result.map(Answer::from).map_err(|e| e.to_string())
    }
}
