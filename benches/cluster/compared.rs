//! A table of one replica on one node beside three on three.

use crate::side_by_side::grouped;

/// What it is, its digits after the point, and how it is had of what was measured.
pub(crate) type Row<T> = (&'static str, usize, fn(&T) -> f64);

pub(crate) fn print<T>(one: &T, three: &T, rows: &[Row<T>]) {
    println!("| | 1 replica on 1 node | 3 replicas on 3 nodes | ratio |\n|---|---:|---:|---:|");
    for (what, digits, figure) in rows {
        let (a, b) = (figure(one), figure(three));
        // One node tells nobody anything.
        let ratio = if a < 0.05 {
            "-".to_owned()
        } else {
            format!("{:.2}", b / a)
        };
        let [a, b] = [a, b].map(|figure| match *digits {
            0 => grouped(figure),
            digits => format!("{figure:.digits$}"),
        });
        println!("| {what} | {a} | {b} | {ratio} |");
    }
    println!();
}
