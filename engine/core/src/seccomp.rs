//! From docker's profile format to the runtime-spec's: which rules apply for a set of capabilities, an architecture and a
//! kernel. Pure and in a fixed order, as the runtime caches compiled filters by the bytes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Doing, Result};

/// moby's default profile (Apache-2.0, see data/LICENSE-APACHE-2.0.txt).
const DEFAULT: &str = include_str!("../data/seccomp-default-profile.json");

/// Expanded profiles kept; one per capability set in use.
const CACHED: usize = 32;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// Old profiles have one name a rule.
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u32,
    value: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    value_two: u64,
    op: String,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    default_action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    architectures: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener_metadata: Option<String>,
    syscalls: Vec<OutputRule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OutputRule {
    names: Vec<String>,
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg>,
}

/// What of the host decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    /// Go's name, `amd64`.
    pub arch: &'static str,
    /// libseccomp's name, `SCMP_ARCH_X86_64`.
    pub native: &'static str,
    /// Major and minor of the kernel's release.
    pub kernel: (u32, u32),
}

impl Platform {
    pub fn host() -> Self {
        let (arch, native) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
            "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
            "riscv64" => ("riscv64", "SCMP_ARCH_RISCV64"),
            "s390x" => ("s390x", "SCMP_ARCH_S390X"),
            "powerpc64" => ("ppc64le", "SCMP_ARCH_PPC64LE"),
            "loongarch64" => ("loong64", "SCMP_ARCH_LOONGARCH64"),
            "arm" => ("arm", "SCMP_ARCH_ARM"),
            "x86" => ("x86", "SCMP_ARCH_X86"),
            _ => ("", ""),
        };
        let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned());
        Self {
            arch,
            native,
            kernel: version(&release.unwrap_or_default()).unwrap_or((0, 0)),
        }
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Expands a profile's text.
///
/// # Errors
/// `Invalid`-like text of what is wrong with the profile.
fn expand(text: &str, caps: &BTreeSet<String>, platform: &Platform) -> serde_json::Result<String> {
    let profile: Profile = serde_json::from_str(text)?;
    let applies = |filter: &Filter| {
        filter.caps.iter().flatten().all(|c| caps.contains(c))
            && filter
                .arches
                .as_ref()
                .is_none_or(|a| a.is_empty() || a.iter().any(|a| a == platform.arch))
            && filter
                .min_kernel
                .as_deref()
                .and_then(version)
                .is_none_or(|min| platform.kernel >= min)
    };
    // An exclusion holds when any of its words does.
    let excluded = |filter: &Filter| {
        filter.caps.iter().flatten().any(|c| caps.contains(c))
            || filter.arches.iter().flatten().any(|a| a == platform.arch)
            || filter
                .min_kernel
                .as_deref()
                .and_then(version)
                .is_some_and(|min| platform.kernel >= min)
    };
    let mut architectures = profile.architectures.unwrap_or_default();
    if let Some(entry) = profile
        .arch_map
        .iter()
        .flatten()
        .find(|m| m.architecture == platform.native)
    {
        architectures.push(entry.architecture.clone());
        architectures.extend(entry.sub_architectures.iter().flatten().cloned());
    }
    let syscalls = profile
        .syscalls
        .unwrap_or_default()
        .into_iter()
        .filter(|rule| {
            rule.includes.as_ref().is_none_or(applies) && !rule.excludes.as_ref().is_some_and(excluded)
        })
        .map(|rule| OutputRule {
            names: rule.names.into_iter().chain(rule.name).collect(),
            action: rule.action,
            errno_ret: rule.errno_ret,
            args: rule.args.unwrap_or_default(),
        })
        .collect();
    serde_json::to_string(&Output {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures,
        flags: profile.flags.unwrap_or_default(),
        listener_path: profile.listener_path,
        listener_metadata: profile.listener_metadata,
        syscalls,
    })
}

/// The daemon's profile, expanded once per capability set.
#[derive(Debug)]
pub(crate) struct Seccomp {
    text: String,
    platform: Platform,
    cache: Mutex<HashMap<BTreeSet<String>, Arc<RawValue>>>,
}

impl Seccomp {
    /// With moby's profile, or the text of another one.
    ///
    /// # Errors
    /// When that text is no profile.
    pub fn new(text: Option<String>) -> Result<Self> {
        let text = text.unwrap_or_else(|| DEFAULT.to_owned());
        let seccomp = Self {
            text,
            platform: Platform::host(),
            cache: Mutex::default(),
        };
        seccomp
            .for_caps(&BTreeSet::new())
            .doing(|| "read the default seccomp profile")?;
        Ok(seccomp)
    }

    /// The daemon's profile for a capability set.
    pub fn for_caps(&self, caps: &BTreeSet<String>) -> Result<Arc<RawValue>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = cache.get(caps) {
            return Ok(found.clone());
        }
        let expanded = self.expand(&self.text, caps)?;
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(caps.clone(), expanded.clone());
        Ok(expanded)
    }

    /// A profile given by the user.
    pub fn expand(&self, text: &str, caps: &BTreeSet<String>) -> Result<Arc<RawValue>> {
        let invalid =
            |e| crate::Error::with_source(crate::Kind::Invalid, "decoding seccomp profile failed", e);
        let text = expand(text, caps, &self.platform).map_err(invalid)?;
        let raw: Box<RawValue> = RawValue::from_string(text).map_err(invalid)?;
        Ok(raw.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const AMD64: Platform = Platform {
        arch: "amd64",
        native: "SCMP_ARCH_X86_64",
        kernel: (6, 1),
    };

    fn caps(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn expanded(names: &[&str], platform: &Platform) -> Value {
        serde_json::from_str(&expand(DEFAULT, &caps(names), platform).unwrap()).unwrap()
    }

    fn allows(profile: &Value, name: &str) -> bool {
        profile["syscalls"].as_array().unwrap().iter().any(|r| {
            r["action"] == "SCMP_ACT_ALLOW"
                && r.get("args").is_none()
                && r["names"].as_array().unwrap().iter().any(|n| n == name)
        })
    }

    #[test]
    fn the_default_profile_follows_capabilities() {
        let plain = expanded(&[], &AMD64);
        assert_eq!(plain["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(plain["defaultErrnoRet"], 1);
        assert_eq!(
            plain["architectures"],
            serde_json::json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
        );
        assert!(allows(&plain, "read") && allows(&plain, "ptrace") && allows(&plain, "arch_prctl"));
        assert!(
            !allows(&plain, "mount") && !allows(&plain, "chroot") && !allows(&plain, "riscv_flush_icache")
        );
        let clone3 = plain["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["names"][0] == "clone3")
            .unwrap();
        assert_eq!(
            (clone3["action"].as_str(), clone3["errnoRet"].as_u64()),
            (Some("SCMP_ACT_ERRNO"), Some(38))
        );

        let admin = expanded(&["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"], &AMD64);
        assert!(allows(&admin, "mount") && allows(&admin, "chroot") && allows(&admin, "clone3"));
    }

    #[test]
    fn the_kernel_and_the_architecture_decide() {
        assert!(!allows(
            &expanded(
                &[],
                &Platform {
                    kernel: (4, 7),
                    ..AMD64
                }
            ),
            "ptrace"
        ));
        let arm = expanded(
            &[],
            &Platform {
                arch: "arm64",
                native: "SCMP_ARCH_AARCH64",
                ..AMD64
            },
        );
        assert!(allows(&arm, "arm_fadvise64_64") && !allows(&arm, "modify_ldt"));
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
    }

    #[test]
    fn the_same_question_gives_the_same_bytes() {
        let seccomp = Seccomp::new(None).unwrap();
        let set = caps(&["CAP_CHOWN", "CAP_SYS_CHROOT"]);
        let first = seccomp.for_caps(&set).unwrap();
        assert_eq!(
            first.get(),
            Seccomp::new(None).unwrap().for_caps(&set).unwrap().get()
        );
        serde_json::from_str::<oci_spec::runtime::LinuxSeccomp>(first.get()).unwrap();
    }

    #[test]
    fn a_users_profile_in_either_form() {
        let seccomp = Seccomp::new(None).unwrap();
        let old =
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"chmod","action":"SCMP_ACT_ERRNO"}]}"#;
        assert!(
            seccomp
                .expand(old, &caps(&[]))
                .unwrap()
                .get()
                .contains(r#""names":["chmod"]"#)
        );
        assert!(seccomp.expand("{", &caps(&[])).is_err());
    }
}
