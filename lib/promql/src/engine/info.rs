//! `info`: brings labels of info metrics to the series that share their `instance` and `job`.

use super::column::{Column, merge_same_labels};
use super::context::{Evaluated, Exec, Held, Sink};
use super::select::{Selector, Take};
use crate::limits::EvalError;
use crate::plan::{Extended, Node, Shift};
use gnomon_model::{Labels, LabelsBuilder, METRIC_NAME, Matcher};
use hashbrown::HashMap;

/// Labels that say which target a series is of.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

fn identity(labels: &Labels) -> Labels {
    Labels::from_pairs(IDENTIFYING.map(|name| (name, labels.get(name).unwrap_or(""))))
}

/// One info series: which sample it has at each step, by time.
struct InfoSeries {
    labels: Labels,
    times: Column,
}

/// All info series, by whom they identify and by metric.
#[derive(Default)]
struct Infos {
    series: HashMap<(Labels, String), Vec<InfoSeries>>,
    /// Sorted.
    metrics: Vec<String>,
}

impl Infos {
    /// A series with the labels that info series give it: several, where those change over time.
    fn enrich(&self, column: &Column, data: &[&Matcher], required: bool) -> Evaluated<Vec<Column>> {
        let id = identity(&column.labels);
        let candidates: Vec<&Vec<InfoSeries>> = self
            .metrics
            .iter()
            .filter_map(|name| self.series.get(&(id.clone(), name.clone())))
            .collect();
        let mut results: Vec<Column> = Vec::new();
        let mut at: HashMap<Labels, usize> = HashMap::new();
        for i in 0..column.len() {
            let Some(point) = column.get(i) else { continue };
            let found: Vec<&InfoSeries> = candidates.iter().filter_map(|series| newest(series, i)).collect();
            if found.is_empty() && required {
                continue;
            }
            let labels = enriched(&column.labels, &found, data)?;
            let slot = *at.entry(labels.clone()).or_insert_with(|| {
                let mut new = Column::empty(labels, column.len());
                new.drop_name = column.drop_name;
                results.push(new);
                results.len() - 1
            });
            results[slot].set(i, point);
        }
        Ok(results)
    }
}

impl Exec<'_> {
    fn infos(&self, node: &Node, request: usize, shift: Shift, held: &mut Held<'_, '_>) -> Evaluated<Infos> {
        let mut infos = Infos::default();
        let selector = Selector {
            request,
            shift,
            extended: Extended::No,
            grid: node.grid,
            span: node.span,
        };
        self.select(selector, Take::TimeOfFloat, &mut |times| {
            held.add_column(&times)?;
            let key = (identity(&times.labels), times.labels.metric_name().to_owned());
            infos.series.entry(key).or_default().push(InfoSeries {
                labels: times.labels.clone(),
                times,
            });
            Ok(())
        })?;
        infos.metrics = infos.series.keys().map(|(_, name)| name.clone()).collect();
        infos.metrics.sort();
        infos.metrics.dedup();
        Ok(infos)
    }

    pub(crate) fn info(
        &self,
        node: &Node,
        input: &Node,
        request: usize,
        shift: Shift,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let matchers: &[Matcher] = self
            .plan
            .selectors()
            .get(request)
            .map_or(&[], |request| &request.matchers);
        let names: Vec<&Matcher> = matchers.iter().filter(|m| m.name() == METRIC_NAME).collect();
        let data: Vec<&Matcher> = matchers.iter().filter(|m| m.name() != METRIC_NAME).collect();
        let mut held = self.hold(0)?;
        let infos = self.infos(node, request, shift, &mut held)?;
        let required = data.iter().any(|matcher| !matcher.matches_empty());
        let mut out = Vec::new();
        self.stream(input, &mut |column| {
            let is_info = names.iter().all(|matcher| matcher.matches(column.labels.metric_name()));
            if is_info {
                held.add_column(&column)?;
                out.push(column);
                return Ok(());
            }
            let results = infos.enrich(&column, &data, required)?;
            for column in results {
                held.add_column(&column)?;
                out.push(column);
            }
            Ok(())
        })?;
        for column in merge_same_labels(out)? {
            sink(column)?;
        }
        Ok(())
    }
}

/// Of info series that overlap the one with the newest sample counts.
fn newest(candidates: &[InfoSeries], i: usize) -> Option<&InfoSeries> {
    candidates
        .iter()
        .filter_map(|candidate| Some((candidate.times.float(i)?, candidate)))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

fn enriched(base: &Labels, found: &[&InfoSeries], data: &[&Matcher]) -> Evaluated<Labels> {
    let mut builder = LabelsBuilder::from_labels(base.as_ref());
    let mut added: HashMap<&str, &str> = HashMap::new();
    for info in found {
        for (name, value) in info.labels.iter() {
            let wanted = data.is_empty() || data.iter().any(|matcher| matcher.name() == name);
            if name == METRIC_NAME || !wanted || base.get(name).is_some() {
                continue;
            }
            if added.insert(name, value).is_some_and(|other| other != value) {
                return Err(EvalError::execution(format!("conflicting label: {name}")));
            }
            builder.set(name, value);
        }
    }
    Ok(builder.build())
}
