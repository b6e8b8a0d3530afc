//! Waiting with a deadline: the only way anything in these tests and benches waits for another process.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks. Short against every deadline, long against the cost of a look.
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `look` until it returns a value; after `limit` the error names `what` and how it last stood.
///
/// # Errors
/// When the deadline passes without a value.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}; last look: {last}");
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_first_value() {
        let mut left = 3;
        let value = eventually("countdown", Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some(7))
        });
        assert_eq!(value.unwrap(), 7);
    }

    #[test]
    fn names_what_it_waited_for_and_the_last_error() {
        let error = eventually::<()>("the page", Duration::from_millis(20), || bail!("refused")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the page: not within 20ms; last look: refused"),
            "{error}"
        );
    }
}
