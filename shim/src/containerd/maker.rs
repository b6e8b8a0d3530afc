//! From a `Create` of containerd's to a container: which runtime, with which state directory.
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_shim_proto::containerd::options::{Options, config_path};
use kelson_shim_proto::serve::RuntimeParams;
use kelson_shim_proto::task::CreateTaskRequest;

use crate::container::{Container, Manner, Setup};
use crate::error::{Doing, Error, Kind, Result};
use crate::events::Events;
use crate::lifetime::Lifetime;
use crate::reaper::Reaper;
use crate::runtime::{Extras, Runtime};

/// The runtime, if none is named: ours, beside this program or on PATH.
const DEFAULT: &str = "kelson-runtime";

/// The parent of state directories: one for each runtime and namespace, so that `runc --root` finds what it knows.
const STATE: &str = "/run/containerd";

/// The file in a bundle that says how its container is run, for `delete`.
pub const OPTIONS_FILE: &str = "kelson-shim.json";

/// The file in a bundle that says how its container ended, for `delete`.
pub const EXIT_FILE: &str = "exit.json";

/// What every container of this shim shares.
#[derive(Debug)]
pub struct Maker {
    /// Containerd's namespace.
    pub namespace: String,
    /// Who waits for processes.
    pub reaper: Arc<Reaper>,
    /// When the shim may end.
    pub lifetime: Arc<Lifetime>,
    /// Who is told.
    pub events: Events,
}

impl Maker {
    /// The container that `request` asks for; nothing runs yet.
    pub fn make(&self, request: &CreateTaskRequest) -> Result<Arc<Container>> {
        let invalid = |text: String| Error::new(Kind::Invalid, text);
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(invalid(format!("bundle {:?} is not absolute", request.bundle)));
        }
        let any = request.options.clone().into_option().unwrap_or_default();
        let options = options(&any.type_url, &any.value)?;
        let params = runtime_params(&options, &self.namespace)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&params.root)
            .doing(|| format!("make {}", params.root.display()))?;
        keep(&bundle, &options)?;
        let exit_record = bundle.join(EXIT_FILE);
        // Of an earlier container in the same bundle.
        let _ = std::fs::remove_file(&exit_record);
        let owner = (options.io_uid, options.io_gid);
        let manner = Manner {
            shares_mounts: true,
            stays_until_deleted: true,
            io_owner: (owner != (0, 0)).then_some(owner),
        };
        let extras = Extras {
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            criu: options.criu_path,
            criu_work: options.criu_work_path,
        };
        let runtime = Runtime::new(params, &request.id, Arc::clone(&self.reaper)).with_extras(extras);
        Ok(Container::new(Setup {
            id: request.id.clone(),
            bundle,
            exit_record: Some(exit_record),
            runtime,
            reaper: Arc::clone(&self.reaper),
            ports: Vec::new(),
            lifetime: Arc::clone(&self.lifetime),
            events: self.events.clone(),
            manner,
            namespace: self.namespace.clone(),
        }))
    }
}

/// The options that a caller sent, or that lie in the file it named.
pub fn options(type_url: &str, value: &[u8]) -> Result<Options> {
    let options = match config_path(type_url, value) {
        Some(path) => {
            let text = std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
            Options::from_toml(&text)
        }
        None => Options::decode(type_url, value),
    };
    options.map_err(|error| Error::new(Kind::Invalid, error))
}

fn keep(bundle: &Path, options: &Options) -> Result<()> {
    let path = bundle.join(OPTIONS_FILE);
    let doing = || format!("write {}", path.display());
    let text = serde_json::to_vec(options)
        .map_err(std::io::Error::from)
        .doing(doing)?;
    std::fs::write(&path, text).doing(doing)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).doing(doing)
}

/// Program and state directory of the runtime that `options` name.
pub fn runtime_params(options: &Options, namespace: &str) -> Result<RuntimeParams> {
    let path = find(&options.binary_name)?;
    let root = if options.root.is_empty() {
        let name = path.file_name().unwrap_or_default();
        Path::new(STATE).join(name)
    } else {
        PathBuf::from(&options.root)
    };
    if !root.is_absolute() {
        let text = format!("runtime option Root: {} is not absolute", root.display());
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(RuntimeParams {
        path,
        root: root.join(namespace),
        systemd_cgroup: options.systemd_cgroup,
    })
}

/// The runtime's program. A path is taken as it is, a name is looked up; no name is our own.
fn find(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return std::path::absolute(name).doing(|| format!("find runtime {name}"));
    }
    let mut dirs = Vec::new();
    if name.is_empty() {
        dirs.extend(
            std::env::current_exe()
                .ok()
                .and_then(|this| Some(this.parent()?.to_owned())),
        );
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    dirs.extend(std::env::split_paths(&path));
    let name = if name.is_empty() { DEFAULT } else { name };
    let is_program = |path: &PathBuf| {
        path.is_absolute()
            && std::fs::metadata(path)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    dirs.iter()
        .map(|dir| dir.join(name))
        .find(is_program)
        .ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("OCI runtime {name} is not on PATH; hint: runtime option BinaryName"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_roots() {
        let mut options = Options {
            binary_name: "/x/crun".into(),
            ..Options::default()
        };
        let params = runtime_params(&options, "n").unwrap();
        assert_eq!(
            (params.path, params.root),
            ("/x/crun".into(), "/run/containerd/crun/n".into())
        );
        options.root = "/r".into();
        assert_eq!(runtime_params(&options, "n").unwrap().root, Path::new("/r/n"));
        options.root = "r".into();
        assert_eq!(runtime_params(&options, "n").unwrap_err().kind, Kind::Invalid);
        options.binary_name = "no-such-runtime".into();
        assert_eq!(runtime_params(&options, "n").unwrap_err().kind, Kind::NotFound);
    }
}
