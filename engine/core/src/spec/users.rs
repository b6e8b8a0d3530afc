//! `--user` and the image's /etc/passwd and /etc/group: which ids a process gets. Pure; the files are read by the caller.

use crate::error::{Error, Result};

/// Largest passwd or group file that is read, bytes. Real ones are a few KiB; an image may hold anything.
pub(crate) const MAX_FILE: u64 = 4 << 20;

/// Ids above this are refused, as in docker (CVE-2024-40635: 2^32 wrapped to root).
const MAX_ID: u64 = (1 << 31) - 1;

/// The text of both files; empty when there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub passwd: String,
    pub group: String,
}

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecUser {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut f = line.trim().split(':');
        let (name, _, uid, gid, _, home) = (f.next()?, f.next()?, f.next()?, f.next()?, f.next(), f.next());
        Some(Passwd {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.unwrap_or(""),
        })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut f = line.trim().split(':');
        let (name, _, gid, members) = (f.next()?, f.next()?, f.next()?, f.next());
        Some(Group {
            name,
            gid: gid.parse().ok()?,
            members: members.unwrap_or(""),
        })
    })
}

/// A number, if it is one; too large a number is an error, not a name.
fn id(text: &str, what: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text
        .parse::<u64>()
        .ok()
        .filter(|n| *n <= MAX_ID)
        .and_then(|n| u32::try_from(n).ok())
    {
        Some(n) => Ok(Some(n)),
        None => Err(Error::invalid(format!(
            "{what}s and gids must be in range 0-{MAX_ID}"
        ))),
    }
}

/// Resolves `user[:group]` (name or number each) and `--group-add`.
///
/// # Errors
/// `Invalid` when a name is in no file, or a number out of range.
pub(crate) fn resolve(spec: &str, group_add: &[String], files: &Files) -> Result<ExecUser> {
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    let number = id(user, "uid")?;
    let wanted_uid = if user.is_empty() { Some(0) } else { number };
    // A name wins over a number, as in moby/sys/user: a user may be called "1000".
    let entry = passwd(&files.passwd)
        .find(|p| !user.is_empty() && p.name == user)
        .or_else(|| passwd(&files.passwd).find(|p| Some(p.uid) == wanted_uid));
    let mut out = match (&entry, wanted_uid) {
        (Some(p), _) => ExecUser {
            uid: p.uid,
            gid: p.gid,
            groups: vec![],
            home: home(p.home),
        },
        (None, Some(uid)) => ExecUser {
            uid,
            gid: 0,
            groups: vec![],
            home: "/".into(),
        },
        (None, None) => {
            return Err(Error::invalid(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    if group.is_empty() {
        // Without an explicit group, those the user is a member of.
        if let Some(p) = &entry {
            out.groups = groups(&files.group)
                .filter(|g| g.members.split(',').any(|m| m.trim() == p.name))
                .map(|g| g.gid)
                .collect();
        }
    } else {
        out.gid = find_group(group, files)?;
    }
    for extra in group_add {
        let gid = find_group(extra, files)?;
        if !out.groups.contains(&gid) {
            out.groups.push(gid);
        }
    }
    // docker puts the primary group in front of the supplementary ones.
    if !out.groups.contains(&out.gid) {
        out.groups.insert(0, out.gid);
    }
    Ok(out)
}

fn find_group(word: &str, files: &Files) -> Result<u32> {
    if let Some(g) = groups(&files.group).find(|g| g.name == word) {
        return Ok(g.gid);
    }
    id(word, "uid")?.ok_or_else(|| {
        Error::invalid(format!(
            "unable to find group {word}: no matching entries in group file"
        ))
    })
}

fn home(text: &str) -> String {
    if text.is_empty() { "/".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:33:33::/srv:/bin/false\n1000:x:7:7::/n:/s\n".into(),
            group: "root:x:0:\nadm:x:4:web,other\nstaff:x:50:root\nweb:x:33:\n".into(),
        }
    }

    fn user(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let u = resolve(spec, &[], &files()).unwrap();
        (u.uid, u.gid, u.groups, u.home)
    }

    #[test]
    fn names_numbers_and_nothing() {
        assert_eq!(user(""), (0, 0, vec![0, 50], "/root".into()));
        assert_eq!(user("web"), (33, 33, vec![33, 4], "/srv".into()));
        assert_eq!(user("33"), (33, 33, vec![33, 4], "/srv".into()));
        assert_eq!(user("web:adm"), (33, 4, vec![4], "/srv".into()));
        assert_eq!(user("5:6"), (5, 6, vec![6], "/".into()));
        assert_eq!(user("5"), (5, 0, vec![0], "/".into()));
        assert_eq!(user("1000").0, 7, "a name of digits is a name");
        assert_eq!(user(":adm"), (0, 4, vec![4], "/root".into()));
    }

    #[test]
    fn groups_are_added() {
        let u = resolve("5", &["adm".into(), "99".into(), "99".into()], &files()).unwrap();
        assert_eq!(u.groups, [0, 4, 99]);
    }

    #[test]
    fn unknown_and_overflowing_ids_are_refused() {
        for bad in ["nobody", "0:nogroup", "4294967296", "2147483648", "0:4294967296"] {
            assert_eq!(
                resolve(bad, &[], &files()).unwrap_err().kind(),
                crate::Kind::Invalid,
                "{bad}"
            );
        }
        assert!(
            resolve("x", &[], &Files::default())
                .unwrap_err()
                .to_string()
                .contains("no matching entries in passwd")
        );
        assert_eq!(resolve("", &[], &Files::default()).unwrap().home, "/");
    }
}
