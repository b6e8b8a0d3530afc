//! `/volumes`.

use crate::server::body::{Reply, json, status};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use crate::server::versions::ApiVersion;
use http::StatusCode;
use kelson_api::VolumeCreateRequest;

/// `GET /volumes`.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    json(
        StatusCode::OK,
        &call.app.engine().await?.volume_list(&filters).await?,
    )
}

/// `GET /volumes/{name}`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    json(
        StatusCode::OK,
        &call.app.engine().await?.volume_inspect(call.var("name")).await?,
    )
}

/// `POST /volumes/create`.
pub async fn create(mut call: Call) -> Result<Reply, ApiError> {
    let request: VolumeCreateRequest = call.json().await?;
    json(
        StatusCode::CREATED,
        &call.app.engine().await?.volume_create(request).await?,
    )
}

/// `DELETE /volumes/{name}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    call.app
        .engine()
        .await?
        .volume_remove(call.var("name"), call.query.flag("force"))
        .await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /volumes/prune`. Before 1.42 it took named volumes too.
pub async fn prune(call: Call) -> Result<Reply, ApiError> {
    let mut filters = call.query.filters()?;
    if call.version < ApiVersion(42) {
        filters.add("all", "true");
    }
    json(
        StatusCode::OK,
        &call.app.engine().await?.volume_prune(&filters).await?,
    )
}
