//! What three replicas cost beside one, and whether the cost of a sample stays the same with more shards.

use crate::compared::{self, Row};
use crate::nodes::Shape;
use crate::side_by_side::grouped;
use crate::written::{PER_REQUEST, Written, measure};

/// One replica on one node, and three on three, under the same load.
pub(crate) async fn run(series: usize, rounds: usize, shards: usize) {
    let Some(one) = measure(Shape::ingesters(1, shards, 1), series, rounds).await else {
        return;
    };
    let Some(three) = measure(Shape::ingesters(3, shards, 3), series, rounds).await else {
        return;
    };
    let rows: [Row<Written>; 9] = [
        ("CPU s per million samples, all nodes", 2, Written::cpu_per_million),
        ("samples per second", 0, Written::samples_per_second),
        ("bytes on the wire per sample, from senders to nodes", 1, |w| {
            w.writing.from_outside_bytes / w.samples
        }),
        ("bytes on the wire per sample, between nodes", 1, |w| {
            (w.writing.received_bytes - w.writing.from_outside_bytes) / w.samples
        }),
        ("bytes of log per sample, all nodes", 1, |w| {
            w.writing.log_bytes / w.samples
        }),
        ("syncs of the log per million samples, all nodes", 0, |w| {
            w.writing.fsyncs / w.samples * 1e6
        }),
        ("bytes uploaded per sample", 3, |w| w.all.uploaded_bytes / w.samples),
        ("anonymous memory, KiB per series, all nodes", 2, |w| {
            (w.loaded_kib - w.idle_kib) / w.series
        }),
        ("… per series and replica, bytes", 0, |w| {
            (w.loaded_kib - w.idle_kib) / w.series / w.replicas * 1024.0
        }),
    ];
    println!(
        "Replication: {} series, {rounds} samples of each, {} a request, {shards} shards, in one window that is sealed and \
         uploaded:\n",
        grouped(series as f64),
        grouped(PER_REQUEST as f64)
    );
    compared::print(&one, &three, &rows);
}

/// One node with ever more shards.
pub(crate) async fn by_shards(series: usize, rounds: usize) {
    println!(
        "Shards: 1 node, 1 replica, {} series, {rounds} samples of each:\n",
        grouped(series as f64)
    );
    println!(
        "| shards | CPU s per million samples | samples per second | bytes of log per sample | syncs per million samples |"
    );
    println!("|---:|---:|---:|---:|---:|");
    for shards in [1, 2, 4, 8] {
        let Some(written) = measure(Shape::ingesters(1, shards, 1), series, rounds).await else {
            return;
        };
        println!(
            "| {shards} | {:.2} | {} | {:.1} | {} |",
            written.cpu_per_million(),
            grouped(written.samples_per_second()),
            written.writing.log_bytes / written.samples,
            grouped(written.writing.fsyncs / written.samples * 1e6)
        );
    }
    println!();
}
