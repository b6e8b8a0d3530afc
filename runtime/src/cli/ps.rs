//! `ps`: the container's processes.

use std::process::Command;

use clap::Parser;

use super::{Context, Outcome, json, print};
use crate::error::{Doing, Error, Kind, Result};

#[derive(Debug, Parser)]
#[command(name = "ps", about = "ps displays the processes running inside a container")]
pub(super) struct Args {
    /// table or json
    #[arg(short, long, default_value = "table")]
    pub format: String,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// Options of ps
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ps options"
    )]
    pub ps: Vec<String>,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    ps(context, args).into()
}

fn ps(context: &Context, args: &Args) -> Result<()> {
    let entry = context.store.open(&args.id)?;
    let record = entry.read()?;
    let pids = match record.cgroup.pids() {
        Err(e) if e.kind() == kelson_cgroups::Kind::NotFound => Vec::new(),
        other => other?,
    };
    match args.format.as_str() {
        "json" => print(&json(&pids, false)?),
        "table" => {
            let options = if args.ps.is_empty() {
                vec!["-ef".to_owned()]
            } else {
                args.ps.clone()
            };
            let out = Command::new("ps").args(&options).output().doing(|| "run ps")?;
            if !out.status.success() {
                return Err(Error::new(
                    Kind::Internal,
                    format!("ps: {}", String::from_utf8_lossy(&out.stderr).trim()),
                ));
            }
            print(&filter_ps(&String::from_utf8_lossy(&out.stdout), &pids)?)
        }
        other => Err(Error::new(
            Kind::Invalid,
            format!("invalid format option {other:?}"),
        )),
    }
}

/// The heading, and the lines whose PID column names one of the processes.
fn filter_ps(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Error::new(Kind::Invalid, "couldn't find PID field in ps output"))?;
    let mut out = format!("{heading}\n");
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|p| p.parse::<i32>().ok());
        if pid.is_some_and(|p| pids.contains(&p)) {
            out.push_str(line);
            out.push('\n');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_is_filtered_by_its_pid_column() {
        let text = "UID PID PPID CMD\nroot 7 1 a\nroot 17 7 b\nroot 1 0 7\n";
        assert_eq!(filter_ps(text, &[7]).unwrap(), "UID PID PPID CMD\nroot 7 1 a\n");
        assert!(filter_ps("CMD\n", &[7]).is_err());
    }
}
