//! Parts of the API that exist and that Kelson does not do (yet): a clear answer instead of "page not found".

use crate::server::body::{Reply, json};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use http::StatusCode;

/// Known, not done yet.
pub async fn not_yet(_call: Call) -> Result<Reply, ApiError> {
    Err(ApiError::not_implemented(
        "this part of the API is not implemented by Kelson yet",
    ))
}

/// The swarm family: Kelson is no cluster manager, and says so in the words clients know.
pub async fn not_a_manager(_call: Call) -> Result<Reply, ApiError> {
    Err(ApiError::unavailable(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
    ))
}

/// `POST /swarm/leave`.
pub async fn not_in_swarm(_call: Call) -> Result<Reply, ApiError> {
    Err(ApiError::unavailable("This node is not part of a swarm"))
}

/// `GET /plugins/{name}/json` and its like: `docker inspect` asks for a plugin when nothing else has the name.
pub async fn no_such_plugin(call: Call) -> Result<Reply, ApiError> {
    let path = call.var("path");
    let name = path.strip_suffix("/json").unwrap_or(path);
    Err(ApiError::not_found(format!("plugin {name:?} not found")))
}

/// `GET /plugins`: there are none.
pub async fn no_plugins(_call: Call) -> Result<Reply, ApiError> {
    json(StatusCode::OK, &[(); 0])
}
