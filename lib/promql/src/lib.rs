//! PromQL: parser, plan and engine over a series source; no I/O, no async runtime, no clock.
//!
//! A query runs in three steps, so that whoever owns the storage can fetch between the second and the third:
//!
//! ```
//! use gnomon_model::Labels;
//! use gnomon_promql::{CancelFlag, Engine, EvalParams, Limits, MemorySource, ParseOptions, Plan, Value, parse};
//!
//! let query = "sum by (job) (rate(requests_total[5m]))";
//! let expr = parse(query, &ParseOptions::default())?;
//! let plan = Plan::new(query, &expr, EvalParams::range(0, 600_000, 60_000))?;
//! // All selectors with their matchers and exact times: fetch them here, asynchronously if need be.
//! assert_eq!(plan.selectors()[0].start_ms, -299_999);
//!
//! let mut source = MemorySource::new();
//! let labels = Labels::from_pairs([("__name__", "requests_total"), ("job", "api")]);
//! for i in 0..60 {
//!     source.add_float(&labels, i * 10_000, i as f64);
//! }
//! let result = Engine::execute(&plan, &source, &Limits::default(), &CancelFlag::new())?;
//! assert!(matches!(result.value, Value::Matrix(series) if series.len() == 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The engine works series by series: each series is taken through all steps of the query before the next is looked
//! at, in columns of one entry a step.
//!
//! Invariant: nothing a caller or a source hands in makes this crate panic.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod ast;
pub mod buffers;
mod engine;
pub mod features;
pub mod functions;
mod lexer;
mod limits;
mod memory;
mod parser;
pub mod partial;
mod plan;
mod pretty;
mod printer;
pub mod promqltest;
pub mod source;
mod value;

pub use ast::{Expr, ValueType};
pub use engine::{Engine, FragmentError, NodeCost};
pub use limits::{CancelFlag, EvalError, Limits};
pub use memory::{MemoryBudget, OverBudget, QueryMemory, Reserved};
pub(crate) use parser::literal::parse_float;
pub use parser::{MAX_PATTERN_BYTES, ParseError, ParseOptions, parse, parse_selector};
pub use plan::{
    BadFragment, DEFAULT_LOOKBACK_MS, Effort, EvalParams, Fragment, FragmentKind, FragmentNode, Plan, PlanError,
    PlanLine,
};
pub use source::{
    MemorySource, ReadySeries, Samples, SelectHints, SelectRequest, Series, SeriesIter, SeriesSource, SourceError,
};
pub use value::{InstantSample, QueryResult, QueryStats, RangeSeries, SampleValue, StepSamples, Value};
