//! `image prune`.

use kelson_api::ImagesPruneReport;

use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::commands::container::prune::reclaimed;
use crate::commands::{filters, prompt};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("all", "Remove all unused images, not just dangling ones").short('a'),
    filters::LONG_FLAG,
    switch("force", "Do not prompt for confirmation").short('f'),
    value(
        "unused-for",
        "duration",
        "Only images that no container was made from for so long (\"14d\", \"36h\")",
    )
    .checked(|text| span(text).map(drop)),
];

/// `kelson image prune`.
pub static COMMAND: Command = Command {
    names: &["image prune"],
    usage: "[OPTIONS]",
    about: "Remove unused images",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let all = parsed.on("all");
    let what = if all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !parsed.on("force") && !prompt::confirm(what)? {
        return Ok(0);
    }
    let mut filters = filters::of(parsed);
    filters.add("dangling", if all { "false" } else { "true" });
    if let Some(text) = parsed.text("unused-for") {
        filters.add(
            "unused-for",
            &span(text).map_err(|why| parsed.invalid("unused-for", text, &why))?,
        );
    }
    let report: ImagesPruneReport = session
        .client
        .post("/images/prune")
        .query("filters", filters.encode())
        .send()?
        .json()?;
    let deleted = report.images_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text += "Deleted Images:\n";
        for item in &deleted {
            text += &super::rm::item_line(item);
        }
        text.push('\n');
    }
    text += &reclaimed(report.space_reclaimed);
    output::out(text.as_bytes())?;
    Ok(0)
}

/// A span of time for the engine: Go's form, and days and weeks before it (`2w`, `14d12h`).
fn span(text: &str) -> Result<String, String> {
    let bad = || format!("invalid duration {text:?}: want 14d, 36h or 90m");
    let (mut rest, mut hours) = (text, 0_u64);
    for (unit, length) in [('w', 7 * 24), ('d', 24)] {
        if let Some((count, after)) = rest.split_once(unit) {
            let count: u64 = count.parse().map_err(|_| bad())?;
            hours = count
                .checked_mul(length)
                .and_then(|n| hours.checked_add(n))
                .ok_or_else(bad)?;
            rest = after;
        }
    }
    if text.is_empty() || (!rest.is_empty() && kelson_formats::duration::go_duration(rest).is_none()) {
        return Err(bad());
    }
    Ok(match hours {
        0 => rest.to_owned(),
        hours => format!("{hours}h{rest}"),
    })
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn spans_of_days() {
        for (text, want) in [
            ("14d", "336h"),
            ("2w1d", "360h"),
            ("1d12h", "24h12h"),
            ("90m", "90m"),
        ] {
            assert_eq!(span(text).unwrap(), want);
        }
        for bad in ["", "d", "14", "-1d", "x", "1y", "1d1w"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
