//! `data` of a query: `{"resultType":…,"result":…,"stats":…}`.

use crate::answer::Answer;
use crate::fanout::SourceCost;
use crate::gojson;
use crate::json::{Gone, Json};
use crate::run::Outcome;
use gnomon_promql::{InstantSample, PlanLine, RangeSeries, Reserved, SampleValue, StepSamples, Value};
use serde::Serialize;
use std::time::Duration;

/// Answers with more points than this are written chunk by chunk.
const LARGE_POINTS: usize = 5_000;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stats {
    timings: Timings,
    samples: Samples,
}

/// Seconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Timings {
    eval_total_time: f64,
    result_sort_time: f64,
    query_preparation_time: f64,
    inner_eval_time: f64,
    exec_queue_time: f64,
    exec_total_time: f64,
}

/// Lists have a pair of seconds and samples for each step.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Samples {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    total_queryable_samples_per_step: Vec<(f64, u64)>,
    total_queryable_samples: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples_read_per_step: Vec<(f64, u64)>,
    samples_read: u64,
    peak_samples: u64,
}

impl Stats {
    /// `per_step`: not only the sums over all steps.
    pub(super) fn of(outcome: &Outcome, prepared: Duration, per_step: bool) -> Self {
        let evaluated = outcome.evaluated.as_secs_f64();
        let steps = &outcome.result.steps;
        let each = |of: fn(&StepSamples) -> u64| {
            let pair = |step: &StepSamples| (step.timestamp_ms as f64 / 1000.0, of(step));
            if per_step {
                steps.iter().map(pair).collect()
            } else {
                Vec::new()
            }
        };
        Self {
            timings: Timings {
                eval_total_time: evaluated,
                // Results come sorted.
                result_sort_time: 0.0,
                query_preparation_time: prepared.as_secs_f64(),
                inner_eval_time: evaluated,
                exec_queue_time: outcome.queued.as_secs_f64(),
                exec_total_time: evaluated + outcome.queued.as_secs_f64(),
            },
            samples: Samples {
                total_queryable_samples_per_step: each(|step| step.queryable),
                total_queryable_samples: steps.iter().map(|step| step.queryable).sum(),
                samples_read_per_step: each(|step| step.read),
                samples_read: steps.iter().map(|step| step.read).sum(),
                peak_samples: outcome.result.stats.peak_samples,
            },
        }
    }
}

/// What is told about the plan.
#[derive(Debug, Default)]
pub(super) struct Explain {
    /// A node a line.
    pub(super) text: Option<String>,
    /// JSON of what nodes and sources took.
    pub(super) analysis: Option<String>,
}

/// A plan's nodes, and its sources, with what they took.
pub(super) type Analysis = (Vec<PlanLine>, Vec<SourceCost>);

/// The plan with what its nodes took, then its sources.
pub(super) fn analyzed((lines, sources): &Analysis) -> String {
    let lines = lines.iter().map(|line| format!("{line}\n"));
    lines
        .chain(sources.iter().map(|source| format!("{source}\n")))
        .collect()
}

pub(super) fn analysis_json((lines, sources): &Analysis) -> Option<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Node<'l> {
        depth: usize,
        node: &'l str,
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
        result_series: u64,
        result_values: u64,
        series: u64,
        samples: u64,
    }
    #[derive(Serialize)]
    struct All<'l> {
        nodes: Vec<Node<'l>>,
        sources: &'l [SourceCost],
    }
    let nodes = lines.iter().map(|line| {
        let cost = line.cost.unwrap_or_default();
        Node {
            depth: line.depth,
            node: &line.text,
            seconds: line.cost.map(|cost| cost.own.as_secs_f64()),
            result_series: cost.columns,
            result_values: cost.values,
            series: cost.series,
            samples: cost.samples,
        }
    });
    let nodes = nodes.collect();
    gojson::to_string(&All { nodes, sources }).ok()
}

/// `held` is what `value` occupies; it is given back as the answer is written.
pub(super) fn answer(value: Value, mut held: Reserved, stats: Option<Stats>, explain: Explain) -> Answer {
    let points = match &value {
        Value::Scalar { .. } | Value::String { .. } => 1,
        Value::Vector(samples) => samples.len(),
        Value::Matrix(series) => series.iter().map(|s| s.floats.len() + 8 * s.histograms.len() + 1).sum(),
    };
    let write = move |json: &mut Json| {
        json.raw(r#"{"resultType":""#);
        json.raw(value.type_name());
        json.raw(r#"","result":"#);
        write_value(json, value, &mut held)?;
        drop(held);
        if let Some(text) = stats.as_ref().and_then(|stats| gojson::to_string(stats).ok()) {
            json.raw(r#","stats":"#);
            json.raw(&text);
        }
        if let Some(text) = &explain.text {
            json.raw(r#","explain":"#);
            json.text_for_html(text);
        }
        if let Some(analysis) = &explain.analysis {
            json.raw(r#","analysis":"#);
            json.raw(analysis);
        }
        json.raw("}");
        Ok(())
    };
    Answer::new(points > LARGE_POINTS, Box::new(write))
}

/// What has been written is let go at once: a slow reader keeps no more than what it has still to read.
fn write_value(json: &mut Json, value: Value, held: &mut Reserved) -> Result<(), Gone> {
    match value {
        Value::Scalar { timestamp_ms, value } => {
            json.raw("[");
            json.seconds(timestamp_ms);
            json.raw(",\"");
            json.plain_float(value);
            json.raw("\"]");
        }
        Value::String { timestamp_ms, text } => {
            json.raw("[");
            json.seconds(timestamp_ms);
            json.raw(",");
            json.text_for_html(&text);
            json.raw("]");
        }
        Value::Vector(samples) => {
            json.raw("[");
            json.list(samples, write_sample)?;
            json.raw("]");
        }
        Value::Matrix(series) => {
            json.raw("[");
            for (i, series) in series.into_iter().enumerate() {
                if i > 0 {
                    json.raw(",");
                }
                write_series(json, &series)?;
                held.shrink(series.held_bytes());
            }
            json.raw("]");
        }
    }
    Ok(())
}

fn write_sample(json: &mut Json, sample: InstantSample) {
    json.raw(r#"{"metric":"#);
    json.labels(sample.labels.as_ref());
    match &sample.value {
        SampleValue::Float(value) => {
            json.raw(r#","value":"#);
            json.point(sample.timestamp_ms, *value);
        }
        SampleValue::Histogram(histogram) => {
            json.raw(r#","histogram":"#);
            json.histogram_point(sample.timestamp_ms, histogram);
        }
    }
    json.raw("}");
}

fn write_series(json: &mut Json, series: &RangeSeries) -> Result<(), Gone> {
    json.raw(r#"{"metric":"#);
    json.labels(series.labels.as_ref());
    if !series.floats.is_empty() {
        json.raw(r#","values":["#);
        json.list(&series.floats, |json, (t, v)| json.point(*t, *v))?;
        json.raw("]");
    }
    if !series.histograms.is_empty() {
        json.raw(r#","histograms":["#);
        json.list(&series.histograms, |json, (t, h)| json.histogram_point(*t, h))?;
        json.raw("]");
    }
    json.raw("}");
    json.breathe()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::Labels;
    use gnomon_model::histogram::{FloatHistogram, Span};
    use gnomon_promql::MemoryBudget;
    use std::sync::Arc;

    fn written(value: &Value) -> String {
        let mut json = Json::buffer();
        let mut held = MemoryBudget::default().reserve(0).unwrap();
        write_value(&mut json, value.clone(), &mut held).unwrap();
        String::from_utf8(json.into_bytes().to_vec()).unwrap()
    }

    fn histogram() -> Arc<FloatHistogram> {
        Arc::new(FloatHistogram {
            schema: 0,
            count: 3.0,
            sum: 4.5,
            positive_spans: vec![Span { offset: 1, length: 1 }],
            positive_buckets: vec![3.0],
            ..FloatHistogram::default()
        })
    }

    #[test]
    fn values_of_all_types_are_as_prometheus_writes_them() {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "a")]);
        let scalar = Value::Scalar {
            timestamp_ms: 1_500,
            value: 2.5,
        };
        assert_eq!(written(&scalar), r#"[1.5,"2.5"]"#);
        let string = Value::String {
            timestamp_ms: 1_000,
            text: "a<b".into(),
        };
        assert_eq!(written(&string), r#"[1,"a\u003cb"]"#);
        let vector = Value::Vector(vec![
            InstantSample {
                labels: labels.clone(),
                timestamp_ms: 1_000,
                value: SampleValue::Float(1.0),
            },
            InstantSample {
                labels: Labels::empty(),
                timestamp_ms: 1_000,
                value: SampleValue::Histogram(histogram()),
            },
        ]);
        assert_eq!(
            written(&vector),
            r#"[{"metric":{"__name__":"up","job":"a"},"value":[1,"1"]},{"metric":{},"histogram":[1,{"count":"3","sum":"4.5","buckets":[[0,"1","2","3"]]}]}]"#
        );
        let matrix = Value::Matrix(vec![RangeSeries {
            labels,
            floats: vec![(0, 1.0), (1_000, f64::NAN)],
            histograms: vec![(2_000, Arc::new(FloatHistogram::default()))],
        }]);
        assert_eq!(
            written(&matrix),
            r#"[{"metric":{"__name__":"up","job":"a"},"values":[[0,"1"],[1,"NaN"]],"histograms":[[2,{"count":"0","sum":"0"}]]}]"#
        );
    }
}
