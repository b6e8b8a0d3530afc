//! A container's unit: its name and place, and starting, changing and stopping it.

use std::collections::HashMap;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::bus::{Connection, Scope};
use super::marshal::Value;
use super::placeholder::Placeholder;
use super::properties::{self, Property};
use super::text;
use crate::devices::DeviceRules;
use crate::error::{Error, Kind, Result};
use crate::v2;

/// How long systemd may take to start or stop a unit.
const JOB: Duration = Duration::from_secs(30);
/// Annotations that set a property of the unit.
const ANNOTATION: &str = "org.systemd.property.";
/// Longer names are refused by systemd.
const MAX_NAME: usize = 255;

/// A transient unit of systemd's, made or to be made. It may be stored and used by another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `kelson-web.scope`, or a slice.
    name: String,
    /// The slice it is in.
    slice: String,
    /// Whether the calling user's own systemd has it, and not the machine's.
    #[serde(default)]
    user: bool,
}

/// What a unit is started with.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The container's id, for the description.
    pub id: &'a str,
    /// Its limits.
    pub resources: Option<&'a LinuxResources>,
    /// What it may open.
    pub devices: &'a DeviceRules,
    /// `annotations` of its config: `org.systemd.property.NAME` sets a property.
    pub annotations: &'a HashMap<String, String>,
}

impl Unit {
    /// The unit that `linux.cgroupsPath` names as `slice:prefix:name`, or the default one. A name that ends in
    /// `.slice` is a slice.
    pub(crate) fn named(cgroups_path: Option<&str>, id: &str, user: bool) -> Result<Self> {
        let bad = |why: String| Error::new(Kind::Invalid, format!("linux.cgroupsPath: {why}"));
        let (slice, prefix, name) = match cgroups_path.filter(|p| !p.is_empty()) {
            None => ("", "kelson", id),
            Some(path) => {
                let parts: Vec<&str> = path.split(':').collect();
                let [slice, prefix, name] = parts[..] else {
                    return Err(bad(format!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                    )));
                };
                (slice, prefix, name)
            }
        };
        let slice = match (slice, user) {
            ("", false) => "system.slice",
            ("", true) => "user.slice",
            (given, _) => given,
        };
        expand(slice).map_err(bad)?;
        let name = if name.ends_with(".slice") {
            expand(name).map_err(bad)?;
            name.to_owned()
        } else if prefix.is_empty() {
            format!("{name}.scope")
        } else {
            format!("{prefix}-{name}.scope")
        };
        if name == ".scope" || !is_name(&name) {
            return Err(bad(format!("{name:?} is not the name of a unit")));
        }
        Ok(Self {
            name,
            slice: slice.to_owned(),
            user,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cgroup, below that of its systemd.
    pub(crate) fn place(&self) -> String {
        // Checked when it was named.
        let slice = expand(&self.slice).unwrap_or_default();
        if self.is_slice() {
            // A slice's own name says where it is.
            return expand(&self.name).unwrap_or_default();
        }
        format!("{slice}/{}", self.name)
            .trim_start_matches('/')
            .to_owned()
    }

    /// Whether it is one of the calling user's own systemd.
    pub(crate) fn is_users(&self) -> bool {
        self.user
    }

    fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    fn connect(&self) -> Result<Connection> {
        Connection::open(if self.user { Scope::User } else { Scope::System })
    }

    /// The cgroup that everything of the calling user's systemd is below; the machine's systemd is at the root.
    pub(crate) fn manager_cgroup(&self) -> Result<String> {
        if self.user {
            self.connect()?.manager_property("ControlGroup")
        } else {
            Ok(String::new())
        }
    }

    /// Starts it with everything that is asked for. A scope is held open by the process that is given back.
    pub(crate) fn start(&self, request: Request<'_>, unified: bool) -> Result<Option<Placeholder>> {
        let extra = annotated(request.annotations)?;
        let mut systemd = self.connect()?;
        let version = match request.resources {
            Some(r) if properties::depend_on_version(r) => {
                properties::version(&systemd.manager_property("Version")?)
            }
            _ => u32::MAX,
        };
        let mut limits = match request.resources {
            Some(r) => properties::resources(r, unified, &v2::Now::default(), version)?,
            None => Vec::new(),
        };
        limits.extend(request.resources.and_then(|r| properties::oom_policy(r, version)));
        let room = make_room(&mut limits);
        let placeholder = if self.is_slice() {
            None
        } else {
            Some(Placeholder::start()?)
        };
        let pid = placeholder.as_ref().map(Placeholder::pid);
        let mut all = properties::creation(&self.name, &self.slice, pid, request.id, unified);
        if !self.is_slice() || unified {
            all.extend(properties::devices(request.devices, unified));
        }
        all.extend(limits);
        all.extend(extra);
        self.start_transient(&mut systemd, all)?;
        Ok(placeholder.map(|mut p| {
            p.then = room.map(|limit| (self.clone(), limit));
            p
        }))
    }

    fn start_transient(&self, systemd: &mut Connection, all: Vec<Property>) -> Result<()> {
        let doing = format!("start unit {}", self.name);
        let args = [
            Value::str(&*self.name),
            Value::str("replace"),
            list(all),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let mut answer = systemd.manager("StartTransientUnit", &args)?;
        if answer.as_ref().is_err_and(|r| r.is("UnitExists")) {
            if self.is_slice() {
                // Many may share one.
                return Ok(());
            }
            // It may have failed and only be remembered.
            let _ = systemd.manager("ResetFailedUnit", &args[..1])?;
            answer = systemd.manager("StartTransientUnit", &args)?;
        }
        let answer = answer.map_err(|refusal| refusal.into_error(&doing))?;
        let job = answer
            .first()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let result = systemd.wait_for_job(&job, JOB);
        if !matches!(result.as_deref(), Ok("done")) {
            let _ = self.stop_with(systemd);
        }
        match result?.as_str() {
            "done" => Ok(()),
            other => Err(Error::new(
                Kind::Internal,
                format!("{doing}: the job ended with {other:?} (see journalctl)"),
            )),
        }
    }

    /// Tells systemd of limits that were changed.
    pub(crate) fn set(&self, resources: &LinuxResources, unified: bool, now: &v2::Now) -> Result<()> {
        let mut systemd = self.connect()?;
        let version = if properties::depend_on_version(resources) {
            properties::version(&systemd.manager_property("Version")?)
        } else {
            u32::MAX
        };
        let all = properties::resources(resources, unified, now, version)?;
        if all.is_empty() {
            return Ok(());
        }
        self.set_properties(&mut systemd, all)
    }

    fn set_properties(&self, systemd: &mut Connection, all: Vec<Property>) -> Result<()> {
        let args = [Value::str(&*self.name), Value::Bool(true), list(all)];
        match systemd.manager("SetUnitProperties", &args)? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal.into_error(&format!("change unit {}", self.name))),
        }
    }

    /// Takes back what [`make_room`] did.
    pub(super) fn set_tasks_max(&self, limit: u64) -> Result<()> {
        let all = vec![("TasksMax".to_owned(), Value::U64(limit))];
        self.set_properties(&mut self.connect()?, all)
    }

    /// Has systemd move a process into the unit's cgroup, or into one below it.
    pub(crate) fn attach(&self, below: &str, pid: i32) -> Result<()> {
        let pids = Value::Array("u".to_owned(), vec![Value::U32(pid.cast_unsigned())]);
        let args = [Value::str(&*self.name), Value::str(below), pids];
        match self.connect()?.manager("AttachProcessesToUnit", &args)? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal.into_error(&format!("move process {pid} into unit {}", self.name))),
        }
    }

    /// Stops it, and forgets it if it failed. One that is gone is stopped.
    pub(crate) fn stop(&self) -> Result<()> {
        self.stop_with(&mut self.connect()?)
    }

    fn stop_with(&self, systemd: &mut Connection) -> Result<()> {
        let args = [Value::str(&*self.name), Value::str("replace")];
        match systemd.manager("StopUnit", &args)? {
            Ok(answer) => {
                let job = answer
                    .first()
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned();
                systemd.wait_for_job(&job, JOB)?;
            }
            Err(refusal) if refusal.is("NoSuchUnit") => return Ok(()),
            Err(refusal) => return Err(refusal.into_error(&format!("stop unit {}", self.name))),
        }
        // One that did not fail has nothing to forget, which is a refusal.
        let _ = systemd.manager("ResetFailedUnit", &args[..1])?;
        Ok(())
    }
}

/// A limit of one process leaves no room for the placeholder beside the container's first: it starts as two. Gives
/// the limit to set once the placeholder is gone.
fn make_room(limits: &mut [Property]) -> Option<u64> {
    let value = limits
        .iter_mut()
        .rev()
        .find_map(|(name, value)| (name == "TasksMax").then_some(value))?;
    match value {
        Value::U64(1) => {
            *value = Value::U64(2);
            Some(1)
        }
        _ => None,
    }
}

fn list(all: Vec<Property>) -> Value {
    let all = all
        .into_iter()
        .map(|(name, value)| Value::Struct(vec![Value::Str(name), Value::Variant(Box::new(value))]))
        .collect();
    Value::Array("(sv)".to_owned(), all)
}

/// The properties that annotations ask for, by name.
fn annotated(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let mut out = Vec::new();
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION) else {
            continue;
        };
        let property = text::property(name, value)
            .map_err(|why| Error::new(Kind::Invalid, format!("annotations[{key:?}]: {why}")))?;
        out.push(property);
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// What systemd takes as a unit's name (systemd.unit(5)).
fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
}

/// `a-b.slice` as `a.slice/a-b.slice`: each dash is a level. `-.slice` is the root.
fn expand(slice: &str) -> std::result::Result<String, String> {
    let bad = || format!("invalid slice name: {slice:?}");
    let stem = slice.strip_suffix(".slice").ok_or_else(bad)?;
    if stem == "-" {
        return Ok(String::new());
    }
    if !is_name(slice) || stem.is_empty() || stem.split('-').any(str::is_empty) {
        return Err(bad());
    }
    let mut out = String::new();
    for (at, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
        if !out.is_empty() {
            out.push('/');
        }
        out.push_str(&stem[..at]);
        out.push_str(".slice");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_paths() {
        for (slice, path) in [
            ("system.slice", "system.slice"),
            ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
            ("-.slice", ""),
        ] {
            assert_eq!(expand(slice).unwrap(), path);
        }
        for bad in [
            "",
            "a",
            ".slice",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "a/b.slice",
            "../x.slice",
            "a b.slice",
            "a.scope",
        ] {
            assert!(expand(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_and_places() {
        let unit = |path: Option<&str>, user| {
            let u = Unit::named(path, "web", user).unwrap();
            (u.name().to_owned(), u.place())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            unit(None, false),
            pair("kelson-web.scope", "system.slice/kelson-web.scope")
        );
        assert_eq!(
            unit(Some(""), true),
            pair("kelson-web.scope", "user.slice/kelson-web.scope")
        );
        assert_eq!(
            unit(Some("machine-a.slice:libpod:x"), false),
            pair("libpod-x.scope", "machine.slice/machine-a.slice/libpod-x.scope")
        );
        assert_eq!(unit(Some("::x"), false), pair("x.scope", "system.slice/x.scope"));
        assert_eq!(unit(Some("-.slice:a:b"), false), pair("a-b.scope", "a-b.scope"));
        assert_eq!(
            unit(Some("system.slice:runc:a-b.slice"), false),
            pair("a-b.slice", "a.slice/a-b.slice")
        );
    }

    #[test]
    fn bad_paths_name_the_field() {
        for bad in [
            "/a/b",
            "a.slice:b",
            "a:b:c:d",
            "a:b:c",
            "x.slice:b:../../c",
            "x.slice:/:c",
            ":a:b/c",
            "::",
            "system.slice:p:-x.slice",
        ] {
            let error = Unit::named(Some(bad), "web", false).unwrap_err().to_string();
            assert!(error.starts_with("linux.cgroupsPath: "), "{bad}: {error}");
        }
    }

    #[test]
    fn annotations_are_properties() {
        let all = |pairs: &[(&str, &str)]| {
            let map = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            annotated(&map)
        };
        let some = all(&[
            ("org.systemd.property.TimeoutStopSec", "5"),
            ("org.systemd.property.CollectMode", "'inactive'"),
            ("other", "x"),
        ]);
        assert_eq!(
            some.unwrap(),
            [
                ("CollectMode".to_owned(), Value::str("inactive")),
                ("TimeoutStopUSec".to_owned(), Value::U64(5_000_000)),
            ]
        );
        let error = all(&[("org.systemd.property.X", "'open")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("org.systemd.property.X"), "{error}");
    }

    #[test]
    fn a_limit_of_one_task_leaves_room_first() {
        let mut limits = vec![("TasksMax".to_owned(), Value::U64(1))];
        assert_eq!(make_room(&mut limits), Some(1));
        assert_eq!(limits[0].1, Value::U64(2));
        assert_eq!(make_room(&mut limits), None);
        assert_eq!(make_room(&mut []), None);
    }

    #[test]
    fn a_unit_is_stored() {
        let unit = Unit::named(None, "web", true).unwrap();
        let text = serde_json::to_string(&unit).unwrap();
        assert_eq!(serde_json::from_str::<Unit>(&text).unwrap(), unit);
    }

    proptest::proptest! {
        #[test]
        fn no_place_leaves_its_slice(path in "[a-z.:/-]{0,20}") {
            if let Ok(unit) = Unit::named(Some(&path), "web", false) {
                let place = unit.place();
                proptest::prop_assert!(!place.contains("//") && !place.starts_with('/') && !place.is_empty());
                proptest::prop_assert!(place.split('/').all(|p| p != ".." && !p.is_empty()));
            }
        }
    }
}
