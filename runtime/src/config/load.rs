//! Reading `config.json` and `process.json`, with errors that name the field.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::locate;
use super::model::{Config, Process};
use crate::error::{Doing, Error, Kind, Result};

/// A larger file is refused: real ones are below 100 KiB, and the kernel's own limits on arguments are lower.
const MAX_SIZE: u64 = 8 << 20;

/// Reads `BUNDLE/config.json`, or another file in its place.
///
/// # Errors
/// `NotFound` without the file; `Invalid`, with the JSON path, line and column, when it does not fit.
pub fn load_bundle(bundle: &Path, instead: Option<&Path>) -> Result<Config> {
    match instead {
        Some(file) => load(file, parse_config),
        None => load(&bundle.join("config.json"), parse_config),
    }
}

/// Reads the process of `exec --process FILE`.
///
/// # Errors
/// As [`load_bundle`].
pub fn load_process(file: &Path) -> Result<Process> {
    load(file, parse)
}

fn load<T>(path: &Path, parse: impl Fn(&str) -> std::result::Result<T, String>) -> Result<T> {
    let name = || {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let mut file = File::open(path).doing(|| format!("open {}", path.display()))?;
    let mut text = String::with_capacity(16 << 10);
    file.by_ref()
        .take(MAX_SIZE + 1)
        .read_to_string(&mut text)
        .doing(|| format!("read {}", path.display()))?;
    if text.len() as u64 > MAX_SIZE {
        return Err(Error::new(
            Kind::Invalid,
            format!("{}: larger than {MAX_SIZE} bytes", name()),
        ));
    }
    parse(&text).map_err(|why| Error::new(Kind::Invalid, format!("{}: {why}", name())))
}

fn parse<T: DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    serde_json::from_str(text).map_err(|e| {
        let field = locate::field_of(text, &e);
        if field.is_empty() || e.is_eof() || e.is_syntax() {
            e.to_string()
        } else {
            format!("{field}: {e}")
        }
    })
}

/// `pids` without a limit has none (config-linux.md), which is 0 in the type of `oci-spec`. Only where that is found the
/// text is looked at again.
fn parse_config(text: &str) -> std::result::Result<Config, String> {
    let mut config: Config = parse(text)?;
    if let Some(resources) = &mut config.linux.resources
        && resources.pids().is_some_and(|p| p.limit() == 0)
        && parse::<Outline>(text)?.has_no_pids_limit()
    {
        resources.set_pids(None);
    }
    Ok(config)
}

/// `linux.resources.pids.limit` and the way to it.
#[derive(Deserialize)]
struct Outline {
    linux: OutlineLinux,
}

#[derive(Deserialize)]
struct OutlineLinux {
    resources: OutlineResources,
}

#[derive(Deserialize)]
struct OutlineResources {
    pids: OutlinePids,
}

#[derive(Deserialize)]
struct OutlinePids {
    limit: Option<i64>,
}

impl Outline {
    fn has_no_pids_limit(&self) -> bool {
        self.linux.resources.pids.limit.is_none()
    }
}

/// Parses the text of a `config.json`.
///
/// # Errors
/// `Invalid` names the field.
pub fn config_of(text: &str) -> Result<Config> {
    parse_config(text).map_err(|why| Error::new(Kind::Invalid, format!("config.json: {why}")))
}

/// Parses arbitrary bytes as `config.json`, for fuzzing: any input may fail, none may panic.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = parse_config(text).map(|c| super::validate::config(&c));
        let _ = parse::<Process>(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field() {
        let error = parse::<Config>(r#"{"process": {"user": {"uid": -1}}}"#).unwrap_err();
        assert!(error.starts_with("process.user.uid: "), "{error}");
        let error = parse::<Config>("{\"process\": ").unwrap_err();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn nulls_of_go_are_empty() {
        let text = r#"{"mounts": null, "linux": null, "hooks": null, "process": {"args": null, "cwd": "/"}}"#;
        assert!(parse::<Config>(text).is_ok());
    }

    #[test]
    fn pids_without_a_limit_has_none() {
        let limit = |pids: &str| {
            let text = format!(r#"{{"linux": {{"resources": {{"pids": {pids}}}}}}}"#);
            let resources = parse_config(&text).unwrap().linux.resources.unwrap();
            resources.pids().map(|p| p.limit())
        };
        assert_eq!(limit("{}"), None);
        assert_eq!(limit(r#"{"limit": 0}"#), Some(0));
        assert_eq!(limit(r#"{"limit": -1}"#), Some(-1));
        assert_eq!(limit(r#"{"limit": 7}"#), Some(7));
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(bytes: Vec<u8>) { fuzz(&bytes); }

        #[test]
        fn no_json_panics(text in r#"[\[\]{}:,"a-z0-9\\ ]{0,200}"#) { fuzz(text.as_bytes()); }
    }
}
