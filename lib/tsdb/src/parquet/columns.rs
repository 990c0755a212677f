//! Values of columns, and how they are written.

use gnomon_model::labels::put_uvarint;

const ZSTD_LEVEL: i32 = 3;

/// A page's body.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    /// Before it was compressed.
    pub(super) raw_len: usize,
}

/// # Errors
/// When the library fails.
pub(super) fn compressed(raw: &[u8]) -> std::io::Result<Encoded> {
    Ok(Encoded {
        bytes: zstd::bulk::compress(raw, ZSTD_LEVEL)?,
        raw_len: raw.len(),
    })
}

/// Equal values one after another, and how many: a run of the hybrid encoding is `count << 1: uvarint  value`.
#[derive(Default)]
pub(super) struct Runs(Vec<(u32, u64)>);

impl Runs {
    pub(super) fn push(&mut self, value: u32) {
        match self.0.last_mut() {
            Some((last, count)) if *last == value => *count += 1,
            _ => self.0.push((value, 1)),
        }
    }

    /// Values of so many bits, each in whole bytes.
    fn write(&self, bits: u32, out: &mut Vec<u8>) {
        for (value, count) in &self.0 {
            put_uvarint(out, count << 1);
            out.extend_from_slice(&value.to_le_bytes()[..bits.div_ceil(8) as usize]);
        }
    }

    /// Definition levels: 1 where there is a value, 0 where there is none.
    pub(super) fn levels(&self) -> Vec<u8> {
        let mut runs = Vec::new();
        self.write(1, &mut runs);
        [&(runs.len() as u32).to_le_bytes()[..], &runs].concat()
    }
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Texts that come many times in a row: each is written once in a row group.
#[derive(Default)]
pub(super) struct Dictionary {
    values: Vec<u8>,
    last: Option<String>,
    count: u32,
    runs: Runs,
}

impl Dictionary {
    pub(super) fn push(&mut self, text: &str) {
        if self.last.as_deref() != Some(text) {
            put_text(&mut self.values, text);
            self.last = Some(text.to_owned());
            self.count += 1;
        }
        self.runs.push(self.count - 1);
    }

    pub(super) const fn len(&self) -> usize {
        self.count as usize
    }

    pub(super) const fn bytes(&self) -> usize {
        self.values.len()
    }

    pub(super) fn values(&self) -> &[u8] {
        &self.values
    }

    /// The numbers of the values, after their width.
    pub(super) fn indices(&self) -> Vec<u8> {
        let bits = (32 - self.count.saturating_sub(1).leading_zeros()).max(1);
        let mut out = vec![bits as u8];
        self.runs.write(bits, &mut out);
        out
    }
}
