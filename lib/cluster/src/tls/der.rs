//! Elements of DER (X.690), of which certificates are made: a tag of one byte, a length, a content.

pub const SEQUENCE: u8 = 0x30;

/// The content of the next element, which must be of this kind.
pub fn within<'d>(rest: &mut &'d [u8], wanted: u8) -> Option<&'d [u8]> {
    let (tag, content) = element(rest)?;
    (tag == wanted).then_some(content)
}

/// The next element: its tag, of one byte, and its content. Lengths are definite in DER.
pub fn element<'d>(rest: &mut &'d [u8]) -> Option<(u8, &'d [u8])> {
    let (&tag, after) = rest.split_first()?;
    let (&first, mut after) = after.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let digits = usize::from(first & 0x7f);
        if digits == 0 || digits > 4 {
            return None;
        }
        let (bytes, behind) = after.split_at_checked(digits)?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        after = behind;
    }
    let (content, behind) = after.split_at_checked(length)?;
    *rest = behind;
    Some((tag, content))
}
