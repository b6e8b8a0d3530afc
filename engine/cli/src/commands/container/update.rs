//! `update`: other limits and another restart policy for containers that exist.

use kelson_api::RestartPolicy;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::options::{checks, limits};
use super::{each, path, request};
use crate::argv::{Arity, Command, Flag, Parsed, int, value};
use crate::format::units;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    value(
        "blkio-weight",
        "uint16",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable",
    )
    .default("0")
    .checked(checks::uint16),
    int("cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period"),
    int("cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    int("cpu-rt-period", "Limit the CPU real-time period in microseconds"),
    int(
        "cpu-rt-runtime",
        "Limit the CPU real-time runtime in microseconds",
    ),
    int("cpu-shares", "CPU shares (relative weight)").short('c'),
    value("cpus", "decimal", "Number of CPUs").checked(checks::cpus),
    value(
        "cpuset-cpus",
        "string",
        "CPUs in which to allow execution (0-3, 0,1)",
    ),
    value(
        "cpuset-mems",
        "string",
        "MEMs in which to allow execution (0-3, 0,1)",
    ),
    value("kernel-memory", "bytes", "Kernel memory limit (deprecated)")
        .checked(checks::bytes)
        .hidden(),
    value("memory", "bytes", "Memory limit")
        .short('m')
        .checked(checks::bytes),
    value("memory-reservation", "bytes", "Memory soft limit").checked(checks::bytes),
    value(
        "memory-swap",
        "bytes",
        "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
    )
    .checked(checks::swap),
    int("pids-limit", "Tune container pids limit (set -1 for unlimited)"),
    value(
        "restart",
        "string",
        "Restart policy to apply when a container exits",
    ),
];

/// `kelson update`.
pub static COMMAND: Command = Command {
    names: &["container update", "update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Update configuration of one or more containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Warnings", default)]
    warnings: Option<Vec<String>>,
}

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let body = body(parsed)?;
    let mut warnings = Vec::new();
    let code = each(parsed, |container| {
        let post = session.client.post(path(container, "/update")).json(&body)?;
        let answer: Answer = post.send()?.json()?;
        warnings.extend(answer.warnings.unwrap_or_default());
        Ok(())
    });
    if !warnings.is_empty() {
        output::line(&warnings.join("\n"))?;
    }
    code
}

/// The fields of the flags that were given, and only those: what is absent stays as it is.
fn body(parsed: &Parsed) -> anyhow::Result<Value> {
    const NUMBERS: &[(&str, &str)] = &[
        ("blkio-weight", "BlkioWeight"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("cpu-shares", "CpuShares"),
        ("pids-limit", "PidsLimit"),
    ];
    const SIZES: &[(&str, &str)] = &[
        ("kernel-memory", "KernelMemory"),
        ("memory", "Memory"),
        ("memory-reservation", "MemoryReservation"),
    ];
    const TEXTS: &[(&str, &str)] = &[("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems")];
    let mut body = Map::new();
    // The parsers cannot fail here: the flags' checks are the same functions.
    for (flag, field) in NUMBERS {
        body.extend(parsed.int(flag).map(|n| ((*field).to_owned(), n.into())));
    }
    for (flag, field) in SIZES {
        let size = parsed.text(flag).and_then(|text| units::parse_size(text).ok());
        body.extend(size.map(|n| ((*field).to_owned(), n.into())));
    }
    for (flag, field) in TEXTS {
        body.extend(parsed.text(flag).map(|text| ((*field).to_owned(), text.into())));
    }
    let swap = parsed
        .text("memory-swap")
        .and_then(|text| limits::swap(text).ok());
    body.extend(swap.map(|n| ("MemorySwap".to_owned(), n.into())));
    let cpus = parsed.text("cpus").and_then(|text| limits::nano_cpus(text).ok());
    body.extend(cpus.map(|n| ("NanoCpus".to_owned(), n.into())));
    if let Some(text) = parsed.text("restart") {
        let RestartPolicy {
            name,
            maximum_retry_count,
        } = request::restart_policy(text)?;
        let policy = json!({"Name": name, "MaximumRetryCount": maximum_retry_count});
        body.insert("RestartPolicy".to_owned(), policy);
    }
    if body.is_empty() {
        anyhow::bail!("you must provide one or more flags when using this command");
    }
    Ok(Value::Object(body))
}
