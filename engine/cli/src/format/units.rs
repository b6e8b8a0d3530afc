//! Sizes, times and quoted text as people read them in docker's tables.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

const DECIMAL: &[&str] = &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: &[&str] = &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// `1.98MB`: decimal units, three digits.
pub fn size3(bytes: f64) -> String {
    scaled(bytes, 1000.0, DECIMAL, 3)
}

/// `1.984MB`: decimal units, four digits.
pub fn size4(bytes: f64) -> String {
    scaled(bytes, 1000.0, DECIMAL, 4)
}

/// `23.54GiB`: binary units, four digits.
pub fn binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, BINARY, 4)
}

fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// C's `%.Ng`: `digits` significant digits, no trailing zeros.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let exponent: i32 = scientific
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or(0);
    let places = i32::try_from(digits).unwrap_or(1) - 1 - exponent;
    if places < 0 {
        // More digits before the point than asked for, as in 1e+03.
        let mantissa = scientific.split_once('e').map_or("", |(mantissa, _)| mantissa);
        return format!("{}e+{exponent:02}", trim_zeros(mantissa));
    }
    trim_zeros(&format!("{value:.*}", usize::try_from(places).unwrap_or(0))).to_owned()
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

/// How long ago or for how long, in words: `About a minute`, `3 hours`.
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    // The hours are rounded, all else is cut off.
    let hours = (seconds + 1800) / 3600;
    match (seconds, seconds / 60, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, minutes @ 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".into(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// Time since a moment in seconds after 1970; a moment to come is just now.
pub fn since(unix_seconds: i64) -> Duration {
    let now = Timestamp::now().as_second();
    Duration::from_secs(u64::try_from(now.saturating_sub(unix_seconds)).unwrap_or(0))
}

/// A moment as Go's `time.Time` shows it: `2026-11-21 04:33:03 +0000 UTC`.
pub fn go_time(unix_seconds: i64) -> String {
    let Ok(moment) = Timestamp::from_second(unix_seconds) else {
        return unix_seconds.to_string();
    };
    moment
        .to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S %z %Z")
        .to_string()
}

/// A moment of the API as Go's `time.Time` shows it, with what there is of a second.
pub fn go_time_of(rfc3339: &str) -> String {
    let Ok(moment) = rfc3339.parse::<Timestamp>() else {
        return rfc3339.to_owned();
    };
    moment
        .to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%d %H:%M:%S%.f %z %Z")
        .to_string()
}

/// Cuts to `limit` characters, the last of which is an ellipsis if anything was cut.
pub fn ellipsis(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
    kept + "…"
}

/// The first twelve digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// Text in double quotes with Go's escapes.
pub fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted += "\\\"",
            '\\' => quoted += "\\\\",
            '\n' => quoted += "\\n",
            '\t' => quoted += "\\t",
            '\r' => quoted += "\\r",
            '\u{7}' => quoted += "\\a",
            '\u{8}' => quoted += "\\b",
            '\u{b}' => quoted += "\\v",
            '\u{c}' => quoted += "\\f",
            c if u32::from(c) < 0x20 || c == '\u{7f}' => quoted += &format!("\\x{:02x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Bytes from `512m`, `1.5g`, `64MiB`, `100`: binary multiples, as docker reads them.
pub fn parse_size(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid size: '{text}'");
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .map_or(0, |at| at + 1);
    let (number, suffix) = text.split_at(end);
    let number: f64 = number
        .strip_suffix(' ')
        .unwrap_or(number)
        .parse()
        .map_err(|_| bad())?;
    let suffix = suffix.to_ascii_lowercase();
    let power = match suffix.as_str() {
        "" | "b" => 0,
        _ => {
            let bad_suffix = || format!("invalid suffix: '{suffix}'");
            let (first, rest) = suffix.split_at_checked(1).ok_or_else(bad_suffix)?;
            if !matches!(rest, "" | "b" | "ib") {
                return Err(bad_suffix());
            }
            match first {
                "k" => 1,
                "m" => 2,
                "g" => 3,
                "t" => 4,
                "p" => 5,
                _ => return Err(bad_suffix()),
            }
        }
    };
    let bytes = number * 1024_f64.powi(power);
    if !(0.0..9.2e18).contains(&bytes) {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range was checked, and a part of a byte is nothing"
    )]
    Ok(bytes as i64)
}

/// Nanoseconds from a Go duration: `1h30m`, `1.5s`, `100ms`, `0`.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let bad = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..letters] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                "" => return Err(format!("time: missing unit in duration {text:?}")),
                unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
            };
        rest = &rest[letters..];
    }
    if total > 9.2e18 {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range was checked; below a nanosecond is nothing"
    )]
    Ok((sign * total) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, shown) in [
            (0.0, "0B"),
            (999.0, "999B"),
            (1000.0, "1kB"),
            (1_984_000.0, "1.98MB"),
            (123_456_789.0, "123MB"),
            (999_900_000.0, "1e+03MB"),
        ] {
            assert_eq!(size3(bytes), shown);
        }
        assert_eq!(size4(1_984_321.0), "1.984MB");
        assert_eq!(binary(25_275_000_000.0), "23.54GiB");
    }

    #[test]
    fn durations_in_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (3600 * 3 / 2, "2 hours"),
            (3600 * 47, "47 hours"),
            (3600 * 48, "2 days"),
            (3600 * 24 * 14, "2 weeks"),
            (3600 * 24 * 60, "2 months"),
            (3600 * 24 * 365 * 2, "2 years"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("100", 100),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("64MiB", 64 << 20),
            ("2 gb", 2 << 30),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_size("x"), Err("invalid size: 'x'".into()));
        assert_eq!(parse_size("1x"), Err("invalid suffix: 'x'".into()));
        assert!(parse_size("-1").is_err() && parse_size("").is_err());
    }

    #[test]
    fn go_durations_are_read() {
        assert_eq!(parse_duration("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(parse_duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(parse_duration("-100ms"), Ok(-100_000_000));
        assert_eq!(parse_duration("0"), Ok(0));
        assert_eq!(
            parse_duration("5"),
            Err("time: missing unit in duration \"5\"".into())
        );
        assert!(parse_duration("").is_err() && parse_duration("x").is_err() && parse_duration("1y").is_err());
    }

    #[test]
    fn moments_read_as_gos() {
        assert_eq!(
            go_time_of("2026-11-21T04:28:31.025092147Z"),
            "2026-11-21 04:28:31.025092147 +0000 UTC"
        );
        assert_eq!(
            go_time_of("2026-11-21T04:28:31Z"),
            "2026-11-21 04:28:31 +0000 UTC"
        );
        assert_eq!(go_time_of("x"), "x");
    }

    #[test]
    fn text_is_cut_and_quoted() {
        assert_eq!(ellipsis("0123456789012345678901", 20), "0123456789012345678…");
        assert_eq!(ellipsis("01234567890123456789", 20), "01234567890123456789");
        assert_eq!(go_quote("sh -c \"a\\n\"\n"), "\"sh -c \\\"a\\\\n\\\"\\n\"");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
