//! Moments as users write them: a date, a time, seconds since 1970, or how long ago.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::units;

/// Reads a moment and returns it as the API takes it: `seconds.nanoseconds`.
pub fn parse(text: &str) -> Result<String, String> {
    parse_at(text, Timestamp::now())
}

fn parse_at(text: &str, now: Timestamp) -> Result<String, String> {
    let wrong = || format!("failed to parse value as time or duration: {text:?}");
    if let Ok(ago) = units::parse_duration(text) {
        let moment = now
            .checked_sub(SignedDuration::from_nanos(ago))
            .map_err(|_| wrong())?;
        return Ok(show(moment));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && text.starts_with(|c: char| c.is_ascii_digit())
    {
        return Ok(text.to_owned());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(show(moment));
    }
    // Without a zone the user's is meant, and parts left out are zero.
    let full = match text.len() {
        4 => format!("{text}-01-01T00:00:00"),
        7 => format!("{text}-01T00:00:00"),
        10 => format!("{text}T00:00:00"),
        13 => format!("{text}:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    let civil: DateTime = full.parse().map_err(|_| wrong())?;
    let moment = civil.to_zoned(TimeZone::system()).map_err(|_| wrong())?;
    Ok(show(moment.timestamp()))
}

fn show(moment: Timestamp) -> String {
    format!("{}.{:09}", moment.as_second(), moment.subsec_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now = Timestamp::from_second(10_000).unwrap();
        assert_eq!(parse_at("42m", now).unwrap(), "7480.000000000");
        assert_eq!(parse_at("1700000000", now).unwrap(), "1700000000");
        assert_eq!(parse_at("1700000000.5", now).unwrap(), "1700000000.5");
        assert_eq!(
            parse_at("2013-01-02T13:23:37Z", now).unwrap(),
            "1357133017.000000000"
        );
        assert_eq!(
            parse_at("2013-01-02T13:23:37.25+01:00", now).unwrap(),
            "1357129417.250000000"
        );
        assert!(parse_at("2013-01-02", now).is_ok() && parse_at("2013-01-02T13:23", now).is_ok());
        assert_eq!(
            parse_at("5x", now).unwrap_err(),
            "failed to parse value as time or duration: \"5x\""
        );
    }
}
