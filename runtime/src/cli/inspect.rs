//! Commands that only show something.

use std::process::Command;

use super::{Context, args, print};
use crate::container::Status;
use crate::error::{Doing, Error, Kind, Result};
use crate::features;

fn json<T: serde::Serialize>(value: &T, pretty: bool) -> Result<String> {
    let text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    text.map_err(|e| Error::new(Kind::Internal, format!("encode: {e}")))
}

pub(super) fn state(context: &Context, args: &args::Id) -> Result<()> {
    let entry = context.store.open(&args.id)?;
    let record = entry.read()?;
    let status = entry.status(&record);
    print(&(json(&record.view(status), true)? + "\n"))
}

pub(super) fn list(context: &Context, args: &args::List) -> Result<()> {
    let mut records = Vec::new();
    for entry in context.store.list()? {
        // One that is being made or removed just now is not there (yet, or any more).
        match entry.read() {
            Ok(record) => {
                let status = entry.status(&record);
                records.push((record, status));
            }
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => context.log.warn(&format!("list: {}", e.chain())),
        }
    }
    if args.quiet {
        return print(
            &records
                .iter()
                .map(|(r, _)| format!("{}\n", r.id))
                .collect::<String>(),
        );
    }
    match args.format.as_str() {
        "json" => {
            let views: Vec<_> = records.iter().map(|(r, s)| r.view(*s)).collect();
            print(&json(&views, false)?)
        }
        "table" => {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            for (r, s) in &records {
                let pid = if *s == Status::Stopped { 0 } else { r.pid };
                let owner = if r.owner == 0 {
                    "root".to_owned()
                } else {
                    format!("#{}", r.owner)
                };
                let bundle = r.bundle.display().to_string();
                rows.push([
                    r.id.clone(),
                    pid.to_string(),
                    s.name().to_owned(),
                    bundle,
                    r.created.clone(),
                    owner,
                ]);
            }
            print(&table(&rows))
        }
        other => Err(Error::new(
            Kind::Invalid,
            format!("invalid format option {other:?}"),
        )),
    }
}

/// Columns at least 12 wide, one space between, as runc's.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [11; N];
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
                if i + 1 == N {
                    line.push_str(cell);
                } else {
                    line.push_str(&format!("{cell:width$} "));
                }
            }
            line + "\n"
        })
        .collect()
}

pub(super) fn ps(context: &Context, args: &args::Ps) -> Result<()> {
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

pub(super) fn features(_: &args::None) -> Result<()> {
    print(&(json(&features::document(), true)? + "\n"))
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

    #[test]
    fn columns_line_up() {
        let rows = [
            ["a".to_owned(), "b".to_owned()],
            ["a-long-identifier".to_owned(), "c".to_owned()],
        ];
        assert_eq!(table(&rows), "a                 b\na-long-identifier c\n");
    }
}
