//! `hooks`.

use oci_spec::runtime::{Hook, Hooks};

use crate::error::{Error, Result};

#[allow(deprecated)] // prestart is deprecated in the specification, and still what most hooks use
pub(super) fn hooks(h: &Hooks) -> Result<()> {
    for (moment, list) in [
        ("prestart", h.prestart()),
        ("createRuntime", h.create_runtime()),
        ("createContainer", h.create_container()),
        ("startContainer", h.start_container()),
        ("poststart", h.poststart()),
        ("poststop", h.poststop()),
    ] {
        for (i, hook) in list.iter().flatten().enumerate() {
            one(hook, &format!("hooks.{moment}[{i}]"))?;
        }
    }
    Ok(())
}

fn one(hook: &Hook, at: &str) -> Result<()> {
    let path = hook.path();
    if !path.is_absolute() {
        let why = format!("{path:?} is not absolute");
        return Err(Error::field(format!("{at}.path"), why));
    }
    if let Some(timeout) = hook.timeout().filter(|t| *t <= 0) {
        let why = format!("{timeout} is not greater than zero");
        return Err(Error::field(format!("{at}.timeout"), why));
    }
    if path.to_string_lossy().contains('\0') {
        return Err(Error::field(format!("{at}.path"), "holds a NUL byte"));
    }
    for (name, list) in [("args", hook.args()), ("env", hook.env())] {
        if let Some(j) = list.iter().flatten().position(|s| s.contains('\0')) {
            return Err(Error::field(format!("{at}.{name}[{j}]"), "holds a NUL byte"));
        }
    }
    Ok(())
}
