//! Asking before something is removed.

use std::io::BufRead;

use crate::output;

/// Shows a warning and asks; anything but `y` is a no.
pub fn confirm(warning: &str) -> anyhow::Result<bool> {
    output::out(format!("{warning}\nAre you sure you want to continue? [y/N] ").as_bytes())?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
