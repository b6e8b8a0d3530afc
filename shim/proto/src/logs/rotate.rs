//! Names of rotated log files, as docker gives them: `path` is being written, `path.1` is the one before,
//! `path.2` the one before that.
use std::path::{Path, PathBuf};

/// The name of the `n`th file back; 0 is the current one.
#[must_use]
pub fn name(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// The renames of one rotation, in the order in which they must be done. Empty with one file, which is
/// truncated instead.
#[must_use]
pub fn renames(path: &Path, max_file: u32) -> Vec<(PathBuf, PathBuf)> {
    (1..max_file)
        .rev()
        .map(|n| (name(path, n - 1), name(path, n)))
        .collect()
}

/// The name under which `file`, a rotated one, is kept compressed.
#[must_use]
pub fn compressed(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// All files a log may consist of, oldest first; some may not exist.
#[must_use]
pub fn oldest_first(path: &Path, max_file: u32) -> Vec<PathBuf> {
    (0..max_file).rev().map(|n| name(path, n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_files() {
        let path = Path::new("/l");
        assert_eq!(
            renames(path, 3),
            [("/l.1".into(), "/l.2".into()), ("/l".into(), "/l.1".into())]
        );
        assert_eq!(
            oldest_first(path, 3),
            [PathBuf::from("/l.2"), "/l.1".into(), "/l".into()]
        );
        assert_eq!(renames(path, 1), []);
    }
}
