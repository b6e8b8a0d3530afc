//! The flags that stand before the command, as typed and as resolved.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Parser;

use super::Context;
use super::quick::{self, Quick, Slot};
use crate::container::Store;
use crate::container::launch::CgroupManager;
use crate::error::{Doing, Error, Kind, Result};
use crate::log::{Level, Log, Target};
use crate::namespaces::user;

/// The newest runtime-spec that is implemented.
const OCI_VERSION: &str = "1.3.0";

/// What every command can be preceded by.
#[derive(Debug, Parser)]
#[command(
    name = "kelson-runtime",
    about = "Open Container Initiative runtime",
    disable_help_subcommand = true,
    disable_version_flag = true
)]
pub(super) struct Globals {
    /// Directory for the state of containers
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where log messages go: FILE, file:FILE, journald:IDENT or syslog:IDENT (default: standard error)
    #[arg(long, value_name = "TARGET")]
    log: Option<OsString>,
    /// Format of log messages: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: String,
    /// Least level that is logged: debug, info, warning or error
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Same as --log-level debug
    #[arg(long)]
    debug: bool,
    /// Who makes cgroups: cgroupfs, systemd, or disabled (the container stays in the caller's)
    #[arg(long, value_name = "MANAGER")]
    cgroup_manager: Option<String>,
    /// Same as --cgroup-manager systemd
    #[arg(long)]
    systemd_cgroup: bool,
    /// Go on without a cgroup where permission for one is missing: true, false, or auto (when not the host's root)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    rootless: String,
    /// Print the version
    #[arg(short, long, short_alias = 'V')]
    pub version: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    #[command(external_subcommand)]
    Any(Vec<OsString>),
}

impl Quick for Globals {
    fn quick(argv: &[OsString]) -> Option<Self> {
        let (mut root, mut log, mut format, mut debug, mut systemd) = (None, None, None, false, false);
        let command = quick::flags(
            argv.get(1..)?,
            &mut [
                ("root", "", Slot::Value(&mut root)),
                ("log", "", Slot::Value(&mut log)),
                ("log-format", "", Slot::Value(&mut format)),
                ("debug", "", Slot::Switch(&mut debug)),
                ("systemd-cgroup", "", Slot::Switch(&mut systemd)),
            ],
        )?;
        // An empty word, or none, is clap's to explain.
        command.first().filter(|name| !name.is_empty())?;
        Some(Self {
            root: root.map(Into::into),
            log: log.map(Into::into),
            log_format: format.unwrap_or("text").to_owned(),
            log_level: None,
            debug,
            cgroup_manager: None,
            systemd_cgroup: systemd,
            rootless: "auto".to_owned(),
            version: false,
            command: Some(Command::Any(command.to_vec())),
        })
    }
}

impl Globals {
    /// Checks the values and opens the log.
    ///
    /// # Errors
    /// Names the flag; what making the state or log file reported.
    pub fn context(self) -> Result<Context> {
        let log = self.log()?;
        log.open()?;
        let cgroup_manager = manager(self.cgroup_manager.as_deref(), self.systemd_cgroup)?;
        let rootless = parse_rootless(&self.rootless)?;
        let root_given = self.root.is_some();
        let root = match self.root {
            Some(root) => checked_root(&root)?,
            None => default_root()?,
        };
        Ok(Context {
            store: Store::new(root),
            root_given,
            log,
            cgroup_manager,
            rootless,
        })
    }

    fn log(&self) -> Result<Log> {
        let json = match self.log_format.as_str() {
            "text" | "" => false,
            "json" => true,
            other => return Err(invalid(format!("invalid log-format: {other}"))),
        };
        let level = match &self.log_level {
            _ if self.debug => Level::Debug,
            None => Level::Warning,
            Some(name) => Level::parse(name).ok_or_else(|| {
                invalid(format!(
                    "--log-level: {name:?} is not debug, info, warning or error"
                ))
            })?,
        };
        let target = match &self.log {
            None => Target::Stderr,
            Some(value) => Target::parse(value).map_err(|why| invalid(format!("--log: {why}")))?,
        };
        Ok(Log { target, json, level })
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, text.into())
}

fn manager(name: Option<&str>, systemd: bool) -> Result<CgroupManager> {
    match (name, systemd) {
        (None, false) | (Some("cgroupfs"), false) => Ok(CgroupManager::Cgroupfs),
        (None | Some("systemd"), _) => Ok(CgroupManager::Systemd),
        (Some("disabled"), false) => Ok(CgroupManager::Disabled),
        (Some("cgroupfs" | "disabled"), true) => {
            Err(invalid("--systemd-cgroup: contradicts --cgroup-manager"))
        }
        (Some(other), _) => Err(invalid(format!(
            "--cgroup-manager: {other:?} is not cgroupfs, systemd or disabled"
        ))),
    }
}

/// `None` is `auto`. Everything that Go's strconv.ParseBool takes.
fn parse_rootless(text: &str) -> Result<Option<bool>> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        other if other.is_empty() || other.eq_ignore_ascii_case("auto") => Ok(None),
        other => Err(invalid(format!(
            "--rootless: {other:?} is not auto, true or false"
        ))),
    }
}

/// Absolute; never the root directory, of which every subdirectory would be a container.
fn checked_root(root: &Path) -> Result<PathBuf> {
    let mut clean = if root.is_absolute() {
        PathBuf::new()
    } else {
        std::env::current_dir().doing(|| "--root: find the current directory")?
    };
    for part in root.components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    if clean == Path::new("/") {
        return Err(invalid("Option --root argument should not be set to /"));
    }
    Ok(clean)
}

/// `/run/kelson-runtime`; below `$XDG_RUNTIME_DIR` for everybody but the host's root. There it is made with a sticky
/// bit, without which what has not been used for a while may be pruned (XDG base directory specification).
fn default_root() -> Result<PathBuf> {
    let run = PathBuf::from("/run/kelson-runtime");
    let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) else {
        return Ok(run);
    };
    let name = std::env::var_os("USER");
    if !honours_xdg(
        nix::unistd::Uid::effective().is_root(),
        user::is_nested,
        name.as_deref(),
    ) {
        return Ok(run);
    }
    let root = Path::new(&dir).join("kelson-runtime");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .and_then(|()| fs::set_permissions(&root, Permissions::from_mode(0o1700)))
        .doing(|| {
            format!(
                "make {} (the path in $XDG_RUNTIME_DIR must be writable by the user)",
                root.display()
            )
        })?;
    Ok(root)
}

/// Root of a user namespace does so unless it calls itself root, as somebody who only entered a namespace by hand
/// keeps the environment of the user.
fn honours_xdg(root: bool, in_user_namespace: impl Fn() -> bool, user: Option<&std::ffi::OsStr>) -> bool {
    !root || (in_user_namespace() && user != Some("root".as_ref()))
}

/// runc's form, with the name by which we were called.
pub(super) fn version(name: &str) -> String {
    format!(
        "{name} version {}\ncommit: {}\nspec: {OCI_VERSION}\nlibseccomp: {}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("KELSON_COMMIT").unwrap_or("unknown"),
        crate::seccomp::library_version(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rootless_values_are_gos() {
        assert_eq!(parse_rootless("auto").unwrap(), None);
        assert_eq!(parse_rootless("").unwrap(), None);
        assert_eq!(parse_rootless("T").unwrap(), Some(true));
        assert_eq!(parse_rootless("0").unwrap(), Some(false));
        assert!(parse_rootless("yes").is_err());
    }

    #[test]
    fn managers() {
        assert_eq!(manager(None, false).unwrap(), CgroupManager::Cgroupfs);
        assert_eq!(manager(None, true).unwrap(), CgroupManager::Systemd);
        assert_eq!(manager(Some("systemd"), true).unwrap(), CgroupManager::Systemd);
        assert_eq!(manager(Some("disabled"), false).unwrap(), CgroupManager::Disabled);
        assert!(manager(Some("cgroupfs"), true).is_err() && manager(Some("x"), false).is_err());
    }

    #[test]
    fn a_root_is_absolute_and_not_the_root() {
        assert_eq!(checked_root(Path::new("/a/../b/.")).unwrap(), Path::new("/b"));
        assert!(checked_root(Path::new("x")).unwrap().is_absolute());
        for bad in ["/", "/..", "/a/.."] {
            assert!(checked_root(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_honours_the_runtime_directory() {
        let user = |u: &'static str| Some(std::ffi::OsStr::new(u));
        assert!(honours_xdg(false, || false, user("root")));
        assert!(!honours_xdg(true, || false, user("me")));
        assert!(honours_xdg(true, || true, user("me")) && honours_xdg(true, || true, None));
        assert!(!honours_xdg(true, || true, user("root")));
    }
}
