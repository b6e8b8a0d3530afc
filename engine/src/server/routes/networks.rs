//! `/networks`.

use crate::server::body::{Reply, json, status};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use http::StatusCode;
use kelson_api::{
    Network, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest,
};

/// `GET /networks`. The list does not tell who is connected, inspect does.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    let mut networks = call.app.engine().await?.network_list(&filters).await?;
    for network in &mut networks {
        network.containers = Some(kelson_api::Map::new());
    }
    json(StatusCode::OK, &networks)
}

/// `GET /networks/{id}`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    let engine = call.app.engine().await?;
    let network: Network = engine.network_inspect(call.var("id")).await?;
    if let Some(scope) = call.query.some("scope").filter(|s| *s != network.scope) {
        let id = call.var("id");
        return Err(ApiError {
            status: StatusCode::NOT_FOUND,
            ..ApiError::invalid(format!("network {id} of scope {scope} not found"))
        });
    }
    json(StatusCode::OK, &network)
}

/// `POST /networks/create`.
pub async fn create(mut call: Call) -> Result<Reply, ApiError> {
    let request: NetworkCreateRequest = call.json().await?;
    let id = call.app.engine().await?.network_create(request).await?;
    let answer = NetworkCreateResponse {
        id,
        warning: String::new(),
    };
    json(StatusCode::CREATED, &answer)
}

/// `DELETE /networks/{id}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    call.app.engine().await?.network_remove(call.var("id")).await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /networks/{id}/connect`.
pub async fn connect(mut call: Call) -> Result<Reply, ApiError> {
    let request: NetworkConnectRequest = call.json().await?;
    let settings = request.endpoint_config.unwrap_or_default();
    let engine = call.app.engine().await?;
    engine
        .network_connect(call.var("id"), &request.container, settings)
        .await?;
    Ok(status(StatusCode::OK))
}

/// `POST /networks/{id}/disconnect`.
pub async fn disconnect(mut call: Call) -> Result<Reply, ApiError> {
    let request: NetworkDisconnectRequest = call.json().await?;
    let engine = call.app.engine().await?;
    engine
        .network_disconnect(call.var("id"), &request.container, request.force)
        .await?;
    Ok(status(StatusCode::OK))
}

/// `POST /networks/prune`.
pub async fn prune(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    json(
        StatusCode::OK,
        &call.app.engine().await?.network_prune(&filters).await?,
    )
}
