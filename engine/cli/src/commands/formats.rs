//! The `--format` flag, whose help every list and every inspect repeats.

use crate::argv::{Flag, Parsed, value};
use crate::session::Session;

const LIST_HELP: &str = "Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates";

const OBJECT_HELP: &str = "Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates";

/// `--format` of a list.
pub const LIST: Flag = value("format", "string", LIST_HELP);

/// `-f, --format` of an object.
pub const OBJECT: Flag = value("format", "string", OBJECT_HELP).short('f');

/// `--format` of a stream of objects.
pub const STREAM: Flag = value("format", "string", OBJECT_HELP);

/// `--human` and the like.
pub const NO_TRUNC: Flag = crate::argv::switch("no-trunc", "Don't truncate output");

/// The format of a list: the flag, else the config file's `setting`, else the table.
///
/// `quiet` wins over the config file, and over a table.
pub fn of_list(
    session: &Session,
    parsed: &Parsed,
    setting: &str,
    table: &str,
    quiet: Option<&str>,
) -> String {
    let given = parsed
        .text("format")
        .map(str::to_owned)
        .filter(|format| !format.is_empty());
    if let Some(quiet) = quiet.filter(|_| parsed.on("quiet")) {
        return match given {
            Some(format) if !format.starts_with("table") => format,
            _ => quiet.to_owned(),
        };
    }
    match given.or_else(|| session.setting(setting)) {
        Some(format) if format == "table" => table.to_owned(),
        Some(format) => format,
        None => table.to_owned(),
    }
}
