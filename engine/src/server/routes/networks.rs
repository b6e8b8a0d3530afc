//! `/networks`: the three that are always there. Networks of the user's own are not there yet.

use crate::server::body::{Reply, json};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use http::StatusCode;
use kelson_api::{Network, NetworkCreateRequest, NetworksPruneReport};

/// `GET /networks`. The list does not tell who is connected, inspect does.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    let mut networks = call.app.engine().await?.network_list(&filters).await?;
    for network in &mut networks {
        network.containers = Some(kelson_api::Map::new());
    }
    json(StatusCode::OK, &networks)
}

async fn find(call: &Call) -> Result<Network, ApiError> {
    Ok(call.app.engine().await?.network_inspect(call.var("id")).await?)
}

/// `GET /networks/{id}`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    json(StatusCode::OK, &find(&call).await?)
}

/// `POST /networks/create`.
pub async fn create(mut call: Call) -> Result<Reply, ApiError> {
    let request: NetworkCreateRequest = call.json().await?;
    Err(ApiError::not_implemented(format!(
        "create network {}: user-defined networks are not implemented by Kelson yet; use bridge, host or none",
        request.name
    )))
}

/// `DELETE /networks/{id}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    let network = find(&call).await?;
    Err(ApiError {
        status: StatusCode::FORBIDDEN,
        ..ApiError::invalid(format!(
            "{} is a pre-defined network and cannot be removed",
            network.name
        ))
    })
}

/// `POST /networks/prune`: the three are never removed.
pub async fn prune(call: Call) -> Result<Reply, ApiError> {
    call.query.filters()?.only(&["until", "label", "label!"])?;
    json(StatusCode::OK, &NetworksPruneReport::default())
}
