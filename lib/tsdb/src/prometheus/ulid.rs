//! Names of Prometheus' blocks: 48 bits of milliseconds since the epoch, 80 random bits, in Crockford's base 32
//! (<https://github.com/ulid/spec>).

use std::fmt;
use std::str::FromStr;

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LEN: usize = 26;

/// Orders by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ulid(pub u128);

impl Ulid {
    /// Of a time (milliseconds since the epoch, not before it) and random bits, of which 80 are taken.
    #[must_use]
    pub const fn new(now_ms: i64, random: u128) -> Self {
        Self((now_ms as u128 & ((1 << 48) - 1)) << 80 | random & ((1 << 80) - 1))
    }
}

impl fmt::Display for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |at: usize| char::from(DIGITS[(self.0 >> (5 * (LEN - 1 - at))) as usize & 31]);
        f.write_str(&(0..LEN).map(digit).collect::<String>())
    }
}

impl FromStr for Ulid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no ULID: 26 of the digits 0-9 and A-Z without I, L, O, U, at most 7ZZ…");
        if text.len() != LEN || text.as_bytes()[0] > b'7' {
            return Err(wrong());
        }
        let mut value = 0;
        for byte in text.bytes() {
            let digit = DIGITS.iter().position(|digit| *digit == byte.to_ascii_uppercase());
            value = value << 5 | digit.ok_or_else(wrong)? as u128;
        }
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulids_are_read_as_they_are_written() {
        // The example of the specification.
        let text = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let ulid: Ulid = text.parse().unwrap();
        assert_eq!(ulid.to_string(), text);
        assert_eq!(ulid.0 >> 80, 1_469_922_850_259);
        assert_eq!(Ulid::new(1_469_922_850_259, ulid.0), ulid);
        assert_eq!(Ulid(u128::MAX).to_string(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        for wrong in [
            "",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
        ] {
            assert!(wrong.parse::<Ulid>().is_err(), "{wrong}");
        }
    }
}
