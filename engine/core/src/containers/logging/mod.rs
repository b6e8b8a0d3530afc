//! Logging drivers: which there are, what their options may say, and what the shim is told. Pure; the shim does the work.

mod drivers;
mod message;

use std::path::{Path, PathBuf};

use kelson_api::{HostConfig, LogConfig, Map};
use kelson_shim_proto::logs::driver::Driver;
use kelson_shim_proto::logs::format::Format;
use kelson_shim_proto::logs::{JsonFile, Output};

use super::modes::parse_size;
use super::record::Record;
use crate::error::{Error, Result};

/// Those that can be asked for, beside `none`. In the order of the alphabet, as `info` shows them.
pub(crate) const NAMES: [&str; 6] = ["fluentd", "gelf", "journald", "json-file", "local", "syslog"];

/// Docker's defaults for `local`, and for the copy that is kept beside a driver that cannot be read.
const LOCAL_SIZE: u64 = 20 << 20;
const LOCAL_FILES: u32 = 5;

/// Docker's default of `max-buffer-size`, in bytes.
const BUFFER: u64 = 1 << 20;

/// What names the attributes that go along with a message; every driver takes these.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// A driver's options, checked.
type Options<'a> = &'a Map<String>;

/// Refuses options that make no sense, in docker's words.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    let LogConfig { r#type: name, config } = &host.log_config;
    let none = Map::new();
    let options = config.as_ref().unwrap_or(&none);
    if name == "none" {
        return Ok(());
    }
    check_mode(options)?;
    check_cache(options)?;
    let own = |key: &str| !is_external(key);
    match name.as_str() {
        "" | "json-file" | "local" => check_file(name, options),
        name if NAMES.contains(&name) => drivers::check(name, options, own),
        other => Err(Error::invalid(format!(
            "logger: no log driver named '{other}' is registered"
        ))),
    }
}

/// Options that are the engine's and not the driver's.
fn is_external(key: &str) -> bool {
    matches!(key, "mode" | "max-buffer-size") || key.starts_with("cache-")
}

fn check_mode(options: Options<'_>) -> Result<()> {
    let mode = options.get("mode").map(String::as_str).unwrap_or_default();
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(Error::invalid(format!(
            "logger: logging mode not supported: {mode}"
        )));
    }
    match options.get("max-buffer-size") {
        None => Ok(()),
        Some(_) if mode != "non-blocking" => Err(Error::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        )),
        Some(size) => positive_size("max-buffer-size", size).map(drop),
    }
}

fn check_cache(options: Options<'_>) -> Result<()> {
    for (key, value) in options.iter().filter(|(key, _)| key.starts_with("cache-")) {
        match key.as_str() {
            "cache-disabled" | "cache-compress" => switch(key, value).map(drop)?,
            "cache-max-size" => positive_size(key, value).map(drop)?,
            "cache-max-file" => files(key, value).map(drop)?,
            _ => return Err(Error::invalid(format!("unknown log opt '{key}'"))),
        }
    }
    Ok(())
}

fn check_file(name: &str, options: Options<'_>) -> Result<()> {
    let name = if name.is_empty() { "json-file" } else { name };
    for (key, value) in options.iter().filter(|(key, _)| !is_external(key)) {
        match key.as_str() {
            // -1 is no limit, for json-file.
            "max-size" if value == "-1" && name == "json-file" => {}
            "max-size" => positive_size(key, value).map(drop)?,
            "max-file" => files(key, value).map(drop)?,
            "compress" => switch(key, value).map(drop)?,
            key if ATTRIBUTES.contains(&key) => {}
            other => {
                return Err(Error::invalid(format!(
                    "unknown log opt '{other}' for {name} log driver"
                )));
            }
        }
    }
    message::check(options)?;
    let compress = options
        .get("compress")
        .is_some_and(|c| switch("compress", c).unwrap_or(false));
    let one = options.get("max-file").is_none_or(|n| n == "1");
    let unlimited = options.get("max-size").is_none_or(|n| n == "-1");
    if name == "json-file" && compress && (one || unlimited) {
        return Err(Error::invalid(
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ));
    }
    Ok(())
}

fn positive_size(key: &str, value: &str) -> Result<u64> {
    let size = parse_size(value)
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n > 0);
    size.ok_or_else(|| Error::invalid(format!("invalid value for {key}: {value}")))
}

fn files(key: &str, value: &str) -> Result<u32> {
    match value.parse() {
        Ok(0) => Err(Error::invalid(format!("{key} cannot be less than 1"))),
        Ok(count) => Ok(count),
        Err(_) => Err(Error::invalid(format!("invalid value for {key}: {value}"))),
    }
}

/// Go's `strconv.ParseBool`.
fn switch(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::invalid(format!("invalid value for {key}: {value}"))),
    }
}

/// What the engine knows beside the record.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The program that carries output elsewhere.
    pub logger: &'a Path,
    /// This machine's name.
    pub host: &'a str,
}

/// What the shim is told. The options were checked at create; those of an older release's record that make no sense are
/// left out.
pub(crate) fn output(record: &Record, dir: &Path, facts: &Facts<'_>) -> Result<Output> {
    let log = &record.host.log_config;
    Ok(match (log.r#type.as_str(), kept(record, dir)) {
        (name @ ("fluentd" | "gelf" | "journald" | "syslog"), cache) => Output::Driver(Driver {
            program: facts.logger.to_owned(),
            args: drivers::args(name, record, facts)?,
            buffer: buffer(options(record)),
            cache: cache.map(|(_, file)| file),
        }),
        (_, Some((Format::Local, file))) => Output::Local(file),
        (_, Some((_, file))) => Output::JsonFile(file),
        (_, None) => Output::Attached,
    })
}

fn options(record: &Record) -> &Map<String> {
    static NONE: Map<String> = Map::new();
    record.host.log_config.config.as_ref().unwrap_or(&NONE)
}

fn buffer(options: Options<'_>) -> Option<u64> {
    let waits = options.get("mode").is_none_or(|mode| mode != "non-blocking");
    let size = options
        .get("max-buffer-size")
        .and_then(|s| positive_size("", s).ok());
    (!waits).then(|| size.unwrap_or(BUFFER))
}

/// The files that can be read, and how they look; `None` when nothing is kept.
pub(crate) fn kept(record: &Record, dir: &Path) -> Option<(Format, JsonFile)> {
    let options = options(record);
    match record.host.log_config.r#type.as_str() {
        "none" => None,
        "" | "json-file" => {
            let path = json_path(dir, &record.id);
            Some((Format::JsonFile, limited(path, options, "", None)))
        }
        "local" => Some((
            Format::Local,
            limited(dir.join("local.log"), options, "", Some(LOCAL_SIZE)),
        )),
        _ if options
            .get("cache-disabled")
            .is_some_and(|v| switch("", v).unwrap_or(false)) =>
        {
            None
        }
        _ => {
            let path = dir.join("container-cached.log");
            Some((Format::Local, limited(path, options, "cache-", Some(LOCAL_SIZE))))
        }
    }
}

/// Where json-file keeps a container's log: docker's `LogPath`.
fn json_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}-json.log"))
}

/// `LogPath` of `inspect`, which docker has for json-file only.
pub(crate) fn shown_path(record: &Record, dir: &Path) -> Option<PathBuf> {
    let is_json = matches!(record.host.log_config.r#type.as_str(), "" | "json-file");
    is_json.then(|| json_path(dir, &record.id))
}

/// A file with the limits that the options with `prefix` give, else those of the format: `size` stands for `local`'s.
fn limited(path: PathBuf, options: Options<'_>, prefix: &str, size: Option<u64>) -> JsonFile {
    let option = |key: &str| options.get(&format!("{prefix}{key}"));
    JsonFile {
        path,
        max_size: option("max-size").map_or(size, |s| positive_size("", s).ok()),
        max_file: option("max-file")
            .and_then(|n| files("", n).ok())
            .unwrap_or(if size.is_some() { LOCAL_FILES } else { 1 }),
        compress: option("compress").map_or(size.is_some(), |c| switch("", c).unwrap_or(false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::record;

    fn host(name: &str, options: &[(&str, &str)]) -> HostConfig {
        let config = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        HostConfig {
            log_config: LogConfig {
                r#type: name.into(),
                config: Some(config),
            },
            ..HostConfig::default()
        }
    }

    fn address(name: &str, options: &[(&str, &str)]) -> String {
        let record = record(Default::default(), host(name, options));
        let facts = Facts {
            logger: Path::new("/bin/logger"),
            host: "box",
        };
        check(&record.host).unwrap();
        output(&record, Path::new("/d"), &facts).unwrap().to_string()
    }

    #[test]
    fn files_and_their_limits() {
        let json = address(
            "json-file",
            &[("max-size", "1k"), ("max-file", "3"), ("compress", "true")],
        );
        assert!(
            json.ends_with("-json.log&max-size=1024&max-file=3&compress=1"),
            "{json}"
        );
        assert!(address("", &[]).ends_with("-json.log&max-file=1&compress=0"));
        let local = "kelson-log:local?path=/d/local.log&max-size=20971520&max-file=5&compress=1";
        assert_eq!(address("local", &[]), local);
        assert_eq!(address("none", &[("what", "ever")]), "kelson-log:none");
    }

    #[test]
    fn drivers_and_what_is_kept_beside_them() {
        let syslog = address(
            "syslog",
            &[("syslog-address", "udp://h:1"), ("mode", "non-blocking")],
        );
        assert!(
            syslog.starts_with("kelson-log:driver?program=/bin/logger&arg=syslog&"),
            "{syslog}"
        );
        assert!(
            syslog.contains("&buffer=1048576&path=/d/container-cached.log&max-size=20971520&"),
            "{syslog}"
        );
        let plain = address("syslog", &[("cache-disabled", "true")]);
        assert!(!plain.contains("path=") && !plain.contains("buffer="), "{plain}");
    }

    #[test]
    fn wrong_options_in_dockers_words() {
        for (name, options, text) in [
            (
                "loki",
                &[][..],
                "logger: no log driver named 'loki' is registered",
            ),
            (
                "json-file",
                &[("max-sise", "1")],
                "unknown log opt 'max-sise' for json-file log driver",
            ),
            (
                "json-file",
                &[("max-file", "0")],
                "max-file cannot be less than 1",
            ),
            ("json-file", &[("max-size", "x")], "invalid value for max-size: x"),
            (
                "json-file",
                &[("compress", "true")],
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            ("local", &[("max-size", "-1")], "invalid value for max-size: -1"),
            (
                "syslog",
                &[("mode", "x")],
                "logger: logging mode not supported: x",
            ),
            (
                "syslog",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            ("syslog", &[("cache-what", "1")], "unknown log opt 'cache-what'"),
            (
                "syslog",
                &[("gelf-address", "x")],
                "unknown log opt 'gelf-address' for syslog log driver",
            ),
        ] {
            let error = check(&host(name, options)).unwrap_err();
            assert_eq!(error.to_string(), text, "{name} {options:?}");
        }
    }
}
