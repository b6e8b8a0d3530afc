//! `update`: flags or a file, as changes to a container's limits.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Parser;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::{Context, Outcome};
use crate::container::update as changes;
use crate::error::{Doing, Error, Kind, Result};

/// A larger file is refused, as config.json is.
const MAX_SIZE: u64 = 8 << 20;

#[derive(Debug, Default, Parser)]
#[command(name = "update", about = "update container resource constraints")]
pub(super) struct Args {
    /// File with the resources to change, or '-' for standard input; other limits are then ignored
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub blkio_weight: Option<String>,
    /// CPU period in microseconds; 0: the default
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_period: Option<String>,
    /// CPU time in each period, in microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// CPU time that may be saved up for later periods, in microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_burst: Option<String>,
    /// CPU shares (relative weight)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_share: Option<String>,
    /// Realtime CPU period in microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_rt_period: Option<String>,
    /// Realtime CPU time in each period, in microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<String>,
    /// 1: run only when nothing else wants to (SCHED_IDLE), 0: as usual
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_idle: Option<String>,
    /// Processors to use
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory limit in bytes, or with a unit; -1: none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory that is reclaimed last, in bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1: none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub kernel_memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Processes and threads at most; -1: no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<String>,
    /// Schema of Intel RDT's L3 cache allocation
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Schema of Intel RDT's memory bandwidth allocation
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    update(context, args).into()
}

fn update(context: &Context, args: &Args) -> Result<()> {
    let resources = match &args.resources {
        Some(file) => parse(&read(file)?)?,
        None => from_flags(args)?,
    };
    changes::update(&context.store, &args.id, &resources, &context.log)?;
    changes::rdt(
        &context.store,
        &args.id,
        args.l3_cache_schema.as_deref(),
        args.mem_bw_schema.as_deref(),
    )
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).doing(|| format!("--resources: open {}", file.display()))?)
    };
    source
        .take(MAX_SIZE + 1)
        .read_to_string(&mut text)
        .doing(|| "--resources: read")?;
    if text.len() as u64 > MAX_SIZE {
        return Err(Error::new(
            Kind::Invalid,
            format!("--resources: larger than {MAX_SIZE} bytes"),
        ));
    }
    Ok(text)
}

/// One JSON document; what follows it is ignored, as runc does. A section without content changes nothing, also
/// `pids` without a limit.
fn parse(text: &str) -> Result<LinuxResources> {
    let wrong = |e: serde_json::Error| Error::new(Kind::Invalid, format!("--resources: {e}"));
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut value = match documents.next() {
        Some(first) => first.map_err(wrong)?,
        None => {
            return Err(Error::new(
                Kind::Invalid,
                "--resources: empty, expected a JSON object",
            ));
        }
    };
    without_nulls(&mut value);
    if let Some(all) = value.as_object_mut()
        && all.get("pids").is_some_and(|p| p.get("limit").is_none())
    {
        all.remove("pids");
    }
    serde_json::from_value(value).map_err(wrong)
}

/// Go writes null for what is not set.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// The flags as the document that `--resources` would have held. An empty value is no value.
fn from_flags(a: &Args) -> Result<LinuxResources> {
    let mut sections = Map::new();
    let mut set = |section: &str, field: &str, value: Option<Value>| {
        if let Some(value) = value
            && let Some(map) = sections
                .entry(section)
                .or_insert_with(|| json!({}))
                .as_object_mut()
        {
            map.insert(field.to_owned(), value);
        }
    };
    set(
        "blockIO",
        "weight",
        number::<u16>("blkio-weight", &a.blkio_weight)?.filter(|w| *w != 0),
    );
    for (field, flag, value) in [
        ("period", "cpu-period", &a.cpu_period),
        ("burst", "cpu-burst", &a.cpu_burst),
        ("shares", "cpu-share", &a.cpu_share),
        ("realtimePeriod", "cpu-rt-period", &a.cpu_rt_period),
    ] {
        set("cpu", field, number::<u64>(flag, value)?);
    }
    for (field, flag, value) in [
        ("quota", "cpu-quota", &a.cpu_quota),
        ("realtimeRuntime", "cpu-rt-runtime", &a.cpu_rt_runtime),
        ("idle", "cpu-idle", &a.cpu_idle),
    ] {
        set("cpu", field, number::<i64>(flag, value)?);
    }
    for (field, value) in [("cpus", &a.cpuset_cpus), ("mems", &a.cpuset_mems)] {
        set(
            "cpu",
            field,
            value.clone().filter(|v| !v.is_empty()).map(Value::from),
        );
    }
    for (field, flag, value) in [
        ("limit", "memory", &a.memory),
        ("reservation", "memory-reservation", &a.memory_reservation),
        ("swap", "memory-swap", &a.memory_swap),
        ("kernel", "kernel-memory", &a.kernel_memory),
        ("kernelTCP", "kernel-memory-tcp", &a.kernel_memory_tcp),
    ] {
        set("memory", field, bytes(flag, value)?);
    }
    set("pids", "limit", number::<i64>("pids-limit", &a.pids_limit)?);
    serde_json::from_value(Value::Object(sections))
        .map_err(|e| Error::new(Kind::Invalid, format!("update: {e}")))
}

fn number<T: std::str::FromStr + Into<Value>>(flag: &str, text: &Option<String>) -> Result<Option<Value>> {
    let Some(text) = text.as_deref().filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<T>() {
        Ok(n) => Ok(Some(n.into())),
        Err(_) => Err(Error::new(
            Kind::Invalid,
            format!("invalid value for {flag}: {text:?} is not a number in range"),
        )),
    }
}

fn bytes(flag: &str, text: &Option<String>) -> Result<Option<Value>> {
    let Some(text) = text.as_deref().filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    match parse_bytes(text) {
        Some(n) => Ok(Some(n.into())),
        None => Err(Error::new(
            Kind::Invalid,
            format!("invalid value for {flag}: {text:?} is not a size (such as 512M)"),
        )),
    }
}

/// `-1`, `1024`, `50M`, `1.5g`, `32 KiB`: binary units, in any case.
fn parse_bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let shift = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    if let Ok(n) = number.parse::<i64>() {
        return n.checked_mul(1 << shift);
    }
    fraction(number, shift)
}

/// With a fraction; what is left below one byte is dropped.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn fraction(number: &str, shift: u32) -> Option<i64> {
    let value = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
    (value.is_finite() && value < i64::MAX as f64).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(list: &[&str]) -> Args {
        Args::try_parse_from(["update"].iter().chain(list).chain(&["web"])).unwrap()
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("-1", -1),
            ("0", 0),
            ("67108864", 67_108_864),
            ("50M", 52_428_800),
            ("50m", 52_428_800),
            ("1.5k", 1536),
            ("1GiB", 1 << 30),
            ("32 kB", 32_768),
            ("2b", 2),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for bad in ["", "-2", "M", "1x", "1.2.3", "9999999999G", "1 M B", "nan", "1e3"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn flags_become_resources() {
        let args = flags(&[
            "--memory",
            "64M",
            "--memory-swap=-1",
            "--cpu-quota",
            "-1",
            "--cpu-period",
            "900000",
            "--pids-limit",
            "-1",
            "--cpuset-cpus",
            "0-1",
            "--cpu-idle",
            "1",
            "--blkio-weight",
            "500",
        ]);
        let r = from_flags(&args).unwrap();
        let memory = r.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(-1)));
        let cpu = r.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.idle()),
            (Some(-1), Some(900_000), Some(1))
        );
        assert_eq!(cpu.cpus().as_deref(), Some("0-1"));
        assert_eq!(r.pids().as_ref().unwrap().limit(), -1);
        assert_eq!(r.block_io().as_ref().unwrap().weight(), Some(500));
    }

    #[test]
    fn nothing_asked_changes_nothing() {
        assert_eq!(from_flags(&flags(&[])).unwrap(), LinuxResources::default());
        assert_eq!(
            from_flags(&flags(&["--memory", "", "--cpuset-cpus="])).unwrap(),
            LinuxResources::default()
        );
    }

    #[test]
    fn bad_values_name_the_flag() {
        for (flag, value) in [
            ("cpu-period", "-5"),
            ("memory", "lots"),
            ("pids-limit", "x"),
            ("blkio-weight", "70000"),
        ] {
            let error = from_flags(&flags(&[&format!("--{flag}={value}")]))
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!("invalid value for {flag}: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_dash_is_standard_input() {
        for list in [&["-r", "-"][..], &["--resources", "-"], &["--resources=-"]] {
            assert_eq!(flags(list).resources.as_deref(), Some(Path::new("-")));
        }
    }

    #[test]
    fn documents_of_go() {
        let r = parse(
            r#"{"devices":null,"memory":{"limit":5,"swap":null},"pids":{},"cpu":{"cpus":"0"}}
               trailing"#,
        )
        .unwrap();
        assert!(r.pids().is_none() && r.devices().is_none());
        assert_eq!(r.memory().as_ref().unwrap().limit(), Some(5));
        let error = parse(r#"{"memory":{"limit":"x"}}"#).unwrap_err().to_string();
        assert!(error.starts_with("--resources: "), "{error}");
        assert!(parse("").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_size_panics(text in "[-0-9.kKmMgGtTpPiIbB ]{0,24}") { let _ = parse_bytes(&text); }

        #[test]
        fn whole_sizes_are_exact(n in 0i64..(1 << 20), unit in 0usize..6) {
            let text = format!("{n}{}", ["", "k", "M", "GiB", "TB", ""][unit]);
            let shift = [0, 10, 20, 30, 40, 0][unit];
            proptest::prop_assert_eq!(parse_bytes(&text), Some(n << shift));
        }

        #[test]
        fn no_document_panics(text in r#"[\[\]{}:,"a-z0-9\\ -]{0,200}"#) { let _ = parse(&text); }
    }
}
