//! What comes of a fragment, to and from its message.

use bytes::Bytes;
use gnomon_model::{Labels, LabelsRef};
use gnomon_promql::partial::{Note, Partial, PartialColumn, PartialGroup, PartialNumbers};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::{self, partial_group::Numbers};

fn labels_to_wire(labels: &Labels) -> Bytes {
    Bytes::copy_from_slice(labels.as_bytes())
}

/// Puts pieces into one message.
#[must_use]
pub fn to_wire(partials: Vec<Partial>) -> v1::EvaluateBatch {
    let mut batch = v1::EvaluateBatch::default();
    for partial in partials {
        match partial {
            Partial::Group(group) => batch.groups.push(group_to_wire(group)),
            Partial::Column(column) => batch.columns.push(column_to_wire(&column)),
            Partial::Note(note) => batch.notes.push(v1::PartialNote {
                is_warning: note.is_warning,
                at: note.at as u64,
                text: note.text,
            }),
            Partial::Read { series, samples } => {
                batch.series += series;
                batch.samples += samples;
            }
        }
    }
    batch
}

fn group_to_wire(group: PartialGroup) -> v1::PartialGroup {
    let numbers = match group.numbers {
        PartialNumbers::None => None,
        PartialNumbers::Extremes(best) => Some(Numbers::Extremes(v1::PartialExtremes { best })),
        PartialNumbers::Sums { high, low, wide } => Some(Numbers::Sums(v1::PartialSums {
            high,
            low,
            wide: wide
                .into_iter()
                .map(|(step, digits)| v1::WideSum {
                    step: u32::try_from(step).unwrap_or(u32::MAX),
                    digits,
                })
                .collect(),
        })),
    };
    v1::PartialGroup {
        labels: labels_to_wire(&group.labels),
        drop_name: group.drop_name,
        origin: labels_to_wire(&group.origin),
        counts: group.counts,
        numbers,
    }
}

fn column_to_wire(column: &PartialColumn) -> v1::PartialColumn {
    let all = column.present.iter().all(|present| *present);
    let mut bits = vec![0u8; if all { 0 } else { column.present.len().div_ceil(8) }];
    let mut values = Vec::with_capacity(column.values.len());
    for (i, (present, value)) in column.present.iter().zip(&column.values).enumerate() {
        if *present {
            values.push(*value);
            if let Some(byte) = bits.get_mut(i / 8) {
                *byte |= 1 << (i % 8);
            }
        }
    }
    v1::PartialColumn {
        origin: labels_to_wire(&column.origin),
        other_labels: (column.labels != column.origin).then(|| labels_to_wire(&column.labels)),
        drop_name: column.drop_name,
        present: bits.into(),
        values,
    }
}

fn malformed(what: &str) -> ServiceError {
    ServiceError::Internal(format!("a part of an answer has {what}"))
}

/// The pieces of a message, for so many steps.
///
/// # Errors
/// `Internal` where the message is none that a shard makes.
pub fn from_wire(batch: v1::EvaluateBatch, steps: usize) -> Result<Vec<Partial>, ServiceError> {
    let mut partials = Vec::with_capacity(batch.groups.len() + batch.columns.len() + batch.notes.len() + 1);
    for group in batch.groups {
        partials.push(Partial::Group(group_from_wire(group)?));
    }
    for column in batch.columns {
        partials.push(Partial::Column(column_from_wire(column, steps)?));
    }
    for note in batch.notes {
        partials.push(Partial::Note(Note {
            is_warning: note.is_warning,
            at: usize::try_from(note.at).map_err(|_| malformed("a note beyond the query"))?,
            text: note.text,
        }));
    }
    if batch.series > 0 || batch.samples > 0 {
        partials.push(Partial::Read {
            series: batch.series,
            samples: batch.samples,
        });
    }
    Ok(partials)
}

fn labels_from_wire(bytes: &[u8]) -> Result<Labels, ServiceError> {
    let labels = LabelsRef::checked(bytes).map_err(|e| ServiceError::Internal(e.to_string()))?;
    Ok(labels.to_owned())
}

fn group_from_wire(group: v1::PartialGroup) -> Result<PartialGroup, ServiceError> {
    Ok(PartialGroup {
        labels: labels_from_wire(&group.labels)?,
        drop_name: group.drop_name,
        origin: labels_from_wire(&group.origin)?,
        counts: group.counts,
        numbers: match group.numbers {
            None => PartialNumbers::None,
            Some(Numbers::Extremes(extremes)) => PartialNumbers::Extremes(extremes.best),
            Some(Numbers::Sums(sums)) => PartialNumbers::Sums {
                high: sums.high,
                low: sums.low,
                wide: sums
                    .wide
                    .into_iter()
                    .map(|wide| (wide.step as usize, wide.digits))
                    .collect(),
            },
        },
    })
}

fn column_from_wire(column: v1::PartialColumn, steps: usize) -> Result<PartialColumn, ServiceError> {
    let origin = labels_from_wire(&column.origin)?;
    let labels = match &column.other_labels {
        None => origin.clone(),
        Some(labels) => labels_from_wire(labels)?,
    };
    let bit = |i: usize| column.present.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1);
    let present: Vec<bool> = if column.present.is_empty() {
        vec![column.values.len() == steps; steps]
    } else {
        (0..steps).map(bit).collect()
    };
    if present.iter().filter(|present| **present).count() != column.values.len() {
        return Err(malformed("more or fewer values than it says"));
    }
    let mut given = column.values.into_iter();
    let values = present
        .iter()
        .map(|present| if *present { given.next().unwrap_or(0.0) } else { 0.0 });
    Ok(PartialColumn {
        values: values.collect(),
        origin,
        labels,
        drop_name: column.drop_name,
        present,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_survive_the_wire() {
        let origin = Labels::from_pairs([("__name__", "x"), ("job", "a")]);
        let job = Labels::from_pairs([("job", "a")]);
        let column = |labels: &Labels, present: [bool; 3]| {
            Partial::Column(PartialColumn {
                origin: origin.clone(),
                labels: labels.clone(),
                drop_name: true,
                present: present.to_vec(),
                values: present.map(|there| if there { 1.5 } else { 0.0 }).to_vec(),
            })
        };
        let group = |numbers| {
            Partial::Group(PartialGroup {
                labels: job.clone(),
                drop_name: false,
                origin: origin.clone(),
                counts: vec![3, 0, 1],
                numbers,
            })
        };
        let partials = vec![
            group(PartialNumbers::None),
            group(PartialNumbers::Extremes(vec![1.0, f64::INFINITY, -0.0])),
            group(PartialNumbers::Sums {
                high: vec![1e300, 0.0, 2.0],
                low: vec![1.0, 0.0, 0.0],
                wide: vec![(2, vec![1, -5, 1 << 40])],
            }),
            column(&origin, [true; 3]),
            column(&job, [true, false, true]),
            column(&Labels::empty(), [false, false, true]),
            Partial::Note(Note {
                is_warning: true,
                at: 7,
                text: "so".into(),
            }),
            Partial::Read { series: 4, samples: 9 },
        ];
        let bytes = prost::Message::encode_to_vec(&to_wire(partials.clone()));
        let read: v1::EvaluateBatch = prost::Message::decode(bytes.as_slice()).unwrap();
        assert_eq!(from_wire(read, 3).unwrap(), partials);
    }

    #[test]
    fn malformed_pieces_are_refused() {
        let column = v1::PartialColumn {
            present: vec![0b101].into(),
            values: vec![1.0],
            ..v1::PartialColumn::default()
        };
        let batch = |column| v1::EvaluateBatch {
            columns: vec![column],
            ..v1::EvaluateBatch::default()
        };
        assert!(from_wire(batch(column.clone()), 3).is_err());
        assert!(
            from_wire(
                batch(v1::PartialColumn {
                    origin: vec![9, 9].into(),
                    ..column
                }),
                3
            )
            .is_err()
        );
    }
}
