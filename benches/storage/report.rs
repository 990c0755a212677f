//! The tables.

use crate::blocks::Speed;
use std::collections::BTreeMap;

/// One server's, or one kind of blocks'.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) series: u64,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
    pub(crate) index_bytes: u64,
    pub(crate) note: String,
    pub(crate) parts: Vec<(&'static str, u64)>,
}

pub(crate) fn print(rows: &[Row]) {
    println!("| | samples | bytes | bytes a sample | index and labels, bytes a series | |");
    println!("|---|---:|---:|---:|---:|---|");
    for row in rows {
        println!(
            "| {} | {} | {} | {:.4} | {:.2} | {} |",
            row.name,
            row.samples,
            row.bytes,
            row.bytes as f64 / row.samples as f64,
            row.index_bytes as f64 / row.series as f64,
            row.note,
        );
    }
    println!();
    for row in rows.iter().filter(|row| !row.parts.is_empty()) {
        println!("{}, {} series:\n", row.name, row.series);
        println!("| part | bytes | a sample | a series |");
        println!("|---|---:|---:|---:|");
        for (name, len) in row.parts.iter().filter(|(_, len)| *len > 0) {
            println!(
                "| {name} | {len} | {:.4} | {:.2} |",
                *len as f64 / row.samples as f64,
                *len as f64 / row.series as f64,
            );
        }
        println!();
    }
}

pub(crate) fn print_speed(speed: &Speed, requests: &BTreeMap<u64, usize>) {
    println!(
        "On one core, the largest merged block: decoding {:.0} million samples/s, encoding {:.1}, writing the block of \
         pages that are there {:.0} ({:.0} thousand series/s).",
        speed.decode, speed.encode, speed.write, speed.write_series,
    );
    let counts: Vec<String> = requests
        .iter()
        .map(|(ranges, series)| format!("{ranges} ({series} series)"))
        .collect();
    println!(
        "Ranges that a read of one series takes, its footer known: {}.\n",
        counts.join(", ")
    );
}
