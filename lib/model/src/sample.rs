//! Special float values, bit for bit as Prometheus writes them.

/// The value of a staleness marker: a NaN that no computation makes.
pub const STALE_NAN: f64 = f64::from_bits(0x7ff0_0000_0000_0002);
/// An ordinary NaN as it is exposed and stored.
pub const NORMAL_NAN: f64 = f64::from_bits(0x7ff8_0000_0000_0001);

/// Whether `value` is a staleness marker (and not just any NaN).
#[must_use]
#[inline]
pub const fn is_stale_nan(value: f64) -> bool {
    value.to_bits() == 0x7ff0_0000_0000_0002
}
