//! What a member's name asks for: a place in the layer, or one of the whiteouts of the image-spec ("layer.md").

use crate::{Error, Result};

/// A cleaned path below the layer's root: no leading slash, no empty, `.` or `..` component. Empty is the root itself.
pub(crate) type Clean = Vec<u8>;

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An entry of the layer.
    Entry(Clean),
    /// Hides this path of the layers below.
    Whiteout(Clean),
    /// Hides all the layers below have in this directory.
    Opaque(Clean),
    /// Bookkeeping of AUFS (`.wh..wh.plnk`, ...), skipped as docker does.
    Skip,
}

/// Cleans a name. `..` is resolved as text; one that leads above the root is refused, as docker refuses a "breakout".
///
/// # Errors
/// `Invalid` for a name that leads out.
pub(crate) fn clean(name: &[u8]) -> Result<Clean> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() {
                    return Err(refuse(name, "leads out of the layer"));
                }
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// Splits a clean path into directory and last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Decides what a member's name means.
///
/// # Errors
/// `Invalid` for a name that leads out, or a whiteout of nothing, of `.` or of `..`.
pub(crate) fn target(name: &[u8]) -> Result<Target> {
    let path = clean(name)?;
    let (dir, base) = split(&path);
    if base == b".wh..wh..opq" {
        return Ok(Target::Opaque(dir.to_vec()));
    }
    if path
        .split(|&b| b == b'/')
        .any(|part| part.starts_with(b".wh..wh."))
    {
        return Ok(Target::Skip);
    }
    let Some(hidden) = base.strip_prefix(b".wh.".as_slice()) else {
        return Ok(Target::Entry(path));
    };
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(refuse(name, "is a whiteout of no file"));
    }
    let mut hidden_path = dir.to_vec();
    if !dir.is_empty() {
        hidden_path.push(b'/');
    }
    hidden_path.extend_from_slice(hidden);
    Ok(Target::Whiteout(hidden_path))
}

pub(crate) fn refuse(name: &[u8], why: &str) -> Error {
    Error::invalid(format!("layer entry {:?} {why}", String::from_utf8_lossy(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let entry = |t: &str| Target::Entry(t.as_bytes().to_vec());
        let whiteout = |t: &str| Target::Whiteout(t.as_bytes().to_vec());
        let table = [
            ("a/b", entry("a/b")),
            ("./a//b/", entry("a/b")),
            ("/etc/passwd", entry("etc/passwd")),
            ("a/../b", entry("b")),
            ("./", entry("")),
            ("", entry("")),
            ("a/.wh.b", whiteout("a/b")),
            (".wh.b", whiteout("b")),
            (".wh....", whiteout("...")),
            ("a/.wh..wh..opq", Target::Opaque(b"a".to_vec())),
            (".wh..wh..opq", Target::Opaque(Vec::new())),
            (".wh..wh.plnk/1.2", Target::Skip),
            ("a/.wh..wh.aufs", Target::Skip),
        ];
        for (name, want) in table {
            assert_eq!(target(name.as_bytes()).unwrap(), want, "{name}");
        }
        for bad in [
            "..",
            "../a",
            "/../a",
            "a/../../b",
            "a/.wh.",
            "a/.wh..",
            "a/.wh...",
            ".wh../",
        ] {
            assert!(target(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
