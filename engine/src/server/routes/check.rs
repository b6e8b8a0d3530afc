//! `/kelson/check`: whether the image store's records and the disk agree. Kelson's own, see `docs/extensions.md`.

use crate::server::body::{Reply, json};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use http::StatusCode;
use kelson_images::Finding;
use serde_json::{Value, json as object};

/// `GET`: looks only.
pub async fn look(call: Call) -> Result<Reply, ApiError> {
    let found = call.app.engine().await?.images().check().await?;
    let shown: Vec<Value> = found.iter().map(shown).collect();
    json(StatusCode::OK, &object!({"Findings": shown}))
}

/// `POST`: and repairs.
pub async fn repair(call: Call) -> Result<Reply, ApiError> {
    let found = call.app.engine().await?.images().repair().await?;
    let shown: Vec<Value> = found
        .iter()
        .map(|one| {
            let mut value = shown(&one.finding);
            value["Repaired"] = object!(one.done);
            value
        })
        .collect();
    json(StatusCode::OK, &object!({"Findings": shown}))
}

fn shown(finding: &Finding) -> Value {
    match finding {
        Finding::Orphan { path } => object!({"Kind": "orphan", "Path": path}),
        Finding::Missing { owner, what } => object!({"Kind": "missing", "Owner": owner, "What": what}),
        other => object!({"Kind": "other", "What": format!("{other:?}")}),
    }
}
