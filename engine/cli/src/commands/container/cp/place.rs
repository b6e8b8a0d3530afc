//! Where a copy lands: docker's rules, which are those of `cp -a` with a few differences. Pure.

use std::path::Path;

/// What is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Nothing,
    Directory,
    /// A file or anything else.
    Other,
}

impl Existing {
    /// Looks at this machine; a link counts as what it leads to.
    pub fn local(path: &Path) -> anyhow::Result<Existing> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(Existing::Directory),
            Ok(_) => Ok(Existing::Other),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Existing::Nothing),
            Err(error) => Err(anyhow::Error::from(error).context(format!("look at {}", path.display()))),
        }
    }
}

/// The directory that the archive is unpacked in, and what its first entry is called there. An empty name stands for the
/// directory itself: only the source's content is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landing {
    pub dir: String,
    pub name: String,
}

/// `dir/.` copies the content of a directory.
fn means_content(path: &str) -> bool {
    path == "." || path.ends_with("/.") || path.is_empty()
}

fn asks_for_directory(path: &str) -> bool {
    path.ends_with('/') || means_content(path)
}

fn base(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    let last = trimmed.rsplit('/').next().unwrap_or_default();
    match last {
        // The root, `..`: what they are called is not theirs to say.
        "" | ".." => String::new(),
        last => last.to_owned(),
    }
}

fn parent(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rfind('/') {
        Some(0) => "/".to_owned(),
        Some(slash) => trimmed[..slash].to_owned(),
        None => ".".to_owned(),
    }
}

/// Decides.
///
/// # Errors
/// Docker's sentences.
pub fn land(from: &str, from_is_dir: bool, to: &str, there: Existing) -> Result<Landing, String> {
    let landing = |dir: String, name: String| Ok(Landing { dir, name });
    match (there, from_is_dir) {
        (Existing::Directory, true) if means_content(from) => landing(to.to_owned(), String::new()),
        (Existing::Directory, _) => landing(to.to_owned(), base(from)),
        (Existing::Other, true) => Err("cannot copy directory".to_owned()),
        (Existing::Other, false) if asks_for_directory(to) => Err("not a directory".to_owned()),
        (Existing::Nothing, false) if asks_for_directory(to) => Err("no such directory".to_owned()),
        (Existing::Other | Existing::Nothing, _) => landing(parent(to), base(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Existing::{Directory, Nothing, Other};

    #[test]
    fn dockers_table() {
        // `docker cp --help`, "Extended description": each of its rules.
        let table = [
            ("/f", false, "/new", Nothing, Ok(("/", "new"))),
            ("/f", false, "/new/", Nothing, Err("no such directory")),
            ("/f", false, "/old", Other, Ok(("/", "old"))),
            ("/f", false, "/old/", Other, Err("not a directory")),
            ("/a/f", false, "/dir", Directory, Ok(("/dir", "f"))),
            ("/d", true, "/new", Nothing, Ok(("/", "new"))),
            ("/d", true, "/a/new/", Nothing, Ok(("/a", "new"))),
            ("/d", true, "/old", Other, Err("cannot copy directory")),
            ("/a/d", true, "/dir", Directory, Ok(("/dir", "d"))),
            ("/a/d/", true, "/dir/", Directory, Ok(("/dir/", "d"))),
            ("/a/d/.", true, "/dir", Directory, Ok(("/dir", ""))),
            ("/d/.", true, "/new", Nothing, Ok(("/", "new"))),
            ("f", false, "new", Nothing, Ok((".", "new"))),
            (".", true, "/dir", Directory, Ok(("/dir", ""))),
            ("/", true, "/dir", Directory, Ok(("/dir", ""))),
        ];
        for (from, is_dir, to, there, want) in table {
            let got = land(from, is_dir, to, there);
            let want = want.map_err(str::to_owned).map(|(dir, name)| Landing {
                dir: dir.to_owned(),
                name: name.to_owned(),
            });
            assert_eq!(got, want, "{from} -> {to}");
        }
    }
}
