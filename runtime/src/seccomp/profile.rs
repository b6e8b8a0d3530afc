//! `linux.seccomp`.

use serde::{Deserialize, Deserializer};

use crate::config::locate;
use crate::error::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile {
    #[serde(default, deserialize_with = "or_default")]
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "or_default")]
    pub architectures: Vec<String>,
    /// Absent and empty mean different things.
    pub flags: Option<Vec<String>>,
    #[serde(default, deserialize_with = "or_default")]
    pub syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    #[serde(default, deserialize_with = "or_default")]
    pub names: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub action: String,
    pub errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Condition {
    pub index: u32,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}

/// The part that is not compiled.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listener {
    #[serde(default, deserialize_with = "or_default")]
    pub listener_path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub listener_metadata: String,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

pub(super) fn parse<'a, T: Deserialize<'a>>(raw: &'a str) -> Result<T> {
    serde_json::from_str(raw).map_err(|e| {
        let field = locate::field_of(raw, &e);
        let dot = if field.is_empty() { "" } else { "." };
        Error::field(format!("linux.seccomp{dot}{field}"), e)
    })
}
