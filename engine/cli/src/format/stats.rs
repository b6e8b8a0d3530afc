//! Rows and charts of `stats`.

use serde_json::{Value, json};

use super::listing::Listing;
use super::units;

/// The table of `stats`.
pub const TABLE: &str = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// Its columns.
pub const LISTING: Listing = Listing {
    kind: "*container.statsContext",
    headers: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
};

/// Narrowest and widest chart.
const CHART: std::ops::RangeInclusive<usize> = 8..=30;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What one sample says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    id: String,
    name: String,
    /// Per cent of one processor.
    pub cpu: f64,
    memory: f64,
    limit: f64,
    received: f64,
    sent: f64,
    read: f64,
    written: f64,
    pids: u64,
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

impl Usage {
    /// Reads the answer of `GET /containers/ID/stats`.
    pub fn read(stats: &Value) -> Usage {
        let networks = stats["networks"].as_object();
        let sum = |field: &str| {
            networks.map_or(0.0, |all| {
                all.values().map(|network| number(&network[field])).sum()
            })
        };
        let blocks = stats["blkio_stats"]["io_service_bytes_recursive"].as_array();
        let blocks_of = |letter: char| {
            let of = |entry: &&Value| {
                let operation = entry["op"].as_str().unwrap_or_default();
                operation
                    .chars()
                    .next()
                    .is_some_and(|first| first.eq_ignore_ascii_case(&letter))
            };
            blocks.map_or(0.0, |all| {
                all.iter().filter(of).map(|entry| number(&entry["value"])).sum()
            })
        };
        let text = |field: &str| stats[field].as_str().unwrap_or_default().to_owned();
        Usage {
            id: text("id"),
            name: text("name").trim_start_matches('/').to_owned(),
            cpu: cpu(stats),
            memory: memory(&stats["memory_stats"]),
            limit: number(&stats["memory_stats"]["limit"]),
            received: sum("rx_bytes"),
            sent: sum("tx_bytes"),
            read: blocks_of('r'),
            written: blocks_of('w'),
            pids: stats["pids_stats"]["current"].as_u64().unwrap_or(0),
        }
    }
}

/// Per cent of one processor between the two samples that an answer holds.
#[expect(clippy::cast_precision_loss, reason = "a number of processors")]
fn cpu(stats: &Value) -> f64 {
    let (now, before) = (&stats["cpu_stats"], &stats["precpu_stats"]);
    let used = number(&now["cpu_usage"]["total_usage"]) - number(&before["cpu_usage"]["total_usage"]);
    let passed = number(&now["system_cpu_usage"]) - number(&before["system_cpu_usage"]);
    let processors = match number(&now["online_cpus"]) {
        online if online > 0.0 => online,
        _ => now["cpu_usage"]["percpu_usage"].as_array().map_or(0, Vec::len) as f64,
    };
    if used > 0.0 && passed > 0.0 {
        used / passed * processors * 100.0
    } else {
        0.0
    }
}

/// Memory without the page cache that the kernel can take back at once.
fn memory(memory: &Value) -> f64 {
    let usage = number(&memory["usage"]);
    let inactive = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|field| memory["stats"][field].as_f64())
        .filter(|inactive| *inactive < usage);
    usage - inactive.unwrap_or(0.0)
}

/// The row of a container that was asked for by `asked`; without figures it has dashes.
pub fn row(asked: &str, usage: Option<&Usage>, truncate: bool) -> Value {
    let short = |id: &str| {
        if truncate {
            units::short_id(id).to_owned()
        } else {
            id.to_owned()
        }
    };
    let Some(usage) = usage else {
        return json!({
            "Container": asked, "ID": short(asked), "Name": "--", "CPUPerc": "--", "MemUsage": "-- / --",
            "MemPerc": "--", "NetIO": "--", "BlockIO": "--", "PIDs": "--",
        });
    };
    let share = if usage.limit > 0.0 {
        usage.memory / usage.limit * 100.0
    } else {
        0.0
    };
    json!({
        "Container": asked,
        "ID": short(&usage.id),
        "Name": usage.name,
        "CPUPerc": format!("{:.2}%", usage.cpu),
        "MemUsage": format!("{} / {}", units::binary(usage.memory), units::binary(usage.limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", units::size3(usage.received), units::size3(usage.sent)),
        "BlockIO": format!("{} / {}", units::size3(usage.read), units::size3(usage.written)),
        "PIDs": usage.pids.to_string(),
    })
}

/// The table with a chart of each container's processor use behind its row, where the terminal has room for it.
pub fn with_charts(table: &str, histories: &[&[f64]], columns: usize) -> String {
    let widest = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let room = columns.saturating_sub(widest + 3);
    if room < *CHART.start() {
        return table.to_owned();
    }
    let room = room.min(*CHART.end());
    let mut text = String::new();
    for (at, line) in table.lines().enumerate() {
        let cell = match at.checked_sub(1).and_then(|row| histories.get(row)) {
            None => "CPU %, ▁ to █ 100".chars().take(room).collect(),
            Some(history) => chart(history, room),
        };
        text += format!("{line:widest$}   {cell}").trim_end();
        text.push('\n');
    }
    text
}

/// The newest `width` values as bars. A full bar is 100 %, or the largest value if that is more.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index below eight"
)]
fn chart(history: &[f64], width: usize) -> String {
    let shown = &history[history.len().saturating_sub(width)..];
    let full = shown.iter().copied().fold(100.0, f64::max);
    let bar = |value: &f64| BARS[((value / full * 8.0) as usize).min(BARS.len() - 1)];
    shown.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        json!({
            "id": "0123456789abcdef0123", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3_145_728, "limit": 1_073_741_824, "stats": {"inactive_file": 1_048_576}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 10}, "eth1": {"rx_bytes": 500, "tx_bytes": 0}},
            "blkio_stats": {"io_service_bytes_recursive": [
                {"op": "Read", "value": 4096}, {"op": "write", "value": 1}, {"op": "Total", "value": 9}]},
            "pids_stats": {"current": 3},
        })
    }

    #[test]
    fn the_table_is_dockers() {
        let rows = [
            row("web", Some(&Usage::read(&sample())), true),
            row("gone", None, true),
        ];
        assert_eq!(
            LISTING.show(TABLE, &rows).unwrap(),
            "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O    PIDS\n\
             0123456789ab   web       40.00%    2MiB / 1GiB         0.20%     1.5kB / 10B   4.1kB / 1B   3\n\
             gone           --        --        -- / --             --        --            --           --\n"
        );
    }

    #[test]
    fn charts_take_the_room_there_is() {
        let table = "A   PIDS\nx   1\n";
        let history = [0.0, 50.0, 100.0, 250.0];
        assert_eq!(with_charts(table, &[&history], 12), table);
        assert_eq!(
            with_charts(table, &[&history], 19),
            "A   PIDS   CPU %, ▁\nx   1      ▁▂▄█\n"
        );
        assert_eq!(chart(&history[..3], 2), "▅█");
    }

    #[test]
    fn a_first_sample_has_no_processor_use() {
        let mut first = sample();
        first["precpu_stats"] = json!({});
        first["cpu_stats"]["system_cpu_usage"] = Value::Null;
        assert!(Usage::read(&first).cpu.abs() < f64::EPSILON);
        assert_eq!(Usage::read(&Value::Null), Usage::default());
    }
}
