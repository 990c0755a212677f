//! What the end of the file says: the schema, and where each column of each row group is. Field numbers are those of
//! `parquet.thrift`.

use super::columns::Encoded;
use super::thrift::Struct;

const INT64: i32 = 2;
const DOUBLE: i32 = 5;
const BYTE_ARRAY: i32 = 6;
const PLAIN: i32 = 0;
const RLE: i32 = 3;
const RLE_DICTIONARY: i32 = 8;
const ZSTD: i32 = 6;
const DATA_PAGE: i32 = 0;
const DICTIONARY_PAGE: i32 = 2;

/// A column of the file.
pub(super) struct Column {
    pub(super) name: &'static str,
    kind: i32,
    pub(super) is_optional: bool,
}

pub(super) const COLUMNS: [Column; 6] = [
    column("name", BYTE_ARRAY, false),
    column("labels", BYTE_ARRAY, false),
    column("timestamp", INT64, false),
    column("value", DOUBLE, true),
    column("histogram", BYTE_ARRAY, true),
    column("start", INT64, true),
];

const fn column(name: &'static str, kind: i32, is_optional: bool) -> Column {
    Column {
        name,
        kind,
        is_optional,
    }
}

impl Column {
    fn schema(&self) -> Struct {
        let element = Struct::default()
            .i32(1, self.kind)
            .i32(3, i32::from(self.is_optional))
            .text(4, self.name.as_bytes());
        match self.kind {
            // UTF8, and STRING.
            BYTE_ARRAY => element
                .i32(6, 0)
                .nested(10, Struct::default().nested(1, Struct::default())),
            // TIMESTAMP_MILLIS, and TIMESTAMP: UTC, MILLIS.
            INT64 => {
                let unit = Struct::default().nested(1, Struct::default());
                let timestamp = Struct::default().yes(1).nested(2, unit);
                element.i32(6, 9).nested(10, Struct::default().nested(8, timestamp))
            }
            _ => element,
        }
    }
}

/// Where a column of a row group is.
pub(super) struct ColumnAt {
    pub(super) dictionary_at: Option<u64>,
    pub(super) values_at: u64,
    pub(super) bytes: u64,
    pub(super) raw_bytes: u64,
    /// First and last value of the timestamps.
    pub(super) bounds: Option<(i64, i64)>,
}

pub(super) struct RowGroup {
    pub(super) rows: u64,
    pub(super) columns: Vec<ColumnAt>,
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn size(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

/// The header of a page of values.
pub(super) fn data_header(page: &Encoded, rows: usize, has_dictionary: bool) -> Vec<u8> {
    let header = Struct::default()
        .i32(1, size(rows))
        .i32(2, if has_dictionary { RLE_DICTIONARY } else { PLAIN })
        .i32(3, RLE)
        .i32(4, RLE);
    let page = Struct::default()
        .i32(1, DATA_PAGE)
        .i32(2, size(page.raw_len))
        .i32(3, size(page.bytes.len()));
    page.nested(5, header).finish()
}

/// The header of the page of a dictionary.
pub(super) fn dictionary_header(page: &Encoded, values: usize) -> Vec<u8> {
    let header = Struct::default().i32(1, size(values)).i32(2, PLAIN);
    let page = Struct::default()
        .i32(1, DICTIONARY_PAGE)
        .i32(2, size(page.raw_len))
        .i32(3, size(page.bytes.len()));
    page.nested(7, header).finish()
}

/// The footer, without its length.
pub(super) fn footer(groups: &[RowGroup]) -> Vec<u8> {
    let root = Struct::default().text(4, b"samples").i32(5, COLUMNS.len() as i32);
    let schema = std::iter::once(root)
        .chain(COLUMNS.iter().map(Column::schema))
        .collect();
    let rows = groups.iter().map(|group| group.rows).sum();
    // By the order of its type, each.
    let order = || Struct::default().nested(1, Struct::default());
    Struct::default()
        .i32(1, 2)
        .structs(2, schema)
        .i64(3, number(rows))
        .structs(4, groups.iter().map(row_group).collect())
        .text(6, concat!("gnomon ", env!("CARGO_PKG_VERSION")).as_bytes())
        .structs(7, COLUMNS.iter().map(|_| order()).collect())
        .finish()
}

fn row_group(group: &RowGroup) -> Struct {
    let bytes = group.columns.iter().map(|column| column.raw_bytes).sum();
    let columns = COLUMNS.iter().zip(&group.columns);
    Struct::default()
        .structs(
            1,
            columns
                .map(|(column, at)| column_chunk(column, at, group.rows))
                .collect(),
        )
        .i64(2, number(bytes))
        .i64(3, number(group.rows))
}

fn column_chunk(column: &Column, at: &ColumnAt, rows: u64) -> Struct {
    let encodings: &[i32] = match at.dictionary_at {
        Some(_) => &[PLAIN, RLE, RLE_DICTIONARY],
        None => &[PLAIN, RLE],
    };
    let mut meta = Struct::default()
        .i32(1, column.kind)
        .i32s(2, encodings)
        .texts(3, &[column.name])
        .i32(4, ZSTD)
        .i64(5, number(rows))
        .i64(6, number(at.raw_bytes))
        .i64(7, number(at.bytes))
        .i64(9, number(at.values_at));
    if let Some(dictionary_at) = at.dictionary_at {
        meta = meta.i64(11, number(dictionary_at));
    }
    if let Some((first, last)) = at.bounds {
        let bounds = Struct::default().i64(3, 0).text(5, &last.to_le_bytes());
        meta = meta.nested(12, bounds.text(6, &first.to_le_bytes()));
    }
    let first = at.dictionary_at.unwrap_or(at.values_at);
    Struct::default().i64(2, number(first)).nested(3, meta)
}
