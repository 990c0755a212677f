//! A series over all steps of a node: one column entry a step.

use crate::limits::EvalError;
use gnomon_model::histogram::FloatHistogram;
use gnomon_model::{Labels, LabelsRef, METRIC_NAME};
use hashbrown::HashMap;
use std::sync::Arc;

/// What a column has at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Absent,
    Float,
    Histogram,
}

/// What a column takes beside its entries: itself, its allocations, its place in a map.
pub(crate) const OVERHEAD_BYTES: u64 = 256;

/// One value, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Point<'a> {
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) labels: Labels,
    /// The metric's name is to be dropped at the end (delayed name removal).
    pub(crate) drop_name: bool,
    pub(crate) floats: Vec<f64>,
    pub(crate) kinds: Vec<Kind>,
    /// Empty, or an entry a step.
    histograms: Vec<Option<Arc<FloatHistogram>>>,
}

impl Column {
    pub(crate) fn empty(labels: Labels, n: usize) -> Self {
        Self {
            labels,
            drop_name: false,
            floats: vec![0.0; n],
            kinds: vec![Kind::Absent; n],
            histograms: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn has_any(&self) -> bool {
        self.kinds.iter().any(|kind| *kind != Kind::Absent)
    }

    /// Whether there may be histograms.
    pub(crate) fn has_histograms(&self) -> bool {
        !self.histograms.is_empty()
    }

    pub(crate) fn present(&self, i: usize) -> bool {
        self.kinds[i] != Kind::Absent
    }

    pub(crate) fn get(&self, i: usize) -> Option<Point<'_>> {
        match self.kinds[i] {
            Kind::Absent => None,
            Kind::Float => Some(Point::Float(self.floats[i])),
            Kind::Histogram => self.histograms.get(i).and_then(Option::as_ref).map(Point::Histogram),
        }
    }

    pub(crate) fn float(&self, i: usize) -> Option<f64> {
        (self.kinds[i] == Kind::Float).then(|| self.floats[i])
    }

    pub(crate) fn set_float(&mut self, i: usize, value: f64) {
        self.floats[i] = value;
        self.kinds[i] = Kind::Float;
    }

    pub(crate) fn set_histogram(&mut self, i: usize, value: Arc<FloatHistogram>) {
        if self.histograms.is_empty() {
            self.histograms.resize(self.kinds.len(), None);
        }
        self.histograms[i] = Some(value);
        self.kinds[i] = Kind::Histogram;
    }

    pub(crate) fn set(&mut self, i: usize, point: Point<'_>) {
        match point {
            Point::Float(value) => self.set_float(i, value),
            Point::Histogram(value) => self.set_histogram(i, Arc::clone(value)),
        }
    }

    pub(crate) fn clear(&mut self, i: usize) {
        self.kinds[i] = Kind::Absent;
        if let Some(slot) = self.histograms.get_mut(i) {
            *slot = None;
        }
    }

    /// How many plain samples the column weighs.
    pub(crate) fn weight(&self) -> u64 {
        let histograms: u64 = self.histograms.iter().flatten().map(|h| h.weight()).sum();
        self.kinds.len() as u64 + histograms
    }

    /// Bytes in memory, labels and bookkeeping included.
    pub(crate) fn bytes(&self) -> u64 {
        let histograms: u64 = self.histograms.iter().flatten().map(|h| 16 * h.weight()).sum();
        let labels = self.labels.as_bytes().len() as u64;
        OVERHEAD_BYTES + labels + (9 * self.kinds.len() + 8 * self.histograms.len()) as u64 + histograms
    }

    /// Repeats the only step `n` times.
    pub(crate) fn repeated(&self, n: usize) -> Self {
        let mut out = Self::empty(self.labels.clone(), n);
        out.drop_name = self.drop_name;
        if let Some(point) = (self.len() > 0).then(|| self.get(0)).flatten() {
            for i in 0..n {
                out.set(i, point);
            }
        }
        out
    }

    /// Drops the name now, or notes that it is to be dropped.
    pub(crate) fn without_name(mut self, delayed: bool) -> Self {
        self.drop_name = true;
        if !delayed {
            self.labels = drop_name(&self.labels);
        }
        self
    }
}

/// Whether a label describes the metric rather than the series: it goes when the values are no longer the metric's.
pub(crate) fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

/// Appends the labels whose names are wanted, in canonical bytes.
pub(crate) fn write_retained(labels: &Labels, keep: impl Fn(&str) -> bool, out: &mut Vec<u8>) {
    for pair in labels.as_ref().raw_pairs() {
        if std::str::from_utf8(pair.name).is_ok_and(&keep) {
            out.extend_from_slice(pair.bytes);
        }
    }
}

/// The labels whose names are wanted.
pub(crate) fn retained(labels: &Labels, keep: impl Fn(&str) -> bool) -> Labels {
    let mut bytes = Vec::with_capacity(labels.as_bytes().len());
    write_retained(labels, keep, &mut bytes);
    LabelsRef::from_canonical(&bytes).to_owned()
}

pub(crate) fn drop_name(labels: &Labels) -> Labels {
    if labels.iter().any(|(name, _)| is_metadata(name)) {
        retained(labels, |name| !is_metadata(name))
    } else {
        labels.clone()
    }
}

pub(crate) fn same_labelset() -> EvalError {
    EvalError::execution("vector cannot contain metrics with the same labelset")
}

/// Makes one column of those with equal labels; two values at one step are an error.
pub(crate) fn merge_same_labels(columns: Vec<Column>) -> Result<Vec<Column>, EvalError> {
    let mut at: HashMap<Labels, usize> = HashMap::with_capacity(columns.len());
    let mut out: Vec<Column> = Vec::with_capacity(columns.len());
    for column in columns {
        match at.get(&column.labels) {
            None => {
                at.insert(column.labels.clone(), out.len());
                out.push(column);
            }
            Some(&into) => {
                let into = &mut out[into];
                for i in 0..column.len() {
                    let Some(point) = column.get(i) else { continue };
                    if into.present(i) {
                        return Err(same_labelset());
                    }
                    into.set(i, point);
                }
            }
        }
    }
    Ok(out)
}
