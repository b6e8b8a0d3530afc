//! Finding the program of `args[0]`, and a home directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};

/// More of an image's /etc/passwd is not read.
const MAX_PASSWD: u64 = 1 << 20;

/// Where execve will find `name`, by the rules of execvp(3) with the process's own PATH. Runs inside the
/// container with the user's ids, so that the answer is the one execve will give.
///
/// # Errors
/// `CommandNotFound`, `CommandNotExecutable`; the text is runc's, which engines' users know.
pub fn look_up(name: &str, env: &[String]) -> Result<PathBuf> {
    if name.contains('/') {
        let path = Path::new(name);
        return match executable(path) {
            Ok(()) => Ok(path.to_owned()),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(not_found(
                name,
                &format!("stat {name}: no such file or directory"),
            )),
            Err(e) => Err(refused(name, e)),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or("");
    let mut denied = None;
    for dir in path.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => denied = Some(e),
        }
    }
    match denied {
        Some(e) => Err(refused(name, e)),
        None => Err(not_found(name, "executable file not found in $PATH")),
    }
}

fn not_found(name: &str, why: &str) -> Error {
    Error::new(Kind::CommandNotFound, format!("exec: {name:?}: {why}")).with_errno(Some(nix::libc::ENOENT))
}

fn refused(name: &str, errno: Errno) -> Error {
    let why = match errno {
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        other => nix::errno::Errno::from_raw(other.raw_os_error())
            .desc()
            .to_lowercase(),
    };
    Error::new(Kind::CommandNotExecutable, format!("exec: {name:?}: {why}"))
        .with_errno(Some(errno.raw_os_error()))
}

fn executable(path: &Path) -> std::result::Result<(), Errno> {
    let meta = std::fs::metadata(path)
        .map_err(|e| Errno::from_raw_os_error(e.raw_os_error().unwrap_or(nix::libc::EIO)))?;
    if meta.is_dir() {
        return Err(Errno::ISDIR);
    }
    // Root passes access(X_OK) only with a bit set; so does execve.
    if meta.permissions().mode() & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // A filter older than faccessat2, already loaded: the mode has answered as far as it can, execve will tell.
        Err(Errno::PERM | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

/// The error of an execve that failed after [`look_up`] succeeded.
pub fn exec_error(name: &str, errno: nix::errno::Errno) -> Error {
    let kind = match errno {
        nix::errno::Errno::ENOENT => Kind::CommandNotFound,
        _ => Kind::CommandNotExecutable,
    };
    Error::new(kind, format!("exec {name}: {}", errno.desc().to_lowercase())).with_errno(Some(errno as i32))
}

/// The home directory that the container's /etc/passwd gives a user; `/` if none.
pub fn home(uid: u32) -> String {
    home_by(Path::new("/etc/passwd"), uid)
}

fn home_by(passwd: &Path, uid: u32) -> String {
    // An image may have made it a fifo, on which an ordinary open would wait for ever.
    let file = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
        .open(passwd);
    match file {
        Ok(file) if file.metadata().is_ok_and(|m| m.is_file()) => {
            home_in(BufReader::new(file.take(MAX_PASSWD)), uid)
        }
        _ => "/".to_owned(),
    }
}

fn home_in(passwd: impl BufRead, uid: u32) -> String {
    for line in passwd.lines().map_while(std::result::Result::ok) {
        let mut fields = line.split(':').skip(2);
        if fields.next().and_then(|f| f.parse::<u32>().ok()) == Some(uid)
            && let Some(home) = fields.nth(2)
            && !home.is_empty()
        {
            return home.to_owned();
        }
    }
    "/".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(dir: &Path) -> Vec<String> {
        vec![format!("PATH=/nowhere:{}", dir.display())]
    }

    #[test]
    fn finds_and_explains() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plain"), "").unwrap();
        std::fs::write(dir.path().join("tool"), "").unwrap();
        std::fs::set_permissions(dir.path().join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
        let env = path(dir.path());
        assert_eq!(look_up("tool", &env).unwrap(), dir.path().join("tool"));
        let e = look_up("plain", &env).unwrap_err();
        assert_eq!(
            (e.kind(), e.to_string()),
            (
                Kind::CommandNotExecutable,
                "exec: \"plain\": permission denied".into()
            )
        );
        let e = look_up("none", &env).unwrap_err();
        assert_eq!(e.kind(), Kind::CommandNotFound);
        assert_eq!(
            e.to_string(),
            "exec: \"none\": executable file not found in $PATH"
        );
        let e = look_up("/no/such", &env).unwrap_err();
        assert_eq!(
            e.to_string(),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(
            look_up("/tmp", &env).unwrap_err().to_string(),
            "exec: \"/tmp\": is a directory"
        );
    }

    #[test]
    fn a_strange_passwd_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(home_by(&path, 0), "/");
        assert_eq!(home_by(dir.path(), 0), "/", "a directory");
        assert_eq!(home_by(Path::new("/dev/zero"), 0), "/", "a device");
        // What lies beyond the limit is not found, and not read either.
        let large = dir.path().join("large");
        let mut text = "x".repeat(usize::try_from(MAX_PASSWD).unwrap());
        text.push_str("\nroot:x:0:0::/late:/bin/sh\n");
        std::fs::write(&large, text).unwrap();
        assert_eq!(home_by(&large, 0), "/");
    }

    #[test]
    fn home_directories() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:1000::/home/me:/bin/sh\n";
        assert_eq!(home_in(text.as_bytes(), 0), "/root");
        assert_eq!(home_in(text.as_bytes(), 1000), "/home/me");
        assert_eq!(home_in(text.as_bytes(), 7), "/");
    }
}
