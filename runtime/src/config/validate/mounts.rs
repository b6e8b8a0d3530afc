//! `mounts`.

use oci_spec::runtime::LinuxNamespaceType as Ns;

use super::super::model::Config;
use super::namespaces::mapping_list;
use crate::error::{Error, Result};
use crate::rootfs::idmap::{self, Mapping};
use crate::rootfs::options;

pub(super) fn mounts(c: &Config) -> Result<()> {
    let has_user = c.linux.namespaces.iter().any(|ns| ns.typ() == Ns::User);
    for (i, m) in c.mounts.iter().enumerate() {
        let at = format!("mounts[{i}]");
        if m.destination().as_os_str().is_empty() {
            return Err(Error::field(format!("{at}.destination"), "is required"));
        }
        let parsed = options::parse(m.options().as_deref().unwrap_or_default());
        if parsed.bind() && m.source().as_ref().is_none_or(|s| s.as_os_str().is_empty()) {
            return Err(Error::field(format!("{at}.source"), "a bind mount needs one"));
        }
        let mapping = idmap::decide(m, &parsed, &c.linux, has_user).map_err(|e| e.below(&at))?;
        if let Some((Mapping::Own { uids, gids }, _)) = mapping {
            mapping_list(&format!("{at}.uidMappings"), &uids)?;
            mapping_list(&format!("{at}.gidMappings"), &gids)?;
        }
    }
    Ok(())
}
