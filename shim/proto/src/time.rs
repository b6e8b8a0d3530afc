//! Points in time as docker writes them: RFC 3339, UTC, up to nine decimals without trailing zeros
//! (Go's `time.RFC3339Nano`).
use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time, UTC. Years 0 to 9999 can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds of the second, below 1,000,000,000.
    pub nanos: u32,
}

/// The most bytes [`Time::write`] appends: `2006-01-02T15:04:05.999999999Z`.
pub const MAX_LEN: usize = 30;

impl Time {
    /// The present, by the system's real-time clock.
    #[must_use]
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Appends the text form to `out`.
    pub fn write(self, out: &mut Vec<u8>) {
        let days = self.secs.div_euclid(86_400);
        let second = self.secs.rem_euclid(86_400);
        let (year, month, day) = civil(days);
        push_padded(out, year, 4);
        for (separator, value) in [
            (b'-', month),
            (b'-', day),
            (b'T', second / 3600),
            (b':', second / 60 % 60),
            (b':', second % 60),
        ] {
            out.push(separator);
            push_padded(out, value, 2);
        }
        if self.nanos != 0 {
            out.push(b'.');
            push_padded(out, i64::from(self.nanos), 9);
            while out.last() == Some(&b'0') {
                out.pop();
            }
        }
        out.push(b'Z');
    }

    /// Reads an RFC 3339 time, with any zone offset; decimals past the ninth are dropped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() < 20 || bytes[4] != b'-' || bytes[7] != b'-' || bytes[13] != b':' || bytes[16] != b':'
        {
            return None;
        }
        let [year, month, day] = [
            number(&bytes[0..4])?,
            number(&bytes[5..7])?,
            number(&bytes[8..10])?,
        ];
        let [hour, minute, second] = [
            number(&bytes[11..13])?,
            number(&bytes[14..16])?,
            number(&bytes[17..19])?,
        ];
        let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
        if !in_range || second > 60 || !matches!(bytes[10], b'T' | b't' | b' ') {
            return None;
        }
        let (nanos, zone) = fraction(&bytes[19..])?;
        let secs = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        Some(Self {
            secs: secs - offset(zone)?,
            nanos,
        })
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self {
                secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos(),
            },
            // A clock before 1970 is a machine without a battery; the epoch is the nearest honest answer.
            Err(_) => Self::default(),
        }
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = Vec::with_capacity(MAX_LEN);
        self.write(&mut out);
        f.write_str(std::str::from_utf8(&out).unwrap_or_default())
    }
}

fn push_padded(out: &mut Vec<u8>, value: i64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut rest = value.max(0);
    for slot in out[start..].iter_mut().rev() {
        *slot = b"0123456789"[usize::try_from(rest % 10).unwrap_or(0)];
        rest /= 10;
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
    })
}

/// Splits `.123Z` into nanoseconds and the zone.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    if text.first() != Some(&b'.') {
        return Some((0, text));
    }
    let digits = text[1..].iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let kept = &text[1..=digits.min(9)];
    let scale = 10_i64.pow(u32::try_from(9 - kept.len()).ok()?);
    Some((u32::try_from(number(kept)? * scale).ok()?, &text[1 + digits..]))
}

fn offset(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let seconds = number(&[*h1, *h2])? * 3600 + number(&[*m1, *m2])? * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Year, month and day of a day number (days since 1970-01-01), proleptic Gregorian: 400 years are 146,097
/// days, and counting years from March puts the leap day at a year's end.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        for (secs, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_700_000_000, 120_000_000, "2023-11-14T22:13:20.12Z"),
            (1_700_000_000, 1, "2023-11-14T22:13:20.000000001Z"),
            (4_107_542_399, 999_999_999, "2100-02-28T23:59:59.999999999Z"),
        ] {
            let time = Time { secs, nanos };
            assert_eq!(time.to_string(), text);
            assert_eq!(Time::parse(text), Some(time));
        }
    }

    #[test]
    fn offsets_and_refusals() {
        assert_eq!(Time::parse("1970-01-01T02:00:00+02:00"), Some(Time::default()));
        assert_eq!(Time::parse("1969-12-31T19:00:00.0-05:00"), Some(Time::default()));
        for bad in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-13-01T00:00:00Z",
            "1970-01-01T00:00:00.Z",
        ] {
            assert_eq!(Time::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(secs in 0_i64..250_000_000_000, nanos in 0_u32..1_000_000_000) {
            let time = Time { secs, nanos };
            prop_assert_eq!(Time::parse(&time.to_string()), Some(time));
        }

        #[test]
        fn parse_never_panics(text in "\\PC*") {
            let _ = Time::parse(&text);
        }
    }
}
