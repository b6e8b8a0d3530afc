//! Which ids an id-mapped mount has: its own mappings, crun's in the option's text, or the container's. Pure.

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::bind::mapped;
use super::options::Options;
use crate::config::model::Linux;
use crate::error::{Error, Result};

/// An id-mapped mount's user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mapping {
    /// The container's own.
    Container,
    /// One that exists for these lists only: ids in the source (`containerID`), ids seen on the host (`hostID`).
    Own {
        /// `uidMappings`
        uids: Vec<LinuxIdMapping>,
        /// `gidMappings`
        gids: Vec<LinuxIdMapping>,
    },
}

/// The mapping of a mount, and whether it goes for all below it; `None` where ids stay as they are.
///
/// # Errors
/// `Invalid`, beginning with the part of the entry that is wrong (`options`, `gidMappings`).
pub fn decide(
    entry: &Mount,
    options: &Options,
    linux: &Linux,
    has_user: bool,
) -> Result<Option<(Mapping, bool)>> {
    let own = mapped(entry);
    if options.idmap.is_none() && !own {
        return Ok(None);
    }
    let recursive = options.idmap.is_some_and(|i| i.recursive);
    if !options.bind() {
        return Err(Error::field("options", "only bind mounts can have mapped ids"));
    }
    if own {
        let lists = [
            ("uidMappings", entry.uid_mappings()),
            ("gidMappings", entry.gid_mappings()),
        ];
        if let Some((name, _)) = lists.iter().find(|(_, l)| l.as_ref().is_none_or(Vec::is_empty)) {
            return Err(Error::field(name, "uidMappings and gidMappings come together"));
        }
        let [uids, gids] = lists.map(|(_, l)| l.clone().unwrap_or_default());
        return Ok(Some((Mapping::Own { uids, gids }, recursive)));
    }
    if let Some(text) = &options.idmap_text {
        return Ok(Some((of_text(text, linux)?, recursive)));
    }
    if !has_user {
        let why = "idmap needs uidMappings and gidMappings, or a container with a user namespace";
        return Err(Error::field("options", why));
    }
    Ok(Some((Mapping::Container, recursive)))
}

/// crun's `uids=SOURCE-HOST-SIZE#...;gids=...`. `@` before a range: its host ids are the container's.
fn of_text(text: &str, linux: &Linux) -> Result<Mapping> {
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    for part in text.split(';').filter(|p| !p.is_empty()) {
        match part.split_once('=') {
            Some(("uids", ranges)) => uids = list(ranges, &linux.uid_mappings)?,
            Some(("gids", ranges)) => gids = list(ranges, &linux.gid_mappings)?,
            _ => {
                return Err(Error::field(
                    "options",
                    format!("idmap: {part:?} is neither uids= nor gids="),
                ));
            }
        }
    }
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::field("options", "idmap: uids and gids come together"));
    }
    Ok(Mapping::Own { uids, gids })
}

fn list(ranges: &str, container: &[LinuxIdMapping]) -> Result<Vec<LinuxIdMapping>> {
    ranges
        .split('#')
        .filter(|r| !r.is_empty())
        .map(|r| range(r, container))
        .collect()
}

fn range(text: &str, container: &[LinuxIdMapping]) -> Result<LinuxIdMapping> {
    let wrong = || {
        Error::field(
            "options",
            format!("idmap: {text:?} is not of the form SOURCE-HOST-SIZE"),
        )
    };
    let (relative, rest) = match text.strip_prefix('@') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let numbers: Vec<u32> = rest.split('-').map_while(|n| n.parse().ok()).collect();
    let [source, mut host, size] = numbers[..] else {
        return Err(wrong());
    };
    if rest.split('-').count() != 3 {
        return Err(wrong());
    }
    if relative {
        host = to_host(container, host).ok_or_else(|| {
            Error::field(
                "options",
                format!("idmap: id {host} of {text:?} is not mapped in the container"),
            )
        })?;
    }
    LinuxIdMappingBuilder::default()
        .container_id(source)
        .host_id(host)
        .size(size)
        .build()
        .map_err(|_| wrong())
}

fn to_host(list: &[LinuxIdMapping], id: u32) -> Option<u32> {
    list.iter().find_map(|m| {
        let offset = id.checked_sub(m.container_id()).filter(|o| *o < m.size())?;
        m.host_id().checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::options::parse;

    fn decide_on(entry: &str, has_user: bool) -> std::result::Result<Option<(Mapping, bool)>, String> {
        let entry: Mount = serde_json::from_str(entry).unwrap();
        let linux: Linux = serde_json::from_str(
            r#"{"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 2, "size": 1000}],
                "gidMappings": [{"containerID": 0, "hostID": 5000, "size": 1000}]}"#,
        )
        .unwrap();
        let options = parse(entry.options().as_deref().unwrap_or_default());
        decide(&entry, &options, &linux, has_user).map_err(|e| e.chain())
    }

    fn numbers(list: &[LinuxIdMapping]) -> Vec<[u32; 3]> {
        list.iter()
            .map(|m| [m.container_id(), m.host_id(), m.size()])
            .collect()
    }

    const LISTS: &str = r#""uidMappings": [{"containerID": 0, "hostID": 7, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 8, "size": 1}]"#;

    #[test]
    fn own_lists_come_first_and_the_containers_last() {
        let plain = r#"{"destination": "/x", "options": ["rbind"]}"#;
        assert_eq!(decide_on(plain, true), Ok(None));
        let own = format!(r#"{{"destination": "/x", "options": ["rbind"], {LISTS}}}"#);
        let Ok(Some((Mapping::Own { uids, gids }, false))) = decide_on(&own, true) else {
            panic!("{own}")
        };
        assert_eq!(
            (numbers(&uids), numbers(&gids)),
            (vec![[0, 7, 1]], vec![[0, 8, 1]])
        );
        let own = format!(r#"{{"destination": "/x", "options": ["rbind", "ridmap"], {LISTS}}}"#);
        assert!(matches!(
            decide_on(&own, false),
            Ok(Some((Mapping::Own { .. }, true)))
        ));
        let container = r#"{"destination": "/x", "options": ["bind", "idmap"]}"#;
        assert_eq!(decide_on(container, true), Ok(Some((Mapping::Container, false))));
        assert!(
            decide_on(container, false)
                .unwrap_err()
                .starts_with("options: idmap needs")
        );
        let none = r#"{"destination": "/x", "options": ["bind"], "uidMappings": [], "gidMappings": []}"#;
        assert_eq!(decide_on(none, false), Ok(None));
    }

    #[test]
    fn what_cannot_be() {
        let tmpfs = format!(r#"{{"destination": "/x", "type": "tmpfs", {LISTS}}}"#);
        assert!(
            decide_on(&tmpfs, true)
                .unwrap_err()
                .starts_with("options: only bind mounts")
        );
        let half = r#"{"destination": "/x", "options": ["bind"], "uidMappings": [{"containerID": 0, "hostID": 7, "size": 1}]}"#;
        assert!(decide_on(half, true).unwrap_err().starts_with("gidMappings: "));
        for text in [
            "uids=0-1-2",
            "uids=0-1;gids=0-1-2",
            "uids=0-1-2-3;gids=0-1-2",
            "x",
            "uids=@5000-5000-1;gids=0-0-1",
        ] {
            let entry = format!(r#"{{"destination": "/x", "options": ["bind", "idmap={text}"]}}"#);
            assert!(
                decide_on(&entry, true)
                    .unwrap_err()
                    .starts_with("options: idmap: "),
                "{text}"
            );
        }
    }

    #[test]
    fn cruns_text() {
        let entry = r#"{"destination": "/x", "options": ["bind", "idmap=uids=0-1-10#10-11-10#@20-3-1;gids=@0-100-10"]}"#;
        let Ok(Some((Mapping::Own { uids, gids }, _))) = decide_on(entry, true) else {
            panic!()
        };
        assert_eq!(numbers(&uids), [[0, 1, 10], [10, 11, 10], [20, 4, 1]]);
        assert_eq!(numbers(&gids), [[0, 5100, 10]]);
    }
}
