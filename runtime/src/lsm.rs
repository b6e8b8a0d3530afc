//! AppArmor profile and SELinux label of the process.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::config::Process;
use crate::error::{Doing, Error, Kind, Result};

/// Security modules of this machine, asked for only when a config names something of theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Modules {
    apparmor: bool,
    /// AppArmor's files have a directory of their own (Linux 5.8): with several modules the old ones may be another's.
    apparmor_dir: bool,
    selinux: bool,
}

/// A file below `/proc/thread-self/attr`, what to write to it, and the field that wants it.
type Attribute = (&'static str, String, &'static str);

/// Attribute files of this process, opened while /proc is still the host's, and what to write to them.
#[derive(Debug, Default)]
pub struct Prepared {
    labels: Vec<(File, String, &'static str)>,
}

fn profile(process: &Process) -> Option<&str> {
    process.apparmor_profile.as_deref().filter(|p| !p.is_empty())
}

fn label(process: &Process) -> Option<&str> {
    process.selinux_label.as_deref().filter(|l| !l.is_empty())
}

impl Modules {
    /// Looks only for what is asked for.
    fn for_process(process: &Process) -> Self {
        let on = "/sys/module/apparmor/parameters/enabled";
        Self {
            apparmor: profile(process).is_some()
                && fs::read_to_string(on).is_ok_and(|text| text.starts_with('Y')),
            apparmor_dir: profile(process).is_some()
                && Path::new("/proc/thread-self/attr/apparmor/exec").exists(),
            selinux: label(process).is_some() && Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// What is written for the next execve.
fn decide(process: &Process, modules: Modules) -> Vec<Attribute> {
    let mut out = Vec::new();
    if let Some(profile) = profile(process).filter(|_| modules.apparmor) {
        let file = if modules.apparmor_dir {
            "apparmor/exec"
        } else {
            "exec"
        };
        out.push((file, format!("exec {profile}"), "process.apparmorProfile"));
    }
    if let Some(label) = label(process).filter(|_| modules.selinux) {
        out.push(("exec", label.to_owned(), "process.selinuxLabel"));
    }
    out
}

/// Checks before anything is made. Gives a warning for a profile that cannot be in force because AppArmor is off; as crun
/// does, and unlike runc, the container runs without it.
///
/// # Errors
/// `Unsupported` for a label without SELinux.
pub fn check(process: &Process) -> Result<Option<String>> {
    check_with(process, Modules::for_process(process))
}

fn check_with(process: &Process, modules: Modules) -> Result<Option<String>> {
    if let Some(label) = label(process).filter(|_| !modules.selinux) {
        let text = format!("process.selinuxLabel: {label:?} is specified, but SELinux is not enabled here");
        return Err(Error::new(Kind::Unsupported, text));
    }
    let profile = profile(process).filter(|_| !modules.apparmor);
    Ok(profile
        .map(|p| format!("process.apparmorProfile: {p:?} is not applied: AppArmor is not enabled here")))
}

/// Opens what the process asks for. A profile without AppArmor is left out; [`check`] has told of it.
///
/// # Errors
/// What opening the attribute file reported.
pub fn prepare(process: &Process) -> Result<Prepared> {
    if profile(process).is_none() && label(process).is_none() {
        return Ok(Prepared::default());
    }
    let wanted = decide(process, Modules::for_process(process));
    let opened = wanted
        .into_iter()
        .map(|(file, text, field)| Ok((open(file, field)?, text, field)));
    Ok(Prepared {
        labels: opened.collect::<Result<_>>()?,
    })
}

/// Gives keys that this process makes from now on the label of the process to be, up to its execve, where the kernel takes
/// that back: the session keyring is to be the container's alone.
///
/// # Errors
/// What the kernel refused.
pub fn label_keys(process: &Process) -> Result<()> {
    let Some(label) = label(process).filter(|_| Modules::for_process(process).selinux) else {
        return Ok(());
    };
    let field = "process.selinuxLabel";
    let mut file = open("keycreate", field)?;
    file.write_all(label.as_bytes())
        .doing(|| format!("{field}: label the session keyring {label:?}"))
}

fn open(file: &str, field: &str) -> Result<File> {
    let path = Path::new("/proc/thread-self/attr").join(file);
    let mut options = OpenOptions::new();
    options
        .write(true)
        .open(&path)
        .doing(|| format!("{field}: open {}", path.display()))
}

impl Prepared {
    /// Sets the labels for the next execve.
    ///
    /// # Errors
    /// What the kernel refused: an unknown profile is `ENOENT`.
    pub fn apply(self) -> Result<()> {
        for (mut file, text, field) in self.labels {
            file.write_all(text.as_bytes())
                .doing(|| format!("{field}: set security label {text:?}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Process {
        Process {
            apparmor_profile: Some("acme".to_owned()),
            selinux_label: Some("system_u:system_r:container_t:s0".to_owned()),
            ..Process::default()
        }
    }

    #[test]
    fn each_module_has_its_file_and_its_form() {
        let all = Modules {
            apparmor: true,
            apparmor_dir: true,
            selinux: true,
        };
        let files = |modules| {
            decide(&process(), modules)
                .into_iter()
                .map(|(f, t, _)| (f, t))
                .collect::<Vec<_>>()
        };
        let own = ("apparmor/exec", "exec acme".to_owned());
        let label = ("exec", "system_u:system_r:container_t:s0".to_owned());
        assert_eq!(files(all), [own, label]);
        let old = Modules {
            apparmor_dir: false,
            selinux: false,
            ..all
        };
        assert_eq!(files(old), [("exec", "exec acme".to_owned())]);
        assert_eq!(files(Modules::default()), []);
    }

    #[test]
    fn what_is_absent_is_told_before_anything_is_made() {
        let on = Modules {
            apparmor: true,
            apparmor_dir: true,
            selinux: true,
        };
        assert_eq!(check_with(&process(), on).unwrap(), None);
        let warned = check_with(
            &process(),
            Modules {
                apparmor: false,
                ..on
            },
        )
        .unwrap()
        .unwrap();
        assert!(
            warned.starts_with("process.apparmorProfile: \"acme\" is not applied"),
            "{warned}"
        );
        let error = check_with(&process(), Modules { selinux: false, ..on }).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.chain().starts_with("process.selinuxLabel: \"system_u:"),
            "{error:?}"
        );
        assert_eq!(check_with(&Process::default(), Modules::default()).unwrap(), None);
    }
}
