//! The engine's times: RFC 3339 in its answers, seconds with a fraction in its queries.

use anyhow::{Context, Result};

/// Seconds since 1970 with nine digits of fraction, as queries take them.
///
/// # Errors
/// When the text is no time of RFC 3339.
pub fn unix(time: &str) -> Result<String> {
    let number = |range: std::ops::Range<usize>| -> Result<i64> {
        let part = time.get(range).with_context(|| format!("no time: {time}"))?;
        part.parse().with_context(|| format!("no time: {time}"))
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    // Days of the civil calendar, in years that begin in March, so that the day of the leap year is the last.
    let shifted = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    let rest = time.get(19..).unwrap_or_default();
    let digits: String = rest
        .trim_start_matches('.')
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let seconds =
        days * 86_400 + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)? - offset(zone)?;
    Ok(format!("{seconds}.{digits:0<9}"))
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Result<i64> {
    if zone == "Z" {
        return Ok(0);
    }
    let part = |range: std::ops::Range<usize>| zone.get(range).and_then(|text| text.parse::<i64>().ok());
    let (hours, minutes) = part(1..3)
        .zip(part(4..6))
        .with_context(|| format!("no time zone: {zone:?}"))?;
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    Ok(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_becomes_seconds() {
        assert_eq!(unix("1970-01-01T00:00:00Z").unwrap(), "0.000000000");
        assert_eq!(unix("2026-11-21T10:51:04.1234Z").unwrap(), "1795258264.123400000");
        assert_eq!(
            unix("2026-11-21T12:51:04.5+02:00").unwrap(),
            "1795258264.500000000"
        );
        assert_eq!(unix("2000-02-29T23:59:59.5Z").unwrap(), "951868799.500000000");
        for wrong in ["yesterday", "2026-11-21T10:51:04", ""] {
            assert!(unix(wrong).is_err(), "{wrong}");
        }
    }
}
