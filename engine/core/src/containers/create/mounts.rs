//! From `-v`, `--mount`, `VOLUME` and `--volumes-from` to mount records. Pure, but for the existence of bind sources.

use std::path::{Component, Path, PathBuf};

use kelson_api::{ContainerConfig, HostConfig, Map, Mount};

use crate::containers::record::{MountKind, MountRecord};
use crate::error::{Error, Result};
use crate::names;

/// A mount as asked for. A volume without a name becomes an anonymous one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub record: MountRecord,
    /// Labels of a volume that is made for it.
    pub labels: Option<Map<String>>,
}

fn blank(kind: MountKind, destination: PathBuf) -> MountRecord {
    MountRecord {
        kind,
        name: String::new(),
        source: PathBuf::new(),
        destination,
        mode: String::new(),
        rw: true,
        propagation: String::new(),
        non_recursive: false,
        options: Vec::new(),
        anonymous: false,
        no_copy: false,
    }
}

/// `/a//b/../c` without its detours; a path may not leave the root.
pub(crate) fn clean(path: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(p) => out.push(p),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

fn destination(text: &str, spec: &str) -> Result<PathBuf> {
    if !text.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid volume specification: '{spec}': invalid mount config for type \"volume\": invalid mount path: '{text}' \
             mount path must be absolute"
        )));
    }
    let path = clean(text);
    if path == Path::new("/") {
        return Err(Error::invalid(format!(
            "invalid volume specification: '{spec}': invalid mount config for type \"volume\": invalid specification: \
             destination can't be '/'"
        )));
    }
    Ok(path)
}

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// `-v`: `source:destination[:mode]`, or a destination alone.
pub(super) fn parse_bind(spec: &str) -> Result<Wanted> {
    let bad = || Error::invalid(format!("invalid volume specification: '{spec}'"));
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(bad()),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(bad());
    }
    let kind = if source.starts_with('/') {
        MountKind::Bind
    } else {
        MountKind::Volume
    };
    let mut record = blank(kind, destination(target, spec)?);
    match kind {
        MountKind::Bind => record.source = clean(source),
        _ if source.is_empty() => record.anonymous = true,
        _ if names::is_valid(source) => record.name = source.to_owned(),
        _ => {
            return Err(Error::invalid(format!(
                "invalid volume specification: '{spec}': \"{source}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
    }
    apply_mode(&mut record, mode, spec)?;
    Ok(Wanted { record, labels: None })
}

fn apply_mode(record: &mut MountRecord, mode: &str, spec: &str) -> Result<()> {
    let bind = record.kind == MountKind::Bind;
    let bad = || {
        Error::invalid(format!(
            "invalid volume specification: '{spec}': invalid mode: {mode}"
        ))
    };
    let mut access = 0;
    for word in mode.split(',').filter(|w| !w.is_empty()) {
        match word {
            "ro" | "rw" => {
                access += 1;
                record.rw = word == "rw";
            }
            "nocopy" if !bind => record.no_copy = true,
            p if PROPAGATIONS.contains(&p) && bind => record.propagation = p.to_owned(),
            // SELinux relabelling and Docker Desktop's consistency have no meaning here; docker accepts them, too.
            "z" | "Z" | "cached" | "delegated" | "consistent" | "default" => {}
            _ => return Err(bad()),
        }
    }
    if access > 1 {
        return Err(bad());
    }
    record.mode = mode.to_owned();
    if bind && record.propagation.is_empty() {
        record.propagation = "rprivate".into();
    }
    Ok(())
}

/// `--mount`, and the API's `Mounts`.
pub(super) fn parse_mount(mount: &Mount) -> Result<Wanted> {
    let bad = |why: &str| {
        Err(Error::invalid(format!(
            "invalid mount config for type \"{}\": {why}",
            mount.r#type
        )))
    };
    if mount.target.is_empty() {
        return bad("field Target must not be empty");
    }
    if !mount.target.starts_with('/') {
        return bad(&format!(
            "invalid mount path: '{}' mount path must be absolute",
            mount.target
        ));
    }
    let target = clean(&mount.target);
    if target == Path::new("/") {
        return bad("invalid specification: destination can't be '/'");
    }
    let mut labels = None;
    let mut record;
    match mount.r#type.as_str() {
        "bind" => {
            record = blank(MountKind::Bind, target);
            if mount.source.is_empty() {
                return bad("field Source must not be empty");
            }
            if !mount.source.starts_with('/') {
                return bad(&format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                ));
            }
            record.source = clean(&mount.source);
            let options = mount.bind_options.clone().unwrap_or_default();
            // `create_mountpoint` asks for what `-v` does: make it at start.
            if !options.create_mountpoint && !record.source.exists() {
                return bad(&format!("bind source path does not exist: {}", mount.source));
            }
            let propagation = options.propagation.as_str();
            if !propagation.is_empty() && !PROPAGATIONS.contains(&propagation) {
                return bad(&format!("invalid propagation mode: {propagation}"));
            }
            record.propagation = if propagation.is_empty() {
                "rprivate".into()
            } else {
                propagation.to_owned()
            };
            record.non_recursive = options.non_recursive;
        }
        "volume" => {
            record = blank(MountKind::Volume, target);
            record.anonymous = mount.source.is_empty();
            if !mount.source.is_empty() && !names::is_valid(&mount.source) {
                return bad(&format!(
                    "\"{}\" includes invalid characters for a local volume name",
                    mount.source
                ));
            }
            record.name = mount.source.clone();
            let options = mount.volume_options.clone().unwrap_or_default();
            if !options.subpath.is_empty() {
                return Err(Error::unsupported("volume subpaths are not supported yet"));
            }
            record.no_copy = options.no_copy;
            labels = options.labels;
        }
        "tmpfs" => {
            record = blank(MountKind::Tmpfs, target);
            if !mount.source.is_empty() {
                return bad("field Source must not be specified");
            }
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            if options.size_bytes > 0 {
                record.options.push(format!("size={}", options.size_bytes));
            }
            if options.mode != 0 {
                record.options.push(format!("mode={:o}", options.mode));
            }
            let flags = options
                .options
                .iter()
                .flatten()
                .filter(|o| !o.is_empty())
                .map(|o| o.join("="));
            record.options.extend(flags);
        }
        other => return bad(&format!("mount type unknown: \"{other}\"")),
    }
    record.rw = !mount.read_only;
    Ok(Wanted { record, labels })
}

/// Everything asked for, in docker's order of precedence: `--volumes-from`, then `-v` and `--mount`, then the image's
/// `VOLUME`s where nothing else is.
///
/// # Errors
/// `Invalid` for a malformed one, and for two at the same place.
pub(super) fn wanted(
    config: &ContainerConfig,
    host: &HostConfig,
    from_others: Vec<MountRecord>,
) -> Result<Vec<Wanted>> {
    let mut list: Vec<Wanted> = Vec::new();
    let mut explicit: Vec<PathBuf> = Vec::new();
    let binds = host.binds.iter().flatten().map(|b| parse_bind(b));
    let mounts = host.mounts.iter().flatten().map(parse_mount);
    for item in binds.chain(mounts) {
        let item = item?;
        let place = item.record.destination.clone();
        if explicit.contains(&place) || host.tmpfs.iter().flatten().any(|(t, _)| clean(t) == place) {
            return Err(Error::invalid(format!(
                "Duplicate mount point: {}",
                place.display()
            )));
        }
        explicit.push(place);
        list.push(item);
    }
    let taken = |list: &[Wanted], place: &Path| list.iter().any(|w| w.record.destination == place);
    for record in from_others {
        if !taken(&list, &record.destination) {
            list.push(Wanted { record, labels: None });
        }
    }
    for (target, _) in config.volumes.iter().flatten() {
        let place = destination(target, target)?;
        let by_tmpfs = host.tmpfs.iter().flatten().any(|(t, _)| clean(t) == place);
        if !taken(&list, &place) && !by_tmpfs {
            let mut record = blank(MountKind::Volume, place);
            record.anonymous = true;
            list.push(Wanted { record, labels: None });
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_v() {
        let r = |spec: &str| parse_bind(spec).unwrap().record;
        let bind = r("/a/../b:/c/./d:ro,rslave");
        assert_eq!(
            (bind.kind, bind.source.as_path(), bind.rw),
            (MountKind::Bind, Path::new("/b"), false)
        );
        assert_eq!(
            (bind.destination.as_path(), bind.propagation.as_str()),
            (Path::new("/c/d"), "rslave")
        );
        let volume = r("db:/var/lib/db:nocopy");
        assert_eq!(
            (volume.kind, volume.name.as_str(), volume.no_copy),
            (MountKind::Volume, "db", true)
        );
        assert!(r("/x").anonymous);
        assert_eq!(r("/a:/b").propagation, "rprivate");
        for bad in [
            "",
            ":",
            "/a:",
            ":/a",
            "/a:b",
            "/a:/",
            "/a:/b:rox",
            "/a:/b:ro,rw",
            "a b:/c",
            "/a:/b:/c:ro",
            "db:/x:rshared",
        ] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_source_of_mount_is_refused_in_dockers_words() {
        let mount = Mount {
            r#type: "bind".into(),
            source: "/does/not/exist".into(),
            target: "/x".into(),
            ..Default::default()
        };
        assert_eq!(
            parse_mount(&mount).unwrap_err().to_string(),
            "invalid mount config for type \"bind\": bind source path does not exist: /does/not/exist"
        );
        let tmpfs = Mount {
            r#type: "tmpfs".into(),
            target: "/t".into(),
            read_only: true,
            tmpfs_options: Some(kelson_api::TmpfsOptions {
                size_bytes: 1024,
                mode: 0o1770,
                ..Default::default()
            }),
            ..Default::default()
        };
        let record = parse_mount(&tmpfs).unwrap().record;
        assert_eq!(record.options, ["size=1024", "mode=1770"]);
        assert!(!record.rw);
        assert!(
            parse_mount(&Mount {
                r#type: "npipe".into(),
                target: "/t".into(),
                ..Default::default()
            })
            .is_err()
        );
    }

    #[test]
    fn an_images_volume_yields_to_what_the_user_says() {
        let volumes = ["/data", "/other", "/tmp"].map(|p| (p.to_owned(), Default::default()));
        let config = ContainerConfig {
            volumes: Some(volumes.into()),
            ..Default::default()
        };
        let host = HostConfig {
            binds: Some(vec!["/etc:/data:ro".into()]),
            tmpfs: Some([("/tmp".to_owned(), String::new())].into()),
            ..Default::default()
        };
        let list = wanted(&config, &host, vec![]).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].record.kind, MountKind::Bind);
        assert!(list[1].record.anonymous && list[1].record.destination == Path::new("/other"));
        let twice = HostConfig {
            binds: Some(vec!["/a:/x".into(), "/b:/x".into()]),
            ..Default::default()
        };
        assert_eq!(
            wanted(&config, &twice, vec![]).unwrap_err().to_string(),
            "Duplicate mount point: /x"
        );
    }
}
