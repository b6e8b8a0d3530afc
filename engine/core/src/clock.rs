//! Times as the API writes them.

use jiff::Timestamp;

use crate::types::Nanos;

/// The present, RFC 3339 with nanoseconds, UTC.
pub(crate) fn now() -> String {
    format(Timestamp::now())
}

/// Go's `time.RFC3339Nano`: no trailing zeros, `Z`.
pub(crate) fn format(time: Timestamp) -> String {
    time.to_string()
}

/// Reads an RFC 3339 time; `None` for Go's zero time and for what is no time.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|_| text != kelson_api::ZERO_TIME)
}

pub(crate) fn nanos(text: &str) -> Option<Nanos> {
    parse(text).map(Timestamp::as_nanosecond)
}

pub(crate) fn now_nanos() -> Nanos {
    Timestamp::now().as_nanosecond()
}

/// `since` and `until` of filters: seconds since 1970 with decimals, RFC 3339, or a Go duration back from now.
pub(crate) fn parse_when(text: &str, now: Nanos) -> Option<Nanos> {
    if let Some(nanos) = parse_seconds(text) {
        return Some(nanos);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_nanosecond());
    }
    go_duration(text).map(|d| now - d)
}

fn parse_seconds(text: &str) -> Option<Nanos> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 9 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: Nanos = whole.parse().ok()?;
    let nanos: Nanos = if part.is_empty() {
        0
    } else {
        format!("{part:0<9}").parse().ok()?
    };
    Some(seconds * 1_000_000_000 + nanos)
}

/// Go's `Duration.String`: `1h2m3.5s`, `250ms`.
pub(crate) fn go_string(duration: std::time::Duration) -> String {
    let decimals = |whole: u64, part: u64, digits: usize| {
        let text = format!("{whole}.{part:0digits$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let (seconds, nanos) = (duration.as_secs(), u64::from(duration.subsec_nanos()));
    match (seconds, nanos) {
        (0, 0) => return "0s".into(),
        (0, n) if n < 1000 => return format!("{n}ns"),
        (0, n) if n < 1_000_000 => return format!("{}µs", decimals(n / 1000, n % 1000, 3)),
        (0, n) => return format!("{}ms", decimals(n / 1_000_000, n % 1_000_000, 6)),
        _ => {}
    }
    let rest = decimals(seconds % 60, nanos, 9);
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// Go's `time.ParseDuration`: `1h30m`, `1.5s`, `300ms`.
pub(crate) fn go_duration(text: &str) -> Option<Nanos> {
    let mut rest = text;
    let mut total: Nanos = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit: f64 = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[end..];
        // Durations of filters are far below 2^53 ns where it matters, and saturate above.
        #[allow(clippy::cast_possible_truncation)]
        {
            total += (number * unit) as Nanos;
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for text in [
            "0s", "7ns", "1.5µs", "500ms", "1.25ms", "1s", "30s", "1m0s", "1m0.5s", "1h0m2s",
        ] {
            let nanos = go_duration(text).unwrap();
            let duration = std::time::Duration::from_nanos(nanos.try_into().unwrap());
            assert_eq!(go_string(duration), text);
        }
    }

    #[test]
    fn times_of_filters() {
        let now = 1_000_000_000_000_000_000;
        assert_eq!(parse_when("10", now), Some(10_000_000_000));
        assert_eq!(parse_when("10.5", now), Some(10_500_000_000));
        assert_eq!(parse_when("1970-01-01T00:00:01Z", now), Some(1_000_000_000));
        assert_eq!(parse_when("1h30m", now), Some(now - 5_400_000_000_000));
        assert_eq!(parse_when("1.5s", now), Some(now - 1_500_000_000));
        for bad in ["", "x", "1x", "1.x", "h"] {
            assert_eq!(parse_when(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn the_zero_time_is_no_time() {
        assert_eq!(parse(kelson_api::ZERO_TIME), None);
        assert!(nanos(&now()).is_some());
        assert!(now().ends_with('Z'));
    }
}
