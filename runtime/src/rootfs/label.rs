//! The SELinux context of the container's mounts (`linux.mountLabel`).

use std::path::Path;

use crate::config::Config;
use crate::error::{Error, Result};

/// A mount option and its value, for filesystems whose files have no context of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label<'a> {
    /// `context`, or what crun's annotation `run.oci.mount_context_type` names instead.
    pub option: &'a str,
    /// The context.
    pub context: &'a str,
}

/// The label that config.json asks for; none where SELinux is off, of which [`left_out`] tells.
///
/// # Errors
/// `Invalid` for an annotation that names no option of mounts.
pub fn of(config: &Config) -> Result<Option<Label<'_>>> {
    Ok(wanted(config)?.filter(|_| is_on()))
}

/// A warning for a label that has no meaning here, as no label keeps anyone from anything without SELinux.
pub fn left_out(config: &Config) -> Option<String> {
    let label = config.linux.mount_label.as_deref().filter(|l| !l.is_empty())?;
    (!is_on()).then(|| format!("linux.mountLabel: {label:?} is not applied: SELinux is not enabled here"))
}

fn is_on() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn wanted(config: &Config) -> Result<Option<Label<'_>>> {
    const ANNOTATION: &str = "run.oci.mount_context_type";
    let Some(context) = config.linux.mount_label.as_deref().filter(|l| !l.is_empty()) else {
        return Ok(None);
    };
    let option = config
        .annotations
        .get(ANNOTATION)
        .map_or("context", String::as_str);
    if !["context", "fscontext", "defcontext", "rootcontext"].contains(&option) {
        return Err(Error::field(
            format!("annotations[{ANNOTATION:?}]"),
            format!("{option:?} is not context, fscontext, defcontext or rootcontext"),
        ));
    }
    Ok(Some(Label { option, context }))
}

/// Where the kernel takes a label: as an option of the mount, on its root only, or not at all (its files have contexts
/// by policy). As in runc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Option,
    Root,
    Nowhere,
}

pub(super) fn place(typ: &str) -> Place {
    match typ {
        "proc" | "sysfs" | "cgroup" | "cgroup2" => Place::Nowhere,
        "mqueue" => Place::Root,
        _ => Place::Option,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_annotation_chooses_the_option() {
        let plain = config(r#"{"linux": {"mountLabel": "system_u:object_r:container_file_t:s0:c1,c2"}}"#);
        let label = wanted(&plain).unwrap().unwrap();
        assert_eq!(
            (label.option, label.context.ends_with("c1,c2")),
            ("context", true)
        );
        let with = |kind: &str| {
            config(&format!(
                r#"{{"annotations": {{"run.oci.mount_context_type": "{kind}"}}, "linux": {{"mountLabel": "x"}}}}"#
            ))
        };
        assert_eq!(
            wanted(&with("rootcontext")).unwrap().unwrap().option,
            "rootcontext"
        );
        let error = wanted(&with("size")).unwrap_err();
        assert!(error.chain().starts_with("annotations["), "{error:?}");
        assert_eq!(wanted(&config(r#"{"linux": {"mountLabel": ""}}"#)).unwrap(), None);
    }

    #[test]
    fn kernel_filesystems_keep_their_own() {
        let places = ["tmpfs", "devpts", "mqueue", "proc", "sysfs", "cgroup"].map(place);
        let expected = [
            Place::Option,
            Place::Option,
            Place::Root,
            Place::Nowhere,
            Place::Nowhere,
            Place::Nowhere,
        ];
        assert_eq!(places, expected);
    }
}
