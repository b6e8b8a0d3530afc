//! Rules over `config.json` that need no look at the machine, by section of the specification. Every error begins with
//! the JSON path.

mod hooks;
mod linux;
mod mounts;
mod namespaces;
mod process;
mod resources;
#[cfg(test)]
mod table;

use super::model::Config;
use crate::error::{Error, Kind, Result};

pub use linux::dotted;
pub use namespaces::ns_name;
pub use process::process;
pub use resources::resources;

/// Checks all that is there, and that what a container cannot be created without is.
///
/// # Errors
/// `Invalid` or `Unsupported` for the first rule that does not hold.
pub fn config(c: &Config) -> Result<()> {
    version(&c.oci_version)?;
    let root = c
        .root
        .as_ref()
        .ok_or_else(|| Error::field("root", "is required"))?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::field("root.path", "is required"));
    }
    if let Some(p) = &c.process {
        process(p, "process")?;
    }
    if c.annotations.contains_key("") {
        return Err(Error::field("annotations[\"\"]", "is an empty key"));
    }
    c.hooks.as_ref().map_or(Ok(()), hooks::hooks)?;
    namespaces::namespaces(c)?;
    namespaces::mappings(c)?;
    mounts::mounts(c)?;
    linux::devices(c)?;
    linux::sysctl(c)?;
    c.linux.resources.as_ref().map_or(Ok(()), resources)?;
    linux::rest(c)
}

/// A 1.x config is accepted, and any 0.x that runc took, as semver's major 1 promises.
fn version(v: &str) -> Result<()> {
    let mut parts = v.splitn(3, '.');
    let major = parts.next().and_then(|p| p.parse::<u32>().ok());
    let minor = parts.next().and_then(|p| p.parse::<u32>().ok());
    match (major, minor, parts.next()) {
        (Some(0 | 1), Some(_), Some(patch)) if patch.starts_with(|c: char| c.is_ascii_digit()) => Ok(()),
        (Some(major), Some(_), Some(_)) => Err(Error::new(
            Kind::Unsupported,
            format!("ociVersion: {v:?}: version {major} is unknown"),
        )),
        _ => Err(Error::field(
            "ociVersion",
            format!("{v:?} is not of the form X.Y.Z"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        let parsed: Config = serde_json::from_str(text).unwrap();
        config(&parsed).map_or_else(|e| e.chain(), |()| "ok".to_owned())
    }

    fn with(linux: &str) -> String {
        check(&format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},"linux":{{{linux}}}}}"#
        ))
    }

    #[test]
    fn errors_begin_with_the_path() {
        assert!(check(r#"{"ociVersion":"1.0.2"}"#).starts_with("root: "));
        let process = r#"{"ociVersion":"1.0.2","root":{"path":"r"},"process":{"args":["a"],"cwd":"tmp"}}"#;
        assert!(check(process).starts_with("process.cwd: "));
        let empty_key = r#"{"ociVersion":"1.0.2","root":{"path":"r"},"annotations":{"":"x"}}"#;
        assert!(check(empty_key).starts_with("annotations[\"\"]: "));
        assert!(
            with(r#""namespaces":[{"type":"pid"},{"type":"uts"},{"type":"ipc","path":"x"}]"#)
                .starts_with("linux.namespaces[2].path: ")
        );
        assert!(with(r#""sysctl":{"kernel.panic":"1"}"#).starts_with("linux.sysctl[\"kernel.panic\"]: "));
        assert!(with(r#""namespaces":[{"type":"user"}]"#).starts_with("linux.uidMappings: "));
        assert!(
            with(r#""maskedPaths":["proc"],"namespaces":[{"type":"mount"}]"#)
                .starts_with("linux.maskedPaths[0]: ")
        );
    }

    #[test]
    fn versions() {
        assert!(version("1.0.2-dev").is_ok());
        assert!(version("1.3.0").is_ok());
        assert!(version("2.0.0").unwrap_err().kind() == Kind::Unsupported);
        assert!(version("").is_err());
        assert!(version("1.x.0").is_err());
    }

    #[test]
    fn huge_mappings_do_not_overflow() {
        let user = r#""namespaces":[{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":0,"size":1}],"#;
        let gids = r#""gidMappings":[{"containerID":4294967295,"hostID":0,"size":4294967295}]"#;
        assert!(with(&format!("{user}{gids}")).starts_with("linux.gidMappings[0]: "));
        let gids = r#""gidMappings":[{"containerID":0,"hostID":0,"size":10},{"containerID":5,"hostID":100,"size":10}]"#;
        assert!(with(&format!("{user}{gids}")).contains("overlaps"));
    }

    proptest::proptest! {
        #[test]
        fn id_mappings_are_refused_exactly_where_the_kernel_would(
            list in proptest::collection::vec((id(), id(), id()), 1..5)
        ) {
            let mappings: Vec<oci_spec::runtime::LinuxIdMapping> = list
                .iter()
                .map(|(c, h, s)| serde_json::json!({"containerID": c, "hostID": h, "size": s}))
                .map(|m| serde_json::from_value(m).unwrap())
                .collect();
            let ends = |start: u32, size: u32| u64::from(start) + u64::from(size);
            let apart = |a: u32, n: u32, b: u32, m: u32| u64::from(a) >= ends(b, m) || u64::from(b) >= ends(a, n);
            let each = list.iter().all(|(c, h, s)| {
                *s > 0 && ends(*c, *s) <= u64::from(u32::MAX) && ends(*h, *s) <= u64::from(u32::MAX)
            });
            let together = list.iter().enumerate().all(|(i, (c, h, s))| {
                list[..i].iter().all(|(c2, h2, s2)| apart(*c, *s, *c2, *s2) && apart(*h, *s, *h2, *s2))
            });
            proptest::prop_assert_eq!(namespaces::mapping_list("m", &mappings).is_ok(), each && together);
        }
    }

    /// Small ones, and those around the largest (CVE-2021-43784).
    fn id() -> impl proptest::strategy::Strategy<Value = u32> {
        use proptest::prelude::*;
        prop_oneof![
            0u32..20,
            Just(u32::MAX),
            (0u32..20).prop_map(|n| u32::MAX - n),
            any::<u32>()
        ]
    }

    #[test]
    fn slashes_and_dots_of_sysctl() {
        assert_eq!(
            dotted("net/ipv4/conf/eth0.100/forwarding"),
            "net.ipv4.conf.eth0/100.forwarding"
        );
        assert_eq!(dotted("net.ipv4.ip_forward"), "net.ipv4.ip_forward");
    }
}
