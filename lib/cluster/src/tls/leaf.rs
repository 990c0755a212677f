//! When the certificate that is shown to others holds (RFC 5280, section 4.1.2.5), read from its DER bytes.
//!
//! ```text
//! Certificate = SEQUENCE { tbs, … }
//! tbs         = SEQUENCE { [0] version?, serial number, algorithm, issuer, SEQUENCE { from, until }, … }
//! ```

use super::TlsError;
use super::der::{SEQUENCE, element, within};
use gnomon_model::TimestampMs;
use gnomon_model::time::{date_of_days, days_of_date};
use rustls::pki_types::CertificateDer;

const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const DAY_SECONDS: i64 = 86_400;

/// The first certificate of a chain: one's own.
#[derive(Clone, Debug)]
pub struct Leaf {
    from: String,
    /// Seconds since 1970, both included; none where it cannot be read.
    holds: Option<(i64, i64)>,
}

impl Leaf {
    /// `from` says where it stands.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>], from: &str) -> Self {
        Self {
            from: from.to_owned(),
            holds: chain.first().and_then(|leaf| holds(leaf)),
        }
    }

    /// Where it stands, and that it has expired, or does not hold yet.
    #[must_use]
    pub fn trouble(&self, now: TimestampMs) -> Option<String> {
        let (since, until) = self.holds?;
        let what = if self.is_over(now) {
            format!("expired on {}", date(until))
        } else if now.0.div_euclid(1000) < since {
            format!("does not hold before {}", date(since))
        } else {
            return None;
        };
        Some(format!("{}: the certificate {what}", self.from))
    }

    fn is_over(&self, now: TimestampMs) -> bool {
        self.holds.is_some_and(|(_, until)| now.0.div_euclid(1000) > until)
    }

    /// Says in the log what is wrong with it.
    ///
    /// # Errors
    /// When it has expired and `before`, which is in force, is good.
    pub fn admitted(&self, before: Option<&Self>, now: TimestampMs) -> Result<(), TlsError> {
        let Some(trouble) = self.trouble(now) else {
            return Ok(());
        };
        let is_needed = before.is_none_or(|before| before.trouble(now).is_some());
        if self.is_over(now) && !is_needed {
            return Err(TlsError(format!("{trouble}, and the one in force has not")));
        }
        tracing::warn!("{trouble}: others will not take it");
        Ok(())
    }
}

fn holds(certificate: &[u8]) -> Option<(i64, i64)> {
    let mut tbs = within(&mut within(&mut &certificate[..], SEQUENCE)?, SEQUENCE)?;
    let (first, _) = element(&mut tbs)?;
    let others = if first == VERSION { 3 } else { 2 };
    for _ in 0..others {
        element(&mut tbs)?;
    }
    let mut validity = within(&mut tbs, SEQUENCE)?;
    Some((time(&mut validity)?, time(&mut validity)?))
}

/// `YYMMDDhhmmssZ` until 2049, `YYYYMMDDhhmmssZ` from then on.
fn time(rest: &mut &[u8]) -> Option<i64> {
    let (tag, text) = element(rest)?;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| {
        part.iter()
            .fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
    };
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let (year, rest) = digits.split_at(2);
            let century = if number(year) < 50 { 2000 } else { 1900 };
            (century + number(year), rest)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, rest) = digits.split_at(4);
            (number(year), rest)
        }
        _ => return None,
    };
    let part = |at: usize| number(&rest[at..at + 2]);
    let days = days_of_date(year, part(0), part(2));
    Some(days * DAY_SECONDS + part(4) * 3600 + part(6) * 60 + part(8))
}

fn date(seconds: i64) -> String {
    let (year, month, day) = date_of_days(seconds.div_euclid(DAY_SECONDS));
    let minutes = seconds.rem_euclid(DAY_SECONDS) / 60;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        minutes / 60,
        minutes % 60
    )
}

#[cfg(test)]
mod tests {
    use super::super::certificates;
    use super::super::tests::pki::{Authority, Pair};
    use super::*;

    /// 2026-09-21.
    const NOW: TimestampMs = TimestampMs(1_790_000_000_000);

    fn leaf(pair: &Pair) -> Leaf {
        Leaf::of(&certificates(pair.cert.as_bytes(), "node.pem").unwrap(), "node.pem")
    }

    #[test]
    fn a_certificate_whose_time_it_is_not_is_told_with_the_date() {
        let ours = Authority::new("ours");
        let (good, expired) = (leaf(&ours.pair(&["a.test"])), leaf(&ours.expired(&["a.test"])));
        assert_eq!(good.trouble(NOW), None);
        assert_eq!(
            good.trouble(TimestampMs(0)).unwrap(),
            "node.pem: the certificate does not hold before 1975-01-01 00:00 UTC"
        );
        assert_eq!(
            expired.trouble(NOW).unwrap(),
            "node.pem: the certificate expired on 2002-01-01 00:00 UTC"
        );
        assert_eq!(good.holds.unwrap().1, days_of_date(4096, 1, 1) * DAY_SECONDS);
    }

    #[test]
    fn an_expired_one_does_not_take_the_place_of_a_good_one() {
        let ours = Authority::new("ours");
        let (good, expired) = (leaf(&ours.pair(&["a.test"])), leaf(&ours.expired(&["a.test"])));
        let refused = expired.admitted(Some(&good), NOW).unwrap_err().to_string();
        assert!(
            refused.contains("2002-01-01") && refused.contains("in force"),
            "{refused}"
        );
        for before in [None, Some(&expired)] {
            assert!(expired.admitted(before, NOW).is_ok() && good.admitted(before, NOW).is_ok());
        }
        assert!(good.admitted(Some(&good), TimestampMs(0)).is_ok(), "it may hold soon");
    }

    #[test]
    fn damage_is_no_panic() {
        let ours = Authority::new("ours");
        let der = certificates(ours.pair(&["a.test"]).cert.as_bytes(), "pair").unwrap()[0].to_vec();
        for at in 0..der.len() {
            assert_eq!(holds(&der[..at]), None);
            for value in [0, 0x80, 0x84, 0xff] {
                let mut damaged = der.clone();
                damaged[at] = value;
                let _ = holds(&damaged);
            }
        }
    }
}
