//! The tables.

use crate::queries::{Query, Range};
use crate::side_by_side::number;

/// What one server took for one query.
#[derive(Debug, Default)]
pub(crate) struct Times {
    seconds: Vec<f64>,
    cpu: f64,
}

impl Times {
    pub(crate) fn add(&mut self, seconds: f64, cpu: f64) {
        self.seconds.push(seconds);
        self.cpu += cpu;
    }

    /// Milliseconds: the median, or the least where that is asked for.
    fn usual(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = if number("LEAST", 0) > 0 { 0 } else { sorted.len() / 2 };
        sorted.get(at).copied().unwrap_or(f64::NAN) * 1e3
    }
}

/// One query's, a server each.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) series: usize,
    pub(crate) times: Vec<Times>,
}

fn described(range: Range, hours: f64) -> String {
    match range {
        Range::Instant => "instant".to_owned(),
        Range::Steps { share, step_s } => format!("{:.1} h, {step_s} s", hours * share),
    }
}

fn geometric_mean(ratios: impl Iterator<Item = f64>) -> f64 {
    let logs: Vec<f64> = ratios.map(f64::ln).collect();
    (logs.iter().sum::<f64>() / logs.len() as f64).exp()
}

/// Milliseconds of each server, the first one's as shares of the others', and the CPU of all.
pub(crate) fn print(names: &[&str], all: &[(&Query, Range, Figures)], hours: f64) {
    let Some((own, others)) = names.split_first() else {
        return;
    };
    let ratios = others.iter().map(|other| format!("{own} : {other}"));
    let heads: Vec<String> = names.iter().map(|n| format!("{n}, ms")).chain(ratios).collect();
    println!("| query | range, step | series | {} |", heads.join(" | "));
    println!("|---|---|---:|{}", "---:|".repeat(heads.len()));
    let ratio = |figures: &Figures, other: usize| figures.times[0].usual() / figures.times[other].usual();
    for (query, range, figures) in all {
        let times = figures.times.iter().map(|t| format!("{:.2}", t.usual()));
        let ratios = (1..names.len()).map(|other| format!("{:.2}", ratio(figures, other)));
        let cells: Vec<String> = times.chain(ratios).collect();
        let text = query.text.replace('|', "\\|");
        println!(
            "| `{text}` | {} | {} | {} |",
            described(*range, hours),
            figures.series,
            cells.join(" | ")
        );
    }
    println!();
    let cpu = |server: usize| all.iter().map(|(_, _, f)| f.times[server].cpu).sum::<f64>();
    for (server, name) in names.iter().enumerate() {
        println!("{name}: {:.2} CPU s for all", cpu(server));
    }
    for (at, other) in others.iter().enumerate() {
        let mean = geometric_mean(all.iter().map(|(_, _, f)| ratio(f, at + 1)));
        let cpu = cpu(0) / cpu(at + 1);
        println!("{own} : {other} = {mean:.3} of its latency (geometric mean), {cpu:.3} of its CPU");
    }
    for (query, _, figures) in all {
        for (at, other) in others.iter().enumerate() {
            let (ours, theirs) = (figures.times[0].usual(), figures.times[at + 1].usual());
            if ours > theirs * 1.05 && ours > theirs + 0.3 {
                println!("slower than {other}: {ours:.2} ms, not {theirs:.2}: {}", query.text);
            }
        }
    }
    println!();
}
