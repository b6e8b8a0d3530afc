//! Go's way to write a span of time: `1h30m`, `90s`, `1.5h`.

use std::time::Duration;

/// Reads a span of time that is not negative; `None` for what is none. A number needs its unit, but for a plain `0`.
#[must_use]
pub fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] = [
        ("ms", 0.001),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ns", 1e-9),
        ("h", 3600.0),
        ("m", 60.0),
        ("s", 1.0),
    ];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit.len()..];
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, want) in [
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1500)),
            ("0", Some(0)),
            ("250ms", Some(250)),
            ("", None),
            ("5", None),
            ("-1h", None),
            ("1d", None),
        ] {
            assert_eq!(go_duration(text), want.map(Duration::from_millis), "{text}");
        }
    }
}
