//! Pages of floats in the coding that a block is to have, and what they consist of there.

use super::column::{CODED, DENSE_NUMBERS, ONE_VALUE};
use super::{Coding, Effort, Page, PageError, PageHeader, decode_into, dense, times};
use gnomon_model::labels::get_uvarint;

/// Values are coded where they become at least so much shorter by it.
const WORTH: (usize, usize) = (4, 5);

/// A page of columns, taken apart: blocks keep the times of several pages once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    /// As `times.rs` has them; none where they are within the values.
    pub(crate) times: Option<&'a [u8]>,
    pub(crate) values: &'a [u8],
}

impl Parts<'_> {
    /// Bits of the value that all samples have.
    pub(crate) fn one_value(&self) -> Option<u64> {
        self.times?;
        let (&kind, rest) = self.values.split_first()?;
        let (bits, rest) = get_uvarint(rest)?;
        (kind == ONE_VALUE && rest.is_empty()).then_some(bits.swap_bytes())
    }
}

impl Page {
    /// Takes it apart.
    ///
    /// # Errors
    /// When the bytes are no page.
    pub(crate) fn parts(&self) -> Result<Parts<'_>, PageError> {
        let (header, body) = PageHeader::split(&self.bytes)?;
        if !header.coding.is_of_columns() {
            return Ok(Parts {
                times: None,
                values: body,
            });
        }
        let split = times::len(&header, body).and_then(|len| body.split_at_checked(len));
        let (times, values) = split.ok_or(PageError::Truncated)?;
        Ok(Parts {
            times: Some(times),
            values,
        })
    }

    /// The page as a block is to have it: in columns, unless that is longer, and the shorter the greater the effort.
    ///
    /// # Errors
    /// When it must be decoded and is damaged.
    pub fn recoded(self, effort: Effort) -> Result<Self, PageError> {
        let is_settled = match self.coding {
            Coding::Histogram => true,
            Coding::Float => false,
            Coding::Columns | Coding::Dense => effort == Effort::Cheap || self.is_thorough()?,
        };
        if is_settled {
            return Ok(self);
        }
        if self.has_starts() {
            let starts = self.starts()?;
            return self.without_starts()?.recoded(effort)?.with_starts(&starts);
        }
        let (mut timestamps, mut values) = (Vec::new(), Vec::new());
        decode_into(&self.bytes, &mut timestamps, &mut values)?;
        let page = Self::dense(&timestamps, &values, effort).ok_or(PageError::Corrupt("timestamps do not increase"))?;
        let most = self.parts()?.values.len();
        let its = page.parts()?.values.len();
        let is_short_enough = match (self.coding, effort) {
            // Columns are decoded several times as fast.
            (Coding::Float, Effort::Cheap) => its <= most + most / 4 + 8,
            // Packed numbers are decoded two to three times as fast as coded ones.
            _ => its * WORTH.1 <= most * WORTH.0,
        };
        Ok(if is_short_enough { page } else { self })
    }

    /// A page of floats of coding 4; none where there are no samples, too many, or their times do not ascend.
    #[must_use]
    pub fn dense(timestamps: &[i64], values: &[f64], effort: Effort) -> Option<Self> {
        let header = PageHeader::of_columns(Coding::Dense, timestamps, values)?;
        let mut bytes = Vec::with_capacity(32 + values.len());
        header.write(&mut bytes);
        times::put_times(timestamps, &mut bytes);
        dense::put_values(values, effort, &mut bytes);
        Some(header.of(bytes.into()))
    }

    /// Whether more effort would not make it shorter.
    fn is_thorough(&self) -> Result<bool, PageError> {
        let parts = self.parts()?;
        if parts.one_value().is_some() {
            return Ok(true);
        }
        let Some((&[DENSE_NUMBERS, _, _], rest)) = parts.values.split_first_chunk() else {
            return Ok(false);
        };
        let numbers = get_uvarint(rest).and_then(|(_, rest)| get_uvarint(rest));
        Ok(numbers.is_some_and(|(_, rest)| rest.first() == Some(&CODED)))
    }
}
