//! `--filter key=value`, as commands send it.

use kelson_api::Filters;

use crate::argv::{Flag, Parsed, list};

/// The `-f, --filter` flag.
pub const FLAG: Flag = list("filter", "Filter output based on conditions provided")
    .typed("filter")
    .short('f')
    .checked(check);

/// The same without the letter.
pub const LONG_FLAG: Flag = list("filter", "Provide filter values (e.g. \"label=<key>=<value>\")")
    .typed("filter")
    .checked(check);

fn check(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains('=') {
        Ok(())
    } else {
        Err("bad format of filter (expected name=value)".into())
    }
}

/// The filters of a command line; names are in lower case and without blanks.
pub fn of(parsed: &Parsed) -> Filters {
    let mut filters = Filters::default();
    for text in parsed.list("filter") {
        if let Some((key, value)) = text.split_once('=') {
            filters.add(key.trim().to_lowercase().as_str(), value.trim());
        }
    }
    filters
}
