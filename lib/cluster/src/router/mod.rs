//! From identified samples to shards: who calls it (scrapers, remote write) gives series by identity, the router finds
//! shard and reference, encodes one batch per shard, sends them to the shards' leaders and says what became of it.

mod types;

pub use types::{
    LabelSource, MetricInfo, Refused, SeriesIdentity, Tick, TickExemplar, TickHistogram, TickOutcome, TickSample,
    WriteOutcome,
};

// How it is called:
//
// ```text
// router.batch(&tenant, &labels: dyn LabelSource) -> RouterBatch        rows: remote write, OTLP, import
//     .series(identity, number)                                        begins a series; what follows is about it
//     .sample(ts, value) .histogram(ts, &encoded) .exemplar(ts, value, labels) .metadata(MetricInfo)
//     .send(deadline: Duration).await -> WriteOutcome
// router.push_tick(&Tick, deadline: Duration).await -> Result<TickOutcome, ServiceError>
// ```
