//! `mounts`.

use super::super::model::Config;
use super::unsupported;
use crate::error::{Error, Result};
use crate::rootfs::options;

pub(super) fn mounts(c: &Config) -> Result<()> {
    for (i, m) in c.mounts.iter().enumerate() {
        let at = format!("mounts[{i}]");
        if m.destination().as_os_str().is_empty() {
            return Err(Error::field(format!("{at}.destination"), "is required"));
        }
        let parsed = options::parse(m.options().as_deref().unwrap_or_default());
        if parsed.bind() && m.source().as_ref().is_none_or(|s| s.as_os_str().is_empty()) {
            return Err(Error::field(format!("{at}.source"), "a bind mount needs one"));
        }
        // The kernel would ignore them, as a bind mount has the filesystem that is there.
        if parsed.bind()
            && let Some(option) = parsed.data.first()
        {
            let why = format!("{option:?} is an option of filesystems, which a bind mount cannot have");
            return Err(Error::field(format!("{at}.options"), why));
        }
        let mapped = [m.uid_mappings(), m.gid_mappings()]
            .into_iter()
            .flatten()
            .any(|l| !l.is_empty());
        if parsed.idmap.is_some() || mapped {
            return Err(unsupported(&format!("{at}.uidMappings")));
        }
    }
    Ok(())
}
