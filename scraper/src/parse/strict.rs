//! OpenMetrics 1.0 by the letter: what the specification demands of meaning, beyond the syntax that
//! [`OpenMetricsParser`] holds to (<https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>).

use super::strict_histogram::HistogramCheck;
use super::{EntryKind, MetricKind, OpenMetricsParser, ParseError, Parser};
use gnomon_model::{Labels, LabelsRef, METRIC_NAME};
use std::collections::HashSet;

/// The longest label set of an exemplar: names and values together, in characters.
const EXEMPLAR_CHARS: usize = 128;

/// Reads a whole exposition.
///
/// # Errors
/// The first breach.
pub(super) fn check(input: &[u8]) -> Result<(), ParseError> {
    let mut parser = OpenMetricsParser::new(input);
    let mut check = Check::default();
    while let Some(kind) = parser.next_entry()? {
        let outcome = match kind {
            EntryKind::Type | EntryKind::Help | EntryKind::Unit => check.metadata(kind, &parser),
            _ => check.sample(&mut parser)?,
        };
        outcome.map_err(|message| ParseError::new(parser.entry, message))?;
    }
    let end = input.len().saturating_sub(1);
    check.finish_family().map_err(|message| ParseError::new(end, message))
}

type Outcome = Result<(), String>;

#[derive(Default)]
struct Check {
    /// Every name that a family so far stands for, its suffixed ones included.
    taken: HashSet<String>,
    family: Option<Family>,
}

#[derive(Default)]
struct Family {
    name: String,
    kind: Option<MetricKind>,
    unit: Option<String>,
    help: bool,
    sampled: bool,
    group: Option<Group>,
    seen_groups: HashSet<Labels>,
    histogram: HistogramCheck,
}

/// The samples of one label set of a family.
struct Group {
    labels: Labels,
    timestamp: Option<f64>,
}

/// What names a family of this kind takes: suffixes of its samples.
const fn suffixes(kind: MetricKind) -> &'static [&'static str] {
    match kind {
        MetricKind::Counter => &["_total", "_created"],
        MetricKind::Summary => &["", "_count", "_sum", "_created"],
        MetricKind::Histogram => &["_bucket", "_count", "_sum", "_created"],
        MetricKind::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
        MetricKind::Info => &["_info"],
        MetricKind::Unknown | MetricKind::Gauge | MetricKind::StateSet => &[""],
    }
}

impl Check {
    fn metadata(&mut self, what: EntryKind, parser: &OpenMetricsParser<'_>) -> Outcome {
        let name = parser.family();
        if self.family.as_ref().is_none_or(|f| f.name != name) {
            self.start_family(&name)?;
        }
        let Some(family) = &mut self.family else { return Ok(()) };
        if family.sampled {
            return Err(format!("metadata of metric {name:?} after its samples"));
        }
        let repeated = match what {
            EntryKind::Type => family.kind.replace(parser.kind()).is_some(),
            EntryKind::Unit => family.unit.replace(parser.text().into_owned()).is_some(),
            _ => std::mem::replace(&mut family.help, true),
        };
        if repeated {
            return Err(format!("more than one {what:?} of metric {name:?}"));
        }
        Ok(())
    }

    fn start_family(&mut self, name: &str) -> Outcome {
        self.finish_family()?;
        self.family = Some(Family {
            name: name.to_owned(),
            ..Family::default()
        });
        Ok(())
    }

    fn finish_family(&mut self) -> Outcome {
        let Some(mut family) = self.family.take() else {
            return Ok(());
        };
        let kind = family.kind.unwrap_or_default();
        if family.unit.as_ref().is_some_and(|u| !u.is_empty())
            && matches!(kind, MetricKind::Info | MetricKind::StateSet)
        {
            return Err(format!(
                "metric {:?} of type {} cannot have a unit",
                family.name,
                kind.as_str()
            ));
        }
        if matches!(kind, MetricKind::Histogram | MetricKind::GaugeHistogram) {
            family.histogram.finish()?;
        }
        let own = suffixes(kind).iter().copied();
        let names: HashSet<String> = own.chain([""]).map(|s| format!("{}{s}", family.name)).collect();
        for name in names {
            if !self.taken.insert(name.clone()) {
                return Err(format!(
                    "the name {name:?} of metric {:?} clashes with another metric's",
                    family.name
                ));
            }
        }
        Ok(())
    }

    fn sample(&mut self, parser: &mut OpenMetricsParser<'_>) -> Result<Outcome, ParseError> {
        let mut bytes = Vec::new();
        parser.write_labels(&mut bytes)?;
        let labels = LabelsRef::from_canonical(&bytes);
        let mut exemplar = None;
        if parser.has_exemplar() {
            let mut own = Vec::new();
            if parser.exemplar(&mut own)?.is_none() {
                return Ok(Err("the exemplar has a label name twice".to_owned()));
            }
            exemplar = Some(own);
        }
        let sample = Sample {
            name: labels.metric_name(),
            labels,
            value: parser.value(),
            timestamp: parser.timestamp_seconds(),
        };
        Ok(self.check_sample(&sample, exemplar.as_deref()))
    }

    fn check_sample(&mut self, sample: &Sample<'_>, exemplar: Option<&[u8]>) -> Outcome {
        let belongs = self.family.as_ref().is_some_and(|f| f.owns(sample.name));
        if !belongs {
            self.start_family(sample.name)?;
        }
        let Some(family) = &mut self.family else { return Ok(()) };
        family.sampled = true;
        let kind = family.kind.unwrap_or_default();
        let suffix = sample.name.strip_prefix(family.name.as_str()).unwrap_or_default();
        sample.check_labels(kind, suffix, &family.name)?;
        family.check_group(kind, suffix, sample)?;
        sample.check_value(kind, suffix)?;
        if matches!(kind, MetricKind::Histogram | MetricKind::GaugeHistogram) {
            let group = group_labels(kind, suffix, &family.name, sample.labels);
            family
                .histogram
                .add(group, suffix, sample.labels, sample.value, sample.timestamp)?;
        }
        if let Some(labels) = exemplar {
            check_exemplar(kind, suffix, sample.name, LabelsRef::from_canonical(labels))?;
        }
        Ok(())
    }
}

impl Family {
    fn owns(&self, sample: &str) -> bool {
        let suffix = sample.strip_prefix(self.name.as_str());
        suffix.is_some_and(|s| suffixes(self.kind.unwrap_or_default()).contains(&s))
    }

    fn check_group(&mut self, kind: MetricKind, suffix: &str, sample: &Sample<'_>) -> Outcome {
        let labels = group_labels(kind, suffix, &self.name, sample.labels);
        match &mut self.group {
            Some(group) if group.labels == labels => {
                if group.timestamp.is_some() != sample.timestamp.is_some() {
                    return Err(format!(
                        "some samples of {} have a timestamp and others none",
                        sample.labels
                    ));
                }
                let backwards = group
                    .timestamp
                    .zip(sample.timestamp)
                    .is_some_and(|(old, new)| old > new);
                if backwards && kind != MetricKind::Info {
                    return Err(format!("timestamps of {} go backwards", sample.labels));
                }
                group.timestamp = sample.timestamp;
            }
            _ => {
                if !self.seen_groups.insert(labels.clone()) {
                    return Err(format!("samples of {labels} are not together"));
                }
                self.group = Some(Group {
                    labels,
                    timestamp: sample.timestamp,
                });
            }
        }
        Ok(())
    }
}

/// The labels that the samples of one metric share.
fn group_labels(kind: MetricKind, suffix: &str, family: &str, labels: LabelsRef<'_>) -> Labels {
    let own = match (kind, suffix) {
        (MetricKind::Info, _) => return Labels::empty(),
        (MetricKind::Summary, "") => "quantile",
        (MetricKind::StateSet, _) => family,
        (MetricKind::Histogram | MetricKind::GaugeHistogram, "_bucket") => "le",
        _ => "",
    };
    Labels::from_pairs(labels.iter().filter(|(n, _)| *n != own && *n != METRIC_NAME))
}

fn check_exemplar(kind: MetricKind, suffix: &str, name: &str, labels: LabelsRef<'_>) -> Outcome {
    let allowed = match kind {
        MetricKind::Histogram | MetricKind::GaugeHistogram => suffix == "_bucket",
        MetricKind::Counter => suffix == "_total",
        _ => false,
    };
    if !allowed {
        return Err(format!(
            "sample {name:?} of type {} has an exemplar: only counters' totals and histograms' buckets may",
            kind.as_str()
        ));
    }
    let chars: usize = labels.iter().map(|(n, v)| n.chars().count() + v.chars().count()).sum();
    if chars > EXEMPLAR_CHARS {
        return Err(format!(
            "the exemplar's labels have {chars} characters, at most {EXEMPLAR_CHARS} are allowed"
        ));
    }
    Ok(())
}

struct Sample<'a> {
    name: &'a str,
    labels: LabelsRef<'a>,
    value: f64,
    /// Seconds.
    timestamp: Option<f64>,
}

impl Sample<'_> {
    fn number(&self, label: &str) -> f64 {
        let text = self.labels.get(label).unwrap_or_default();
        super::float::parse_float(text.as_bytes()).unwrap_or(f64::NAN)
    }

    fn check_labels(&self, kind: MetricKind, suffix: &str, family: &str) -> Outcome {
        match (kind, suffix) {
            (MetricKind::StateSet, _) if self.labels.get(family).is_none() => {
                Err(format!("stateset sample {} lacks the label {family:?}", self.labels))
            }
            (MetricKind::Histogram | MetricKind::GaugeHistogram, "_bucket") if self.number("le").is_nan() => {
                Err(format!("bucket {} lacks a label le that is a number", self.labels))
            }
            (MetricKind::Summary, "") if !(0.0..=1.0).contains(&self.number("quantile")) => Err(format!(
                "summary sample {} lacks a label quantile between 0 and 1",
                self.labels
            )),
            _ => Ok(()),
        }
    }

    fn check_value(&self, kind: MetricKind, suffix: &str) -> Outcome {
        let value = self.value;
        let counts = matches!(suffix, "_total" | "_sum" | "_count" | "_bucket" | "_gcount");
        let broken = match (kind, suffix) {
            (MetricKind::StateSet, _) if value != 0.0 && value != 1.0 => "stateset samples are 0 or 1",
            (MetricKind::Info, _) if value != 1.0 => "info samples are 1",
            (MetricKind::Summary, "") if value < 0.0 => "quantiles are not negative",
            _ if (counts || suffix == "_gsum") && value.is_nan() => "counters are not NaN",
            _ if counts && value < 0.0 => "counters are not negative",
            (_, "_bucket" | "_count" | "_gcount") if value.fract() != 0.0 => "counts are integers",
            _ => return Ok(()),
        };
        Err(format!("sample {} has the value {value}: {broken}", self.labels))
    }
}
