//! `info`: brings labels of info metrics to the series that share their `instance` and `job`.

use super::column::{Column, Point, merge_same_labels};
use super::context::{Columns, Evaluated, Exec, Held, Sink};
use super::select::{Selector, Take};
use crate::limits::EvalError;
use crate::plan::{Extended, Node, Shift};
use gnomon_model::{Labels, LabelsBuilder, METRIC_NAME, Matcher};
use hashbrown::{HashMap, HashSet};

/// Labels that say which target a series is of.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

fn identity(labels: &Labels) -> Labels {
    Labels::from_pairs(IDENTIFYING.map(|name| (name, labels.get(name).unwrap_or(""))))
}

/// The values that the series have of each identifying label. Those without it do not count.
#[derive(Default)]
struct Targets<'c> {
    values: [HashSet<&'c str>; IDENTIFYING.len()],
}

impl<'c> Targets<'c> {
    fn of(series: impl Iterator<Item = &'c Labels>) -> Self {
        let mut targets = Self::default();
        for labels in series {
            for (name, values) in IDENTIFYING.iter().zip(&mut targets.values) {
                values.extend(labels.get(name));
            }
        }
        targets
    }

    fn is_empty(&self) -> bool {
        self.values.iter().all(HashSet::is_empty)
    }

    /// Whether info series with such labels are looked at. As in Prometheus each label is asked for by itself, so that of
    /// two targets `a:1` and `b:2` info series of `a:2` are looked at, too.
    fn select(&self, labels: &Labels) -> bool {
        let mut labelled = IDENTIFYING.iter().zip(&self.values);
        labelled.all(|(name, values)| values.is_empty() || labels.get(name).is_some_and(|v| values.contains(v)))
    }
}

/// One info series: which sample it has at each step, by time.
struct InfoSeries {
    labels: Labels,
    times: Column,
}

/// The info series that are looked at, by whom they identify and by metric.
#[derive(Default)]
struct Infos {
    /// In the order of the first of each.
    groups: Vec<Vec<InfoSeries>>,
    places: HashMap<(Labels, String), usize>,
    /// Sorted.
    metrics: Vec<String>,
}

impl Infos {
    fn add(&mut self, times: Column) {
        let key = (identity(&times.labels), times.labels.metric_name().to_owned());
        let place = *self.places.entry(key).or_insert(self.groups.len());
        if place == self.groups.len() {
            self.groups.push(Vec::new());
        }
        self.groups[place].push(InfoSeries {
            labels: times.labels.clone(),
            times,
        });
    }

    /// Those of which a step may have more than one newest sample, or a histogram.
    fn doubtful(&self) -> Vec<&[InfoSeries]> {
        let doubtful = |group: &&[InfoSeries]| group.len() > 1 || group.iter().any(|info| info.times.has_histograms());
        self.groups.iter().map(Vec::as_slice).filter(doubtful).collect()
    }

    /// A series with the labels that info series give it: several, where those change over time.
    fn enrich(&self, column: &Column, data: &[&Matcher], required: bool) -> Evaluated<Vec<Column>> {
        let id = identity(&column.labels);
        let places = self
            .metrics
            .iter()
            .filter_map(|name| self.places.get(&(id.clone(), name.clone())));
        let candidates: Vec<&Vec<InfoSeries>> = places.filter_map(|place| self.groups.get(*place)).collect();
        let mut results: Vec<Column> = Vec::new();
        let mut at: HashMap<Labels, usize> = HashMap::new();
        for i in 0..column.len() {
            let Some(point) = column.get(i) else { continue };
            let mut found: Vec<&InfoSeries> = Vec::with_capacity(candidates.len());
            for group in &candidates {
                found.extend(newest(group, i)?);
            }
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
    fn infos(&self, selector: Selector, targets: Targets<'_>, held: &mut Held<'_, '_>) -> Evaluated<Infos> {
        let mut infos = Infos::default();
        if targets.is_empty() {
            return Ok(infos);
        }
        let wanted = |labels: &Labels| targets.select(labels);
        self.select_where(selector, Take::TimeOfFloat, &wanted, &mut |times| {
            held.add_column(&times)?;
            infos.add(times);
            Ok(())
        })?;
        infos.metrics = infos.places.keys().map(|(_, name)| name.clone()).collect();
        infos.metrics.sort();
        infos.metrics.dedup();
        Ok(infos)
    }

    /// At steps with base series all info series must be fit for use, whether or not a base series is theirs.
    fn check_infos(&self, infos: &Infos, base: &[Column], steps: usize) -> Evaluated<()> {
        let doubtful = infos.doubtful();
        if doubtful.is_empty() {
            return Ok(());
        }
        for i in 0..steps {
            self.check_at(i)?;
            if !base.iter().any(|column| column.present(i)) {
                continue;
            }
            for group in &doubtful {
                newest(group, i)?;
            }
        }
        Ok(())
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
        let is_info = |labels: &Labels| names.iter().all(|matcher| matcher.matches(labels.metric_name()));
        // Which info series are looked at depends on the targets of the base series: these come first.
        let Columns {
            columns: base,
            held: _held,
        } = self.collect(input)?;
        let selector = Selector {
            request,
            shift,
            extended: Extended::No,
            grid: node.grid,
            span: node.span,
        };
        let mut held = self.hold(0)?;
        let labels = base.iter().map(|column| &column.labels);
        let targets = Targets::of(labels.filter(|labels| !is_info(labels)));
        let infos = self.infos(selector, targets, &mut held)?;
        self.check_infos(&infos, &base, node.grid.n)?;
        let required = data.iter().any(|matcher| !matcher.matches_empty());
        let mut out = Vec::new();
        for column in base {
            self.check()?;
            let results = match is_info(&column.labels) {
                true => vec![column],
                false => infos.enrich(&column, &data, required)?,
            };
            for column in results {
                held.add_column(&column)?;
                out.push(column);
            }
        }
        for column in merge_same_labels(out)? {
            sink(column)?;
        }
        Ok(())
    }
}

/// Of info series that overlap the one with the newest sample counts.
fn newest(group: &[InfoSeries], i: usize) -> Evaluated<Option<&InfoSeries>> {
    let mut found: Option<(f64, &InfoSeries)> = None;
    for info in group {
        let time = match info.times.get(i) {
            Some(Point::Float(time)) => time,
            Some(Point::Histogram(_)) => return Err(EvalError::execution("info sample should be float")),
            None => continue,
        };
        match found {
            Some((kept, _)) if kept > time => {}
            Some((kept, existing)) if kept == time => return Err(duplicate(existing, info, time)),
            _ => found = Some((time, info)),
        }
    }
    Ok(found.map(|(_, info)| info))
}

fn duplicate(existing: &InfoSeries, new: &InfoSeries, time: f64) -> EvalError {
    let (existing, new) = (&existing.labels, &new.labels);
    EvalError::execution(format!(
        "found duplicate series for info metric: existing {existing} @ {time}, new {new} @ {time}"
    ))
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
