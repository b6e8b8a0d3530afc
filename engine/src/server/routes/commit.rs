//! `POST /commit`.

use super::images::repo_and_tag;
use crate::server::body::{Reply, json};
use crate::server::call::{Call, decode};
use crate::server::errors::ApiError;
use http::StatusCode;
use kelson_api::IdResponse;
use kelson_core::Commit;

/// Makes an image of a container. The body is a container's configuration, and may be missing or `null`.
pub async fn create(mut call: Call) -> Result<Reply, ApiError> {
    let config = match call.json_bytes().await? {
        Some(bytes) if bytes.trim_ascii() != b"null" => Some(decode(&bytes)?),
        _ => None,
    };
    let commit = Commit {
        reference: repo_and_tag(call.query.get("repo"), call.query.get("tag"))?,
        config,
        changes: call.query.values("changes").map(str::to_owned).collect(),
        author: call.query.get("author").to_owned(),
        comment: call.query.get("comment").to_owned(),
        pause: call.query.some("pause").is_none() || call.query.flag("pause"),
    };
    let engine = call.app.engine().await?;
    let id = engine
        .container_commit(call.query.get("container"), commit)
        .await?;
    json(StatusCode::CREATED, &IdResponse { id: id.to_string() })
}
