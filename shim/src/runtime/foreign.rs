//! The one place where a kind is read out of a text: what runc and crun say, which have no kinds of their own.
//! Tested against the real programs in `tests/life.rs` and `tests/stdio.rs`.
use kelson_shim_proto::error::{COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND};

/// Texts, all of which must occur, and the kind they mean. First match wins.
const KNOWN: &[(&[&str], &str)] = &[
    // runc: exec: "x": executable file not found in $PATH; crun: executable file `x` not found in $PATH
    (&["executable file", "not found"], COMMAND_NOT_FOUND),
    // runc: exec: "/x": stat /x: no such file or directory
    (&["exec: ", "no such file or directory"], COMMAND_NOT_FOUND),
    // crun, absolute path: executable file `/x` not found: No such file or directory (above), or:
    (
        &["open executable", "No such file or directory"],
        COMMAND_NOT_FOUND,
    ),
    // runc: exec: "/etc/passwd": permission denied; or: is a directory
    (&["exec: ", "permission denied"], COMMAND_NOT_EXECUTABLE),
    (&["exec: ", "is a directory"], COMMAND_NOT_EXECUTABLE),
    (&["exec: ", "exec format error"], COMMAND_NOT_EXECUTABLE),
    // crun: open executable: Permission denied; the path `/x` is not executable
    // crun, a directory or a file without the execute bit
    (
        &["open executable", "Operation not permitted"],
        COMMAND_NOT_EXECUTABLE,
    ),
    (&["open executable", "Permission denied"], COMMAND_NOT_EXECUTABLE),
    (&["executable path", "is a directory"], COMMAND_NOT_EXECUTABLE),
    (&["is not executable"], COMMAND_NOT_EXECUTABLE),
    (&["container does not exist"], "not_found"),
    (&["container", "does not exist"], "not_found"),
    (&["container with given ID already exists"], "already_exists"),
    (&["container", "already exists"], "already_exists"),
    (&["container not running"], "precondition"),
    (&["cannot start", "stopped"], "precondition"),
    (&["is not running"], "precondition"),
];

/// The kind of a foreign runtime's error text, if it is a known one.
pub fn kind(text: &str) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|(parts, _)| parts.iter().all(|part| text.contains(part)))
        .map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_seen_in_the_wild() {
        for (text, expected) in [
            (
                "runc create failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH",
                Some(COMMAND_NOT_FOUND),
            ),
            (
                "runc create failed: unable to start container process: exec: \"/no\": stat /no: no such file or directory",
                Some(COMMAND_NOT_FOUND),
            ),
            (
                "runc create failed: unable to start container process: exec: \"/etc/passwd\": permission denied",
                Some(COMMAND_NOT_EXECUTABLE),
            ),
            (
                "executable file `nosuch` not found in $PATH: No such file or directory",
                Some(COMMAND_NOT_FOUND),
            ),
            (
                "open executable: Operation not permitted",
                Some(COMMAND_NOT_EXECUTABLE),
            ),
            ("container does not exist", Some("not_found")),
            ("mount `x` to `y`: Operation not permitted", None),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }
}
