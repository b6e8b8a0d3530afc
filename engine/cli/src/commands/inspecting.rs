//! What every `inspect` does: fetch objects one by one, then print them as JSON or by a template.

use anyhow::anyhow;
use serde_json::Value;

use crate::error::{Collected, Failure};
use crate::format::indent::indent;
use crate::format::template::{Missing, Template};
use crate::output;

/// Docker's indentation.
const STEP: usize = 4;

/// Fetches each object as JSON text and shows what was found; errors are collected.
pub fn show(
    names: &[String],
    format: Option<&str>,
    mut fetch: impl FnMut(&str) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<u8> {
    let template = match format {
        None | Some("") => None,
        Some("json") => Some(None),
        Some(text) => {
            Some(Some(Template::parse(text).map_err(|why| {
                Failure::error(format!("template parsing error: {why}"), 64)
            })?))
        }
    };
    let mut errors = Collected::default();
    let mut found = Vec::new();
    for name in names {
        match fetch(name).and_then(|bytes| Ok(String::from_utf8(bytes)?)) {
            Ok(text) => found.push(text.trim().to_owned()),
            Err(error) if crate::error::status_of(&error).is_none() && !error.is::<Failure>() => {
                return Err(error);
            }
            Err(error) => errors.add(&error),
        }
    }
    match template {
        None => output::line(&indent(&format!("[{}]", found.join(",")), STEP))?,
        Some(None) => output::line(&format!("[{}]", found.join(",")))?,
        Some(Some(template)) => {
            for text in &found {
                match by_template(&template, text) {
                    Ok(shown) => output::line(&shown)?,
                    Err(error) => {
                        output::line("")?;
                        return Err(error);
                    }
                }
            }
            if found.is_empty() {
                // Docker ends its output even if there was nothing.
                output::line("")?;
            }
        }
    }
    errors.finish()
}

fn by_template(template: &Template, text: &str) -> anyhow::Result<String> {
    let value: Value = serde_json::from_str(text)?;
    template
        .render(&value, Missing::Map)
        .map_err(|why| anyhow!("template parsing error: {why}"))
}
