//! `list`.

use clap::Parser;

use super::{Context, Outcome, json, print};
use crate::container::Status;
use crate::error::{Error, Kind, Result};
use crate::users;

#[derive(Debug, Parser)]
#[command(
    name = "list",
    about = "lists containers started by kelson-runtime with the given root"
)]
pub(super) struct Args {
    /// table or json
    #[arg(short, long, default_value = "table")]
    pub format: String,
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    list(context, args).into()
}

fn list(context: &Context, args: &Args) -> Result<()> {
    let mut records = Vec::new();
    for entry in context.store.list(context.root_given)? {
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
                let owner = users::name(r.owner);
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

/// Columns at least 12 wide, three spaces between, as Go's tabwriter makes them for runc.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [12; N];
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count() + 3);
        }
    }
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
                if i + 1 == N {
                    line.push_str(cell);
                } else {
                    line.push_str(&format!("{cell:width$}"));
                }
            }
            line + "\n"
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            ["a".to_owned(), "b".to_owned()],
            ["a-long-identifier".to_owned(), "c".to_owned()],
        ];
        assert_eq!(table(&rows), "a                   b\na-long-identifier   c\n");
    }
}
