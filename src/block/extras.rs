//! What two blocks have beside samples, and do not have alike.

use gnomon_querier::Rfc3339;
use gnomon_tsdb::{BlockExemplars, BlockReader, Exemplar, ExemplarFilter, MetricMetadata, SeriesExemplars};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One line for each exemplar that only one of two blocks has, and for each metric of which they say another thing.
pub(super) async fn differences(blocks: &[Arc<BlockReader>]) -> anyhow::Result<Vec<String>> {
    let [first, second] = blocks else {
        return Ok(Vec::new());
    };
    let mut out = of_exemplars(first, second).await?;
    let metadata = |all: Vec<(String, MetricMetadata)>| all.into_iter().collect::<BTreeMap<_, _>>();
    let (first, second) = (
        metadata(first.metadata(None).await?),
        metadata(second.metadata(None).await?),
    );
    let metrics: BTreeSet<_> = first.keys().chain(second.keys()).collect();
    for metric in metrics {
        // Until when it was known does not count: a merge joins that.
        let said = |all: &BTreeMap<String, MetricMetadata>| {
            let known = all.get(metric);
            known.map(|known| (known.kind.clone(), known.unit.clone(), known.help.clone()))
        };
        let (a, b) = (said(&first), said(&second));
        if a != b {
            let text = |said: Option<(String, String, String)>| {
                said.map_or_else(|| "nothing".to_owned(), |said| format!("{said:?}"))
            };
            out.push(format!("metadata of {metric}: {} and {}", text(a), text(b)));
        }
    }
    Ok(out)
}

async fn of_exemplars(first: &Arc<BlockReader>, second: &Arc<BlockReader>) -> anyhow::Result<Vec<String>> {
    let mut out = Vec::new();
    let mut sources = [
        Whole::new(first.exemplars(ExemplarFilter::default()).await?),
        Whole::new(second.exemplars(ExemplarFilter::default()).await?),
    ];
    let (mut a, mut b) = (sources[0].next().await?, sources[1].next().await?);
    loop {
        // The lower one of the two, or both.
        let labels = match (&a, &b) {
            (None, None) => return Ok(out),
            (Some(one), None) | (None, Some(one)) => one.labels.clone(),
            (Some(a), Some(b)) => a.labels.clone().min(b.labels.clone()),
        };
        let of_a = a.take_if(|series| series.labels == labels);
        let of_b = b.take_if(|series| series.labels == labels);
        let lacking = |of: &Option<SeriesExemplars>, other: &Option<SeriesExemplars>| -> Vec<Exemplar> {
            let other = other.as_ref().map_or(&[][..], |series| &series.exemplars);
            let its = of.iter().flat_map(|series| &series.exemplars);
            its.filter(|exemplar| other.binary_search(exemplar).is_err())
                .cloned()
                .collect()
        };
        for (which, only) in [("first", lacking(&of_a, &of_b)), ("second", lacking(&of_b, &of_a))] {
            for exemplar in only {
                let (time, value) = (Rfc3339(exemplar.timestamp_ms), exemplar.value);
                let what = format!("only the {which} block has the exemplar {value} {}", exemplar.labels);
                out.push(format!("{labels}: {time}: {what}"));
            }
        }
        if of_a.is_some() {
            a = sources[0].next().await?;
        }
        if of_b.is_some() {
            b = sources[1].next().await?;
        }
    }
}

/// Exemplars of a block with all pieces of a series together.
struct Whole {
    source: BlockExemplars,
    next: Option<SeriesExemplars>,
}

impl Whole {
    const fn new(source: BlockExemplars) -> Self {
        Self { source, next: None }
    }

    async fn next(&mut self) -> anyhow::Result<Option<SeriesExemplars>> {
        let first = match self.next.take() {
            Some(first) => Some(first),
            None => self.source.next().await?,
        };
        let Some(mut whole) = first else { return Ok(None) };
        while let Some(mut piece) = self.source.next().await? {
            if piece.labels != whole.labels {
                self.next = Some(piece);
                break;
            }
            whole.exemplars.append(&mut piece.exemplars);
        }
        Ok(Some(whole))
    }
}
