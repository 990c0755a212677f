//! Sets of series as bytes, which blocks before version 3 have. In a block of version 1 they are roaring bitmaps; in one of version 2 a byte says how they are
//! written: neighbours in the order of labels are alike, so that the gaps between the series of a value repeat, and are
//! mostly a fraction of a bitmap when they are compressed.

use super::layout::{Input, MAX_CHUNK_LEN};
use roaring::RoaringBitmap;

const ROARING: u8 = 0;
const GAPS: u8 = 1;

/// The first version with a byte that says how a set is written.
const WITH_KIND: u32 = 2;

/// The set that a block of some version has; none where the bytes are damaged.
pub(super) fn read(version: u32, bytes: &[u8]) -> Option<RoaringBitmap> {
    if version < WITH_KIND {
        return RoaringBitmap::deserialize_from(bytes).ok();
    }
    let (&kind, rest) = bytes.split_first()?;
    match kind {
        ROARING => RoaringBitmap::deserialize_from(rest).ok(),
        GAPS => {
            let mut input = Input(rest);
            let len = input.uvarint().filter(|len| *len <= MAX_CHUNK_LEN)? as usize;
            let gaps = if cfg!(fuzzing) {
                input.0.to_vec()
            } else {
                zstd::bulk::decompress(input.0, len).ok()?
            };
            if gaps.len() != len {
                return None;
            }
            let mut ordinals = Vec::with_capacity(len);
            let mut input = Input(&gaps);
            let mut last = 0_u32;
            while !input.0.is_empty() {
                last = last.checked_add(u32::try_from(input.uvarint()?).ok()?)?;
                ordinals.push(last);
            }
            RoaringBitmap::from_sorted_iter(ordinals).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::labels::put_uvarint;
    use proptest::prelude::*;

    /// Appends a set as version 2 has it.
    fn write(
        set: &mut RoaringBitmap,
        compressor: &mut zstd::bulk::Compressor<'_>,
        out: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        // Series that follow each other become runs.
        set.optimize();
        let size = set.serialized_size();
        let mut gaps = Vec::with_capacity(size);
        let mut last = 0;
        for ordinal in &*set {
            put_uvarint(&mut gaps, u64::from(ordinal - last));
            last = ordinal;
        }
        if gaps.len() as u64 <= MAX_CHUNK_LEN {
            let packed = compressor.compress(&gaps)?;
            if packed.len() < size {
                out.push(GAPS);
                put_uvarint(out, gaps.len() as u64);
                out.extend_from_slice(&packed);
                return Ok(());
            }
        }
        out.push(ROARING);
        set.serialize_into(out)
    }

    fn written(set: &RoaringBitmap) -> Vec<u8> {
        let mut out = Vec::new();
        let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
        write(&mut set.clone(), &mut compressor, &mut out).unwrap();
        out
    }

    #[test]
    fn what_repeats_is_short() {
        let every_22nd: RoaringBitmap = (0..5000).map(|n| n * 22 + 7).collect();
        let all_of_a_metric: RoaringBitmap = (1000..9000).collect();
        for set in [every_22nd, all_of_a_metric] {
            let bytes = written(&set);
            assert!(bytes.len() < 100, "{} bytes", bytes.len());
            assert_eq!(read(WITH_KIND, &bytes), Some(set));
        }
    }

    proptest! {
        #[test]
        fn sets_come_back(ordinals in prop::collection::vec(any::<u32>(), 0..400), dense in prop::collection::vec(0..3000_u32, 0..2000)) {
            let set: RoaringBitmap = ordinals.into_iter().chain(dense).collect();
            prop_assert_eq!(read(WITH_KIND, &written(&set)), Some(set.clone()));
            let mut old = Vec::new();
            set.serialize_into(&mut old).unwrap();
            prop_assert_eq!(read(1, &old), Some(set));
        }

        #[test]
        fn damage_is_noticed_or_a_set(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(WITH_KIND, &bytes);
            let _ = read(1, &bytes);
        }
    }
}
