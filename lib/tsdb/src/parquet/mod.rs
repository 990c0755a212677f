//! Parquet files of samples, one row each, as DuckDB, pandas, Spark and others read them.
//!
//! ```text
//! "PAR1"  { row group: column chunk* }*  footer  length of the footer: u32 little-endian  "PAR1"
//! column chunk = [ page of the dictionary ]  page of the values
//! page = header  zstd( [ length: u32  definition levels ]  values )
//! ```
//! The format is that of <https://github.com/apache/parquet-format>; headers and footer are in Thrift's compact protocol
//! (`thrift.rs`). Columns:
//!
//! | name | type | |
//! |---|---|---|
//! | `name` | string | the metric's name; empty without one |
//! | `labels` | string | the other labels, a JSON object |
//! | `timestamp` | timestamp, milliseconds, UTC | |
//! | `value` | double, null for histograms | |
//! | `histogram` | string, null for floats | a JSON object |
//! | `start` | timestamp, milliseconds, UTC, null where it is not known | since when the counter counts |

mod columns;
mod footer;
mod thrift;
mod writer;

#[cfg(test)]
mod tests;

pub use writer::ParquetWriter;
