//! `-info`: what this shim is, and what its runtime can do.
use std::io::Read;
use std::process::{Command, Stdio};

use kelson_shim_proto::containerd::bootstrap::MAX_INPUT;
use kelson_shim_proto::containerd::options::runtime_info;
use kelson_shim_proto::wire::read_any;

use super::maker::{options, runtime_params};
use crate::cli::say;
use crate::error::{Doing, Error, Kind, Result};

/// The runtime's name in containerd's configuration.
const NAME: &str = "io.containerd.kelson.v2";

/// Runs it: options as an `Any` on stdin, the answer on stdout.
pub fn run() -> Result<()> {
    let invalid = |text: String| Error::new(Kind::Invalid, text);
    let mut input = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT)
        .read_to_end(&mut input)
        .doing(|| "read runtime options".to_owned())?;
    let (type_url, value) = read_any(&input).map_err(invalid)?;
    let options = options(&type_url, &value)?;
    let runtime = runtime_params(&options, "")?.path;
    // A runtime without the command (it came with runc 1.1) has no features to tell.
    let features = Command::new(&runtime)
        .arg("features")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| output.stdout);
    let told = (!input.is_empty()).then_some((type_url.as_str(), value.as_slice()));
    say(&runtime_info(
        NAME,
        env!("CARGO_PKG_VERSION"),
        told,
        features.as_deref(),
    ));
    Ok(())
}
