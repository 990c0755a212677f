//! The bytes of a small file; that real readers take it is tested with pyarrow where Python has it.

use super::ParquetWriter;
use crate::page::{PageSamples, Starts};
use gnomon_model::{Labels, STALE_NAN};

#[test]
fn a_file_begins_and_ends_as_parquet_does() {
    let mut writer = ParquetWriter::new(Vec::new()).unwrap();
    for n in 0..300 {
        let labels = Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())]);
        let floats = PageSamples::Floats {
            timestamps: (0..1000).collect(),
            values: (0..1000)
                .map(|i| if i == 7 { STALE_NAN } else { f64::from(i) })
                .collect(),
        };
        assert_eq!(
            writer
                .add_series(labels.as_ref(), &[(floats, Starts::of([0, 5, 5]))])
                .unwrap(),
            999,
            "stale markers are no rows"
        );
    }
    // Two row groups: 262,144 rows are in the first.
    assert_eq!(writer.groups.len(), 1);
    let file = writer.finish().unwrap();
    assert!(file.starts_with(b"PAR1") && file.ends_with(b"PAR1"));
    let (len, _) = file[file.len() - 8..].split_first_chunk::<4>().unwrap();
    let footer = &file[file.len() - 8 - u32::from_le_bytes(*len) as usize..];
    // version 2, then the schema: a root and six columns.
    assert_eq!(&footer[..4], [0x15, 4, 0x19, 0x7c]);
    assert!(footer.windows(9).any(|bytes| bytes == b"timestamp"));
}
