//! `mounts add`, `mounts remove` and `mounts list`, the first two as crun has them.

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

use super::{Context, Outcome, json as encode, print};
use crate::container::exec::open_init;
use crate::container::mounts;
use crate::error::{Doing, Error, Kind, Result};

#[derive(Debug, Parser)]
#[command(name = "mounts", about = "add, remove or list mounts of a running container")]
pub(super) struct Args {
    /// add, remove or list
    pub action: String,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// File with the mounts to add or remove, as config.json has them
    pub file: Option<PathBuf>,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    act(context, args).into()
}

fn act(context: &Context, args: &Args) -> Result<()> {
    let store = &context.store;
    match (args.action.as_str(), &args.file) {
        ("add", Some(file)) => mounts::add(store, &args.id, &mounts::read(file)?),
        ("remove", Some(file)) => mounts::remove(store, &args.id, &mounts::read(file)?),
        ("list", None) => list(context, &args.id),
        ("add" | "remove", None) => Err(invalid(format!("mounts {}: needs a file", args.action))),
        ("list", Some(_)) => Err(invalid("mounts list: takes no file")),
        (other, _) => Err(invalid(format!("mounts: {other:?} is not add, remove or list"))),
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, text.into())
}

fn list(context: &Context, id: &str) -> Result<()> {
    let record = context.store.open(id)?.read()?;
    // Held meanwhile: the number stays that of the container's process.
    let _init = open_init(&record)?;
    let path = format!("/proc/{}/mountinfo", record.pid);
    let text = std::fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    let all: Vec<_> = text.lines().filter_map(entry).collect();
    print(&(encode(&all, true)? + "\n"))
}

/// One line of mountinfo (proc_pid_mountinfo(5)), in config.json's words.
fn entry(line: &str) -> Option<serde_json::Value> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(4);
    let (destination, options) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (typ, source) = (after.next()?, after.next()?);
    let options: Vec<&str> = options.split(',').collect();
    Some(
        json!({"destination": unescape(destination), "type": typ, "source": unescape(source), "options": options}),
    )
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let replaced = text
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n");
    replaced.replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let got = entry("36 35 98:0 /a /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw").unwrap();
        let expected = json!({"destination": "/mnt 2", "type": "ext3", "source": "/dev/root", "options": ["rw", "noatime"]});
        assert_eq!(got, expected);
        assert_eq!(entry("nonsense"), None);
    }
}
