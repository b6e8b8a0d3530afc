//! Points in time as the API passes them: `since` and `until`.

use crate::server::errors::ApiError;
use kelson_core::Nanos;

const SECOND: i128 = 1_000_000_000;

/// Reads `seconds[.fraction]` since 1970, as moby does; empty is none. RFC 3339 is taken too: clients other than the
/// CLI send it.
///
/// # Errors
/// 400 for anything else.
pub fn parse(text: &str) -> Result<Option<Nanos>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(Some(at.as_nanosecond()));
    }
    let bad = || {
        ApiError::invalid(format!(
            "invalid timestamp {text:?}: expected seconds[.nanoseconds] since 1970"
        ))
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    // ".5" is half a second: pad on the right.
    let nanos: i128 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    Ok(Some(i128::from(seconds) * SECOND + nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(parse("").unwrap(), None);
        assert_eq!(parse("0").unwrap(), Some(0));
        assert_eq!(parse("12.5").unwrap(), Some(12_500_000_000));
        assert_eq!(
            parse("1136073600.000000001").unwrap(),
            Some(1_136_073_600_000_000_001)
        );
        assert_eq!(parse("1970-01-01T00:00:02Z").unwrap(), Some(2 * SECOND));
        for bad in ["x", "1.x", "1.0000000001", "10m"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
