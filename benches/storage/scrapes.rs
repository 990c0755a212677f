//! Recorded scrapes of real targets, read by the scraper's own parser. The folder's README says what they are.

use crate::data::{Samples, Series, WINDOW_MS, encoded};
use gnomon_model::LabelsRef;
use gnomon_scraper::parse::{EntryKind, Format, parser_for};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// When samples are said to have been taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spacing {
    /// As recorded: a second apart, with what the client's clock said.
    Recorded,
    /// 15 s apart, each target with its own offset, as a scrape loop that keeps its time stamps even.
    Even,
}

/// Series of all targets, and rounds.
pub(crate) fn read(folder: &Path, spacing: Spacing) -> (Vec<Series>, usize) {
    let entries = std::fs::read_dir(folder).expect("folder of scrapes");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(".scr.zst"));
    paths.sort();
    let (mut series, mut rounds) = (Vec::new(), 0);
    for (number, path) in paths.iter().enumerate() {
        rounds = rounds.max(read_target(path, number, spacing, &mut series));
    }
    (series, rounds)
}

fn read_target(path: &Path, number: usize, spacing: Spacing, all: &mut Vec<Series>) -> usize {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let job = name.trim_end_matches(".scr.zst");
    let mut decoder = zstd::Decoder::new(std::fs::File::open(path).expect("scrapes")).expect("zstd");
    decoder.window_log_max(27).expect("a window");
    let mut text = String::new();
    decoder.read_to_string(&mut text).expect("text");
    let mut by_text: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut rest = text.as_str();
    let (mut round, mut begin_ms) = (0_u32, None);
    while let Some(record) = rest.strip_prefix("#SCRAPE ") {
        let (head, after) = record.split_once('\n').expect("a record's head");
        let (ts, len) = head.split_once(' ').expect("a time and a length");
        let (body, next) = after.split_at(len.parse().expect("a length"));
        rest = next;
        let ts: i64 = ts.parse().expect("a time");
        let begin_ms = *begin_ms.get_or_insert(ts);
        let phase_ms = 50 + 110 * number as i64;
        let at = phase_ms
            + match spacing {
                Spacing::Recorded => ts - begin_ms,
                Spacing::Even => i64::from(round) * 15_000,
            };
        let at = u32::try_from(at.clamp(0, WINDOW_MS - 1)).expect("within a window");
        read_scrape(body.as_bytes(), job, (round, at), &mut by_text, all);
        round += 1;
    }
    round as usize
}

fn read_scrape(
    body: &[u8],
    job: &str,
    (round, at): (u32, u32),
    by_text: &mut HashMap<Vec<u8>, usize>,
    all: &mut Vec<Series>,
) {
    let mut parser = parser_for(Format::Text, body, false, false);
    while let Some(kind) = parser.next_entry().expect("an exposition") {
        if kind != EntryKind::Sample {
            continue;
        }
        let number = by_text.entry(parser.series().to_vec()).or_insert_with(|| {
            let mut labels = Vec::new();
            parser.write_labels(&mut labels).expect("labels");
            let labels = LabelsRef::checked(&labels).expect("canonical labels");
            let mut pairs = vec![("job", job), ("instance", "localhost:9100")];
            // What a target exposes of its own wins here, as with honor_labels.
            pairs.retain(|(name, _)| labels.get(name).is_none());
            pairs.extend(labels.iter());
            all.push(Series {
                labels: encoded(&pairs),
                samples: Samples::Recorded(Vec::new()),
            });
            all.len() - 1
        });
        let value = parser.value();
        if let Samples::Recorded(samples) = &mut all[*number].samples
            && samples.last().is_none_or(|(_, last, _)| *last < at)
        {
            samples.push((round, at, value));
        }
    }
}
