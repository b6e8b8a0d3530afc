//! `port`.

use serde_json::Value;

use super::path;
use crate::argv::{Arity, Command, Parsed};
use crate::error::Failure;
use crate::output;
use crate::session::Session;

/// `kelson port`.
pub static COMMAND: Command = Command {
    names: &["container port", "port"],
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "List port mappings or a specific mapping for the container",
    flags: &[],
    arity: Arity::Between(1, 2),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let container = &parsed.args[0];
    let inspect: Value = session.client.get(path(container, "/json")).send()?.json()?;
    let ports = &inspect["NetworkSettings"]["Ports"];
    let mut lines = Vec::new();
    if let Some(wanted) = parsed.args.get(1) {
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        if number.parse::<u16>().is_err() {
            let why = format!(
                "Error: invalid port ({number}): strconv.ParseUint: parsing {number:?}: invalid syntax"
            );
            return Err(Failure::error(why, 1));
        }
        let bindings = ports
            .get(format!("{number}/{protocol}"))
            .and_then(Value::as_array);
        lines.extend(bindings.into_iter().flatten().map(address));
        if lines.is_empty() {
            return Err(Failure::error(
                format!("Error: No public port '{wanted}' published for {container}"),
                1,
            ));
        }
    } else {
        for (port, bindings) in ports.as_object().into_iter().flatten() {
            let bindings = bindings.as_array().into_iter().flatten();
            lines.extend(bindings.map(|binding| format!("{port} -> {}", address(binding))));
        }
        lines.sort_by_key(|line| natural(line));
    }
    for line in lines {
        output::line(&line)?;
    }
    Ok(0)
}

/// `80/tcp` before `443/tcp`.
fn natural(line: &str) -> (u32, String) {
    let number = line
        .split('/')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    (number, line.to_owned())
}

fn address(binding: &Value) -> String {
    let text = |field: &str| binding[field].as_str().unwrap_or_default().to_owned();
    let ip = text("HostIp");
    if ip.contains(':') {
        format!("[{ip}]:{}", text("HostPort"))
    } else {
        format!("{ip}:{}", text("HostPort"))
    }
}
