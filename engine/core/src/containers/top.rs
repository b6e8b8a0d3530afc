//! `docker top`: the host's `ps`, reduced to the container's processes.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use kelson_api::TopResponse;

use crate::error::{Doing, Error, Result};
use crate::inner::Inner;

const PS: Duration = Duration::from_secs(10);

pub(crate) async fn run(inner: &Arc<Inner>, name: &str, ps_args: &str) -> Result<TopResponse> {
    let container = inner.containers.find(name)?;
    let task = container.running_task()?;
    let args: Vec<&str> = if ps_args.trim().is_empty() {
        vec!["-ef"]
    } else {
        ps_args.split_whitespace().collect()
    };
    let pids: HashSet<u32> = task.pids().await?.into_iter().collect();
    let mut command = tokio::process::Command::new("ps");
    command.args(&args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PS, command.output())
        .await
        .map_err(|_| Error::unavailable("ps did not end in time"))?
        .doing(|| "run ps")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Error::invalid(format!("ps: {}", text.trim())));
    }
    inner.emit(&container, "top", &[]);
    parse(&String::from_utf8_lossy(&output.stdout), &pids)
}

/// The last column takes the rest of the line, as commands hold spaces.
fn parse(text: &str, pids: &HashSet<u32>) -> Result<TopResponse> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let column = titles
        .iter()
        .position(|t| t == "PID")
        .ok_or_else(|| Error::invalid("Couldn't find PID field in ps output"))?;
    let row = |line: &str| -> Option<Vec<String>> {
        let mut rest = line.trim_start();
        let mut fields = Vec::with_capacity(titles.len());
        for _ in 1..titles.len() {
            let end = rest.find(char::is_whitespace)?;
            fields.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
        fields.push(rest.to_owned());
        let pid = fields.get(column)?.parse().ok()?;
        pids.contains(&pid).then_some(fields)
    };
    Ok(TopResponse {
        processes: lines.filter_map(row).collect(),
        titles: titles.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_container_only() {
        let text = "UID   PID  PPID CMD\nroot   1     0 init\nroot  22     1 sh -c  sleep 1\n";
        let top = parse(text, &HashSet::from([22])).unwrap();
        assert_eq!(top.titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(top.processes, [["root", "22", "1", "sh -c  sleep 1"]]);
        assert!(parse("UID CMD\n", &HashSet::new()).is_err());
    }
}
