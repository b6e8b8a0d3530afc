//! `system df`.

use kelson_api::{DiskUsage, Volume};
use serde_json::{Value, json};

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::formats;
use crate::commands::volume::ls as volume_ls;
use crate::format::LABELS;
use crate::format::containers::{self as container_listing, container_row};
use crate::format::images::{self as image_listing, image_rows};
use crate::format::listing::{Listing, row};
use crate::format::template::{Missing, Template};
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

const FLAGS: &[Flag] = &[
    formats::LIST,
    switch("verbose", "Show detailed information on space usage").short('v'),
];

const IMAGES: &str = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const CONTAINERS: &str = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
const VOLUMES: &str = "table {{.Name}}\t{{.Links}}\t{{.Size}}";
/// There is no builder with a cache of its own.
const BUILD_CACHE: &str = "CACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED\n";

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
    if parsed.on("verbose") {
        return verbose(&usage, parsed.text("format"));
    }
    let format = formats::of_list(session, parsed, "", TABLE, None);
    output::out(LISTING.show(&format, &rows(&usage))?.as_bytes())?;
    Ok(0)
}

fn verbose(usage: &DiskUsage, format: Option<&str>) -> anyhow::Result<u8> {
    let images = usage.images.iter().flatten();
    let images: Vec<Value> = images.flat_map(|image| image_rows(image, true, false)).collect();
    let containers = usage.containers.iter().flatten();
    let containers: Vec<Value> = containers
        .map(|container| container_row(container, true))
        .collect();
    let volumes: Vec<Value> = usage.volumes.iter().flatten().map(volume_row).collect();
    if let Some(format) = format.filter(|f| !f.is_empty() && !f.starts_with("table")) {
        let shown = |rows: &[Value]| -> Vec<Value> { rows.iter().map(columns).collect() };
        let all = json!({
            "Images": shown(&images), "Containers": shown(&containers), "Volumes": shown(&volumes), "BuildCache": [],
        });
        if format == "json" {
            output::line(&all.to_string())?;
            return Ok(0);
        }
        let failed = |why| anyhow::anyhow!("failed to execute template: {why}");
        let template = Template::parse(format).map_err(failed)?;
        output::line(&template.render(&all, Missing::Map).map_err(failed)?)?;
        return Ok(0);
    }
    let text = [
        "Images space usage:\n\n".to_owned(),
        image_listing::LISTING.show(IMAGES, &images)?,
        "\nContainers space usage:\n\n".to_owned(),
        container_listing::LISTING.show(CONTAINERS, &containers)?,
        "\nLocal Volumes space usage:\n\n".to_owned(),
        volume_ls::LISTING.show(VOLUMES, &volumes)?,
        format!("\nBuild cache usage: 0B\n\n{BUILD_CACHE}"),
    ];
    output::out(text.concat().as_bytes())?;
    Ok(0)
}

/// A row without what is no column.
fn columns(row: &Value) -> Value {
    let fields = row.as_object().into_iter().flatten();
    fields
        .filter(|(key, _)| *key != LABELS)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn volume_row(volume: &Volume) -> Value {
    let data = volume.usage_data.as_ref();
    let links = data.map_or_else(|| "N/A".to_owned(), |d| d.ref_count.to_string());
    let size = data.map_or_else(|| "N/A".to_owned(), |d| units::size3(d.size.max(0) as f64));
    row(
        json!({}),
        [
            ("Name", volume.name.clone().into()),
            ("Driver", volume.driver.clone().into()),
            ("Links", links.into()),
            ("Size", size.into()),
        ],
    )
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
