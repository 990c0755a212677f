//! Prometheus' TSDB blocks, read and written: a folder with `meta.json`, `index`, `chunks/000001…` and `tombstones`.
//!
//! The formats are those of the documents `tsdb/docs/format/*.md` in Prometheus' repository (and, for the bits of a
//! chunk, of its package `tsdb/chunkenc`): index versions 1 and 2, chunks of the encodings XOR, histogram, float
//! histogram and XOR2. Numbers of fixed length are big-endian, checksums are CRC-32C.
//!
//! Reading never writes into the folder. Memory: the symbol table, a few hundred KiB of each file, and one chunk.

mod bits;
mod block;
mod chunk;
mod error;
mod file;
mod histogram;
mod index;
mod meta;
mod segments;
mod tombstones;
mod ulid;
mod writer;
mod xor;
mod xor2;

#[cfg(test)]
mod tests;

pub use block::{TsdbBlock, blocks_below};
pub use chunk::{Chunk, decode_chunk, decode_started, encode_chunks};
pub use error::TsdbError;
pub use index::{ChunkAt, SeriesAt};
pub use meta::{Compaction, Downsample, Stats, Thanos, TsdbMeta};
pub use ulid::Ulid;
pub use writer::{TsdbWriter, WrittenBlock};
