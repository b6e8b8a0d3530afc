//! `system df`.

use kelson_api::DiskUsage;
use serde_json::{Value, json};

use crate::argv::{Arity, Command, Flag, Parsed};
use crate::commands::formats;
use crate::format::listing::{Listing, row};
use crate::format::units;
use crate::output;
use crate::session::Session;

const LISTING: Listing = Listing {
    kind: "*formatter.diskUsageContext",
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
};

const TABLE: &str = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";

const FLAGS: &[Flag] = &[formats::LIST];

/// `kelson system df`.
pub static COMMAND: Command = Command {
    names: &["system df"],
    usage: "[OPTIONS]",
    about: "Show disk usage",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let usage: DiskUsage = session.client.get("/system/df").send()?.json()?;
    let format = formats::of_list(session, parsed, "", TABLE, None);
    output::out(LISTING.show(&format, &rows(&usage))?.as_bytes())?;
    Ok(0)
}

fn rows(usage: &DiskUsage) -> Vec<Value> {
    let images: Vec<_> = usage.images.iter().flatten().collect();
    let used: i64 = images
        .iter()
        .filter(|image| image.containers > 0)
        .map(|image| image.size - image.shared_size.max(0))
        .sum();
    let containers: Vec<_> = usage.containers.iter().flatten().collect();
    let size = |running: bool| -> i64 {
        let counted = containers
            .iter()
            .filter(|container| !running || is_active(&container.state));
        counted.map(|container| container.size_rw.unwrap_or(0)).sum()
    };
    let volumes: Vec<_> = usage
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.usage_data.as_ref())
        .collect();
    let volume_size = |unused: bool| -> i64 {
        volumes
            .iter()
            .filter(|data| !unused || data.ref_count == 0)
            .map(|data| data.size.max(0))
            .sum()
    };
    vec![
        one(
            "Images",
            images.len(),
            images.iter().filter(|image| image.containers > 0).count(),
            usage.layers_size,
            (usage.layers_size - used).max(0),
        ),
        one(
            "Containers",
            containers.len(),
            containers
                .iter()
                .filter(|container| is_active(&container.state))
                .count(),
            size(false),
            size(false) - size(true),
        ),
        one(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(|data| data.ref_count > 0).count(),
            volume_size(false),
            volume_size(true),
        ),
        one("Build Cache", usage.build_cache.iter().flatten().count(), 0, 0, 0),
    ]
}

fn is_active(state: &str) -> bool {
    matches!(state, "running" | "paused" | "restarting")
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn one(kind: &str, total: usize, active: usize, size: i64, reclaimable: i64) -> Value {
    let mut free = units::size4(reclaimable as f64);
    if size > 0 {
        free += &format!(" ({}%)", reclaimable.saturating_mul(100) / size);
    }
    row(
        json!({}),
        [
            ("Type", kind.into()),
            ("TotalCount", total.to_string().into()),
            ("Active", active.to_string().into()),
            ("Size", units::size4(size as f64).into()),
            ("Reclaimable", free.into()),
        ],
    )
}
