//! What goes along with every message: the tag, and labels and environment variables that were asked for.

use kelson_api::Map;
use kelson_sys::regex::Regex;

use super::{Facts, Options};
use crate::containers::record::Record;
use crate::error::{Error, Result};

/// The tag of drivers that have one, when none is given.
const TAG: &str = "{{.ID}}";

/// Refuses a tag or a pattern that makes no sense.
pub(super) fn check(options: Options<'_>) -> Result<()> {
    if let Some(tag) = options.get("tag") {
        expand(tag, |_| Some(String::new()))?;
    }
    pattern(options, "labels-regex")?;
    pattern(options, "env-regex").map(drop)
}

fn pattern(options: Options<'_>, key: &str) -> Result<Option<Regex>> {
    let Some(text) = options.get(key).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bad = |why| Error::invalid(format!("invalid value for {key}: {text}: {why}"));
    Regex::extended(text).map(Some).map_err(bad)
}

/// The tag of a container's messages.
pub(super) fn tag(record: &Record, facts: &Facts<'_>) -> Result<String> {
    let template = super::options(record).get("tag").map_or(TAG, String::as_str);
    let short = |id: &str| id.get(..12).unwrap_or(id).to_owned();
    let image_id = record
        .image_id
        .strip_prefix("sha256:")
        .unwrap_or(&record.image_id);
    expand(template, |field| {
        Some(match field {
            "ID" => short(&record.id),
            "FullID" => record.id.clone(),
            "Name" => record.name.clone(),
            "ImageID" => short(image_id),
            "ImageFullID" => record.image_id.clone(),
            "ImageName" => record.image.clone(),
            "DaemonName" => "docker".to_owned(),
            "Hostname" => facts.host.to_owned(),
            _ => return None,
        })
    })
}

/// Puts the values of `{{.Field}}` in; of Go's templates no more than this is known.
fn expand(template: &str, value: impl Fn(&str) -> Option<String>) -> Result<String> {
    let bad = |why: String| Error::invalid(format!("template: log-tag: {template}: {why}"));
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (action, after) = after
            .split_once("}}")
            .ok_or_else(|| bad("unclosed action".into()))?;
        let field = action.trim();
        let known = field
            .strip_prefix('.')
            .filter(|name| FIELDS.contains(name))
            .and_then(&value);
        out.push_str(&known.ok_or_else(|| bad(format!("can't evaluate {field}")))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

const FIELDS: [&str; 8] = [
    "ID",
    "FullID",
    "Name",
    "ImageID",
    "ImageFullID",
    "ImageName",
    "DaemonName",
    "Hostname",
];

/// Labels and variables by the options' lists and patterns.
pub(super) fn attributes(record: &Record) -> Result<Map<String>> {
    let options = super::options(record);
    let wanted = |list: &str, regex: &str| -> Result<_> {
        let names: Vec<&str> = options
            .get(list)
            .map(|names| names.split(',').map(str::trim).collect())
            .unwrap_or_default();
        let pattern = pattern(options, regex)?;
        Ok(move |name: &str| names.contains(&name) || pattern.as_ref().is_some_and(|p| p.matches(name)))
    };
    let mut out = Map::new();
    let is_wanted = wanted("labels", "labels-regex")?;
    for (name, value) in record.config.labels.iter().flatten() {
        if is_wanted(name) {
            out.insert(name.clone(), value.clone());
        }
    }
    let is_wanted = wanted("env", "env-regex")?;
    for (name, value) in record
        .config
        .env
        .iter()
        .flatten()
        .filter_map(|e| e.split_once('='))
    {
        if is_wanted(name) {
            out.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let value = |field: &str| Some(format!("<{field}>"));
        assert_eq!(expand("{{.Name}}/{{ .ID }}x", value).unwrap(), "<Name>/<ID>x");
        assert_eq!(expand("plain", value).unwrap(), "plain");
        for bad in ["{{.Name", "{{.Nope}}", "{{range .}}{{end}}"] {
            assert!(expand(bad, value).is_err(), "{bad}");
        }
    }
}
