//! Counts of a head, for status pages and metrics.

use super::{Head, OpenWindow, WindowPages};
use gnomon_model::METRIC_NAME;
use gnomon_proto::v1::{HeadStatsResponse, NameCount};

impl Head {
    /// Adds this head's figures; lists are merged and cut by the caller.
    pub(crate) fn add_stats(&self, stats: &mut HeadStatsResponse, with_lists: bool) {
        stats.series += self.series_count();
        stats.label_pairs += self.index.pair_count() as u64;
        stats.sealed_parts += self.sealed.len() as u64;
        stats.samples += self.windows.values().map(|w| w.samples).sum::<u64>();
        stats.samples += self.sealed.values().map(|p| p.samples).sum::<u64>();
        let pages =
            |window: &OpenWindow| -> usize { window.all_pages().map(|pages| pages.page_count(&window.room)).sum() };
        stats.pages += self.windows.values().map(pages).sum::<usize>() as u64;
        if !with_lists {
            return;
        }
        for (name, pairs) in self.index.names() {
            stats
                .label_value_count_by_label_name
                .push(count(name, pairs.len() as u64));
            let bytes = pairs.iter().map(|id| self.index.text(*id).1.len() as u64).sum();
            stats.memory_bytes_by_label_name.push(count(name, bytes));
            for id in pairs {
                let carried = self.index.postings(*id).map_or(0, |p| p.len());
                let value = self.index.text(*id).1;
                if name == METRIC_NAME {
                    stats.series_count_by_metric_name.push(count(value, carried));
                }
                let pair = format!("{name}={value}");
                stats.series_count_by_label_pair.push(count(&pair, carried));
            }
        }
    }

    /// First and last sample of the open windows and sealed parts, inclusive.
    pub(crate) fn time_bounds(&self) -> Option<(i64, i64)> {
        // Windows follow each other: no sample of a later one is older, and only those of the first are looked through.
        let first = self.windows.values().find_map(|window| {
            let all = window.all_pages();
            all.map(|pages: &WindowPages| pages.first_ms(&window.room)).min()
        });
        let mut newest_first = self.windows.values().rev();
        let last = newest_first.find_map(|window| window.all_pages().map(|pages| pages.last_ms).max());
        let open = first.zip(last);
        let sealed = self.sealed.values().map(|p| (p.min_ms, p.max_ms));
        open.into_iter()
            .chain(sealed)
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }
}

fn count(name: &str, value: u64) -> NameCount {
    NameCount {
        name: name.to_owned(),
        value,
    }
}
