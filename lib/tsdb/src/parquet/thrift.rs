//! Thrift's compact protocol, as much of it as is written.
//!
//! ```text
//! struct = { field }*  0: u8
//! field  = id - id before: 4 bits   type: 4 bits   value         (ids ascend by 1 to 15)
//! int    = uvarint zigzag      text = len: uvarint bytes      list = n: 4 bits (15: uvarint follows)  type: 4 bits  values
//! ```

use gnomon_model::labels::put_uvarint;

const TRUE: u8 = 1;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

const fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// A struct that is being written: fields in ascending order of their ids.
#[derive(Default)]
pub(super) struct Struct {
    bytes: Vec<u8>,
    last: u8,
}

impl Struct {
    fn begin(&mut self, id: u8, kind: u8) {
        debug_assert!(id > self.last && id - self.last < 16, "ids ascend");
        self.bytes.push((id - self.last) << 4 | kind);
        self.last = id;
    }

    pub(super) fn i32(mut self, id: u8, value: i32) -> Self {
        self.begin(id, I32);
        put_uvarint(&mut self.bytes, zigzag(i64::from(value)));
        self
    }

    pub(super) fn i64(mut self, id: u8, value: i64) -> Self {
        self.begin(id, I64);
        put_uvarint(&mut self.bytes, zigzag(value));
        self
    }

    /// A boolean that is true.
    pub(super) fn yes(mut self, id: u8) -> Self {
        self.begin(id, TRUE);
        self
    }

    pub(super) fn text(mut self, id: u8, value: &[u8]) -> Self {
        self.begin(id, BINARY);
        put_uvarint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    pub(super) fn nested(mut self, id: u8, value: Self) -> Self {
        self.begin(id, STRUCT);
        self.bytes.extend_from_slice(&value.finish());
        self
    }

    fn list(&mut self, id: u8, len: usize, kind: u8) {
        self.begin(id, LIST);
        if len < 15 {
            self.bytes.push((len as u8) << 4 | kind);
        } else {
            self.bytes.push(0xf0 | kind);
            put_uvarint(&mut self.bytes, len as u64);
        }
    }

    pub(super) fn structs(mut self, id: u8, values: Vec<Self>) -> Self {
        self.list(id, values.len(), STRUCT);
        for value in values {
            self.bytes.extend_from_slice(&value.finish());
        }
        self
    }

    pub(super) fn i32s(mut self, id: u8, values: &[i32]) -> Self {
        self.list(id, values.len(), I32);
        for value in values {
            put_uvarint(&mut self.bytes, zigzag(i64::from(*value)));
        }
        self
    }

    pub(super) fn texts(mut self, id: u8, values: &[&str]) -> Self {
        self.list(id, values.len(), BINARY);
        for value in values {
            put_uvarint(&mut self.bytes, value.len() as u64);
            self.bytes.extend_from_slice(value.as_bytes());
        }
        self
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}
