//! Values of single settings: their grammar, one function each.

use super::ConfigError;
use super::file::FileOnly;
use super::settings::{Pool, Runtime};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(super) fn absolute(name: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    std::path::absolute(&path).map_err(|e| ConfigError(format!("{name} {}: {e}", path.display())))
}

pub(super) fn log_level(level: Option<&str>, debug: bool) -> Result<String, ConfigError> {
    match level {
        None | Some("info") if debug => Ok("debug".to_owned()),
        None => Ok("info".to_owned()),
        Some(l @ ("trace" | "debug" | "info" | "warn" | "error")) => Ok(l.to_owned()),
        Some("fatal" | "panic") => Ok("error".to_owned()),
        Some(other) => Err(ConfigError(format!("invalid logging level: {other}"))),
    }
}

pub(super) fn pool(text: &str) -> Result<Pool, ConfigError> {
    let bad = || {
        ConfigError(format!(
            "invalid default address pool {text}: expected base=CIDR,size=BITS"
        ))
    };
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.trim().split_once('=') {
            Some(("base", value)) => base = Some(value.to_owned()),
            Some(("size", value)) => size = value.parse().ok(),
            _ => return Err(bad()),
        }
    }
    Ok(Pool {
        base: base.ok_or_else(bad)?,
        size: size.ok_or_else(bad)?,
    })
}

pub(super) fn cgroup_driver(opts: &[String]) -> Result<bool, ConfigError> {
    let mut systemd = false;
    for opt in opts {
        match opt.split_once('=') {
            Some(("native.cgroupdriver", "systemd")) => systemd = true,
            Some(("native.cgroupdriver", "cgroupfs")) => systemd = false,
            _ => return Err(ConfigError(format!("invalid exec-opt: {opt}"))),
        }
    }
    Ok(systemd)
}

pub(super) fn runtimes(added: &[String], only: FileOnly) -> Result<BTreeMap<String, Runtime>, ConfigError> {
    let mut all = BTreeMap::new();
    for text in added {
        let Some((name, path)) = text
            .split_once('=')
            .filter(|(n, p)| !n.is_empty() && !p.is_empty())
        else {
            return Err(ConfigError(format!("invalid runtime {text}: expected name=path")));
        };
        all.insert(
            name.to_owned(),
            Runtime {
                path: PathBuf::from(path),
                args: Vec::new(),
            },
        );
    }
    for (name, path, args) in only.runtimes {
        all.insert(
            name,
            Runtime {
                path: PathBuf::from(path),
                args,
            },
        );
    }
    Ok(all)
}

pub(super) fn key_values(name: &str, items: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    let one = |item: &String| match item.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(ConfigError(format!("invalid {name} {item}: expected key=value"))),
    };
    items.iter().map(one).collect()
}

pub(super) fn ulimit(text: &str) -> Result<(String, (i64, i64)), ConfigError> {
    let bad = || {
        ConfigError(format!(
            "invalid default ulimit {text}: expected name=soft[:hard]"
        ))
    };
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (soft.parse().map_err(|_| bad())?, hard.parse().map_err(|_| bad())?);
    if hard >= 0 && soft > hard {
        return Err(ConfigError(format!(
            "invalid default ulimit {text}: soft is above hard"
        )));
    }
    Ok((name.to_owned(), (soft, hard)))
}

/// `64m`, `1GiB`, `1024`: docker's sizes, binary multiples.
pub(super) fn bytes(text: &str) -> Result<i64, ConfigError> {
    let bad = || ConfigError(format!("invalid size: {text}"));
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let number: i64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}
