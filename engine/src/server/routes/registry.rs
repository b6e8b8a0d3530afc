//! Calls that ask a registry and store nothing: login, distribution, search; and Kelson's own for `manifest inspect`.

use super::pull::registry_auth;
use crate::server::body::{Body, Reply, json};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use http::{HeaderValue, Response, StatusCode, header};
use kelson_api::{AuthConfig, AuthResponse, SearchResult};
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use kelson_images::{Kind, RemoteManifest};
use serde_json::{Value, json as object};

/// What docker shows at most, and without being asked.
const SEARCH_MAX: i64 = 100;
const SEARCH_DEFAULT: i64 = 25;

/// Here "denied" is what was asked: the status is that of a refusal, not of something hidden.
fn told(error: kelson_images::Error) -> ApiError {
    let denied = error.kind() == Kind::Denied;
    let mut error = ApiError::from(error);
    if denied {
        error.status = StatusCode::UNAUTHORIZED;
    }
    error
}

/// `POST /auth`.
pub async fn auth(mut call: Call) -> Result<Reply, ApiError> {
    let given: AuthConfig = call.json().await?;
    let credential = Credential {
        username: given.username,
        password: given.password,
        identity_token: given.identity_token,
        registry_token: given.registry_token,
    };
    let engine = call.app.engine().await?;
    let token = engine
        .images()
        .login(&given.server_address, &credential)
        .await
        .map_err(told)?;
    let answer = AuthResponse {
        status: "Login Succeeded".to_owned(),
        identity_token: token.unwrap_or_default(),
    };
    json(StatusCode::OK, &answer)
}

async fn remote(call: &Call) -> Result<(Reference, RemoteManifest), ApiError> {
    let reference = Reference::parse(call.var("name"))?;
    let auth = registry_auth(call)?;
    let engine = call.app.engine().await?;
    let found = engine.images().inspect_remote(&reference, auth.as_ref()).await;
    Ok((reference, found.map_err(told)?))
}

/// `GET /distribution/{name}/json`.
pub async fn distribution(call: Call) -> Result<Reply, ApiError> {
    let (_, found) = remote(&call).await?;
    let platforms: Vec<Value> = found
        .platforms
        .iter()
        .map(|p| {
            let mut shown = object!({"architecture": p.architecture, "os": p.os});
            if let Some(variant) = &p.variant {
                shown["variant"] = object!(variant);
            }
            shown
        })
        .collect();
    let answer = object!({
        "Descriptor": {
            "mediaType": found.media_type, "digest": found.digest.to_string(), "size": found.bytes.len(),
        },
        "Platforms": platforms,
    });
    json(StatusCode::OK, &answer)
}

/// `GET /kelson/manifests/{name}`: a manifest or index as its registry has it. Kelson's own, see `docs/extensions.md`.
pub async fn manifest(call: Call) -> Result<Reply, ApiError> {
    let (_, found) = remote(&call).await?;
    let mut reply = Response::new(Body::from(found.bytes));
    let headers = reply.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|e| ApiError::internal(e.to_string()));
    headers.insert(header::CONTENT_TYPE, value(&found.media_type)?);
    headers.insert("docker-content-digest", value(&found.digest.to_string())?);
    Ok(reply)
}

/// `GET /images/search`.
pub async fn search(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    filters.only(&["is-automated", "is-official", "stars"])?;
    let limit = call
        .query
        .int("limit")?
        .filter(|n| *n != 0)
        .unwrap_or(SEARCH_DEFAULT);
    if !(1..=SEARCH_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!(
            "limit {limit} is outside the range of [1, {SEARCH_MAX}]"
        )));
    }
    let official = filters.boolean("is-official")?;
    let automated = filters.boolean("is-automated")?;
    let mut stars = 0;
    for text in filters.get("stars") {
        let bad = || ApiError::invalid(format!("invalid filter 'stars={text}'"));
        stars = stars.max(text.parse::<i64>().map_err(|_| bad())?);
    }
    let auth = registry_auth(&call)?;
    let engine = call.app.engine().await?;
    let limit = u32::try_from(limit).unwrap_or_default();
    let found = engine
        .images()
        .search(call.query.get("term"), limit, auth.as_ref())
        .await
        .map_err(told)?;
    let shown: Vec<SearchResult> = found
        .into_iter()
        .filter(|one| {
            official.is_none_or(|wanted| one.is_official == wanted)
                && automated.is_none_or(|wanted| one.is_automated == wanted)
                && one.star_count >= stars
        })
        .map(|one| SearchResult {
            star_count: one.star_count,
            is_official: one.is_official,
            name: one.name,
            is_automated: one.is_automated,
            description: one.description,
        })
        .collect();
    json(StatusCode::OK, &shown)
}
