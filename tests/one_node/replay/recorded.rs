//! Expositions as they came off the wire of real exporters, with the time of their step put to each sample.

use crate::harness::shared;
use std::io::Read as _;

/// The recordings are kept with a window of 128 MiB.
const WINDOW_LOG: u32 = 27;

/// The recording `name`, every other scrape of it, `steps` of them; none where there is no recording.
pub(super) fn recording(name: &str, steps: usize) -> Option<Vec<String>> {
    let path = shared("realdata")?.join(format!("{name}.scr.zst"));
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut reader = zstd::stream::read::Decoder::new(file).expect("zstd");
    reader.window_log_max(WINDOW_LOG).expect("window");
    let mut reader = std::io::BufReader::new(reader);
    let mut scrapes = Vec::with_capacity(steps);
    for number in 0.. {
        let mut head = String::new();
        std::io::BufRead::read_line(&mut reader, &mut head).expect("a header");
        let length = head.trim_end().rsplit(' ').next().and_then(|n| n.parse::<usize>().ok());
        let mut text = vec![0; length.expect("a length")];
        reader.read_exact(&mut text).expect("a scrape");
        if number % 2 == 0 {
            scrapes.push(String::from_utf8(text).expect("text"));
        }
        if scrapes.len() == steps {
            break;
        }
    }
    Some(scrapes)
}

/// Adds the time to every sample.
pub(super) fn at(exposition: &str, at_ms: i64) -> String {
    let mut out = String::with_capacity(exposition.len() * 3 / 2);
    for line in exposition.lines() {
        out.push_str(line);
        if !line.is_empty() && !line.starts_with('#') {
            out.push_str(&format!(" {at_ms}"));
        }
        out.push('\n');
    }
    out
}
