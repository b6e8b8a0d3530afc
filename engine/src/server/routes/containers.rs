//! `/containers`.

use super::{relay, times};
use crate::server::body::{Reply, json, status, stream, streaming};
use crate::server::call::{Call, stream_type};
use crate::server::errors::ApiError;
use crate::server::versions::ApiVersion;
use futures_util::StreamExt;
use http::{StatusCode, header};
use kelson_api::{
    ContainerCreateRequest, ContainerCreateResponse, ContainerUpdateRequest, ContainerUpdateResponse,
    WaitError, WaitResponse,
};
use kelson_core::{
    AttachOptions, ListOptions, LogOptions, RemoveOptions, StatsMode, StopOptions, WaitCondition,
};
use std::time::Duration;

/// `GET /containers/json`.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let options = ListOptions {
        all: call.query.flag("all"),
        limit: call
            .query
            .int("limit")?
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0),
        size: call.query.flag("size"),
        filters: call.query.filters()?,
    };
    json(
        StatusCode::OK,
        &call.app.engine().await?.container_list(options).await?,
    )
}

/// `POST /containers/create`.
pub async fn create(mut call: Call) -> Result<Reply, ApiError> {
    let Some(body) = call.json_bytes().await? else {
        return Err(ApiError::invalid(
            "invalid JSON: got EOF while reading request body",
        ));
    };
    let mut request = ContainerCreateRequest::from_slice(&body)
        .map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))?;
    if request.config == kelson_api::ContainerConfig::default() {
        return Err(ApiError::invalid(
            "config cannot be empty in order to create a container",
        ));
    }
    adapt_create(&mut request, call.version);
    let engine = call.app.engine().await?;
    crate::wiring::ensure_hello(&engine, &request.config.image).await;
    let made = engine
        .container_create(call.query.some("name"), call.query.some("platform"), request)
        .await?;
    json(
        StatusCode::CREATED,
        &ContainerCreateResponse {
            id: made.id,
            warnings: made.warnings,
        },
    )
}

/// What older clients mean by what they do not say.
fn adapt_create(request: &mut ContainerCreateRequest, version: ApiVersion) {
    let host = request.host_config.get_or_insert_default();
    if version < ApiVersion(40) && host.ipc_mode.is_empty() {
        host.ipc_mode = "shareable".to_owned();
    }
    if version < ApiVersion(41) && host.cgroupns_mode.is_empty() {
        host.cgroupns_mode = "host".to_owned();
    }
    // moby treats 0 and below as "no limit" and forgets the value.
    host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
    if version < ApiVersion(44) {
        // Before 1.44 read-only binds were not recursively read-only.
        for mount in host
            .mounts
            .iter_mut()
            .flatten()
            .filter(|m| m.r#type == "bind" && m.read_only)
        {
            mount.bind_options.get_or_insert_default().read_only_non_recursive = true;
        }
    }
}

/// `GET /containers/{id}/json`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    let engine = call.app.engine().await?;
    json(
        StatusCode::OK,
        &engine
            .container_inspect(call.var("id"), call.query.flag("size"))
            .await?,
    )
}

/// `GET /containers/{id}/top`.
pub async fn top(call: Call) -> Result<Reply, ApiError> {
    let ps_args = call.query.some("ps_args").unwrap_or("-ef");
    json(
        StatusCode::OK,
        &call
            .app
            .engine()
            .await?
            .container_top(call.var("id"), ps_args)
            .await?,
    )
}

/// `GET /containers/{id}/logs`.
pub async fn logs(call: Call) -> Result<Reply, ApiError> {
    let (stdout, stderr) = (call.query.flag("stdout"), call.query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let options = LogOptions {
        stdout,
        stderr,
        follow: call.query.flag("follow"),
        since: times::parse(call.query.get("since"))?,
        until: times::parse(call.query.get("until"))?.filter(|at| *at != 0),
        timestamps: call.query.flag("timestamps"),
        details: call.query.flag("details"),
        // As moby: whatever is no number means all.
        tail: call.query.get("tail").parse().ok(),
    };
    let logs = call
        .app
        .engine()
        .await?
        .container_logs(call.var("id"), options)
        .await?;
    let (sender, body) = stream();
    let agent = call
        .headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok());
    // Our own client takes lines as they come.
    let encode = match agent.is_some_and(|agent| agent.starts_with("kelson/")) {
        true => relay::encode,
        false => relay::encode_lines,
    };
    tokio::spawn(relay::downward_as(logs.frames, logs.tty, sender, encode));
    Ok(streaming(stream_type(call.version, logs.tty), body))
}

/// `POST /containers/{id}/start`.
pub async fn start(mut call: Call) -> Result<Reply, ApiError> {
    let body = call.bytes().await?;
    // Some clients send `null` or `{}`; a real configuration here was removed from the API long ago.
    if !matches!(body.trim_ascii(), b"" | b"null" | b"{}") {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    call.app.engine().await?.container_start(call.var("id")).await?;
    Ok(status(StatusCode::NO_CONTENT))
}

fn stop_options(call: &Call) -> Result<StopOptions, ApiError> {
    let timeout = call.query.int("t")?.map(|t| match u64::try_from(t) {
        Ok(seconds) => Duration::from_secs(seconds),
        // Negative: wait for ever.
        Err(_) => Duration::MAX,
    });
    Ok(StopOptions {
        signal: call.query.some("signal").map(str::to_owned),
        timeout,
    })
}

/// `POST /containers/{id}/stop`.
pub async fn stop(call: Call) -> Result<Reply, ApiError> {
    let options = stop_options(&call)?;
    call.app
        .engine()
        .await?
        .container_stop(call.var("id"), options)
        .await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/restart`.
pub async fn restart(call: Call) -> Result<Reply, ApiError> {
    let options = stop_options(&call)?;
    call.app
        .engine()
        .await?
        .container_restart(call.var("id"), options)
        .await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/kill`.
pub async fn kill(call: Call) -> Result<Reply, ApiError> {
    call.app
        .engine()
        .await?
        .container_kill(call.var("id"), call.query.some("signal"))
        .await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/pause`.
pub async fn pause(call: Call) -> Result<Reply, ApiError> {
    call.app.engine().await?.container_pause(call.var("id")).await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/unpause`.
pub async fn unpause(call: Call) -> Result<Reply, ApiError> {
    call.app.engine().await?.container_unpause(call.var("id")).await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/update`.
pub async fn update(mut call: Call) -> Result<Reply, ApiError> {
    let request: ContainerUpdateRequest = call.json().await?;
    let engine = call.app.engine().await?;
    let warnings = engine.container_update(call.var("id"), request).await?;
    json(StatusCode::OK, &ContainerUpdateResponse { warnings })
}

/// `GET /containers/{id}/stats`.
pub async fn stats(call: Call) -> Result<Reply, ApiError> {
    let mode = match (call.query.flag_or("stream", true), call.query.flag("one-shot")) {
        (true, false) => StatsMode::Stream,
        (false, false) => StatsMode::Pair,
        (false, true) => StatsMode::OneShot,
        (true, true) => {
            return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
        }
    };
    let engine = call.app.engine().await?;
    let mut samples = engine.container_stats(call.var("id"), mode).await?;
    if mode != StatsMode::Stream {
        return match samples.next().await {
            Some(sample) => json(StatusCode::OK, &sample?),
            None => Err(ApiError::internal("no figures")),
        };
    }
    let (sender, body) = stream();
    tokio::spawn(async move {
        loop {
            let sample = tokio::select! {
                sample = samples.next() => sample,
                () = sender.closed() => return,
            };
            match sample {
                Some(Ok(sample)) => {
                    if sender.line(&sample, "\n").await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => return sender.abort(std::io::Error::other(error.to_string())).await,
                None => return,
            }
        }
    });
    Ok(streaming("application/json", body))
}

/// `POST /containers/{id}/rename`.
pub async fn rename(call: Call) -> Result<Reply, ApiError> {
    call.app
        .engine()
        .await?
        .container_rename(call.var("id"), call.query.get("name"))
        .await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/wait`. The head goes out at once: the docker CLI waits for it before it starts the container.
pub async fn wait(call: Call) -> Result<Reply, ApiError> {
    let condition = match call.query.get("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let waiting = call
        .app
        .engine()
        .await?
        .container_wait(call.var("id"), condition)
        .await?;
    let (sender, body) = stream();
    tokio::spawn(async move {
        tokio::select! {
            outcome = waiting.outcome() => {
                let error = outcome.error.map(|message| WaitError { message });
                // A client that has left needs no answer.
                let _ = sender.line(&WaitResponse { error, status_code: outcome.exit_code }, "\n").await;
            }
            () = sender.closed() => {}
        }
    });
    Ok(streaming("application/json", body))
}

/// Rows and columns of a resize.
pub fn window(call: &Call) -> Result<(u16, u16), ApiError> {
    let side = |key: &str| {
        let text = call.query.get(key);
        text.parse()
            .map_err(|_| ApiError::invalid(format!("invalid resize parameter {key}: {text:?}")))
    };
    Ok((side("h")?, side("w")?))
}

/// `POST /containers/{id}/resize`.
pub async fn resize(call: Call) -> Result<Reply, ApiError> {
    let (height, width) = window(&call)?;
    call.app
        .engine()
        .await?
        .container_resize(call.var("id"), height, width)
        .await?;
    Ok(status(StatusCode::OK))
}

/// What to attach to.
pub fn attach_options(call: &Call) -> AttachOptions {
    AttachOptions {
        logs: call.query.flag("logs"),
        stream: call.query.flag("stream"),
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        detach_keys: call.query.some("detachKeys").map(str::to_owned),
    }
}

/// `POST /containers/{id}/attach`.
pub async fn attach(mut call: Call) -> Result<Reply, ApiError> {
    let options = attach_options(&call);
    let attached = call
        .app
        .engine()
        .await?
        .container_attach(call.var("id"), options)
        .await?;
    let tty = attached.tty;
    match call.hijack(tty) {
        Some((reply, io)) => {
            tokio::spawn(async move {
                if let Some(io) = io.await {
                    relay::both_ways(io, attached).await;
                }
            });
            Ok(reply)
        }
        // HTTP/1.0, or a second request on a kept connection: output only, as a plain response.
        None => {
            let (sender, body) = stream();
            tokio::spawn(relay::downward(attached.output, tty, sender));
            Ok(streaming(stream_type(call.version, tty), body))
        }
    }
}

/// `DELETE /containers/{id}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    let name = call.var("name");
    if call.query.flag("link") {
        call.app.engine().await?.container_remove_link(name).await?;
        return Ok(status(StatusCode::NO_CONTENT));
    }
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
    };
    call.app.engine().await?.container_remove(name, options).await?;
    Ok(status(StatusCode::NO_CONTENT))
}

/// `POST /containers/prune`.
pub async fn prune(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    json(
        StatusCode::OK,
        &call.app.engine().await?.container_prune(&filters).await?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_clients_mean_older_defaults() {
        let adapted = |version| {
            let mut request =
                ContainerCreateRequest::from_slice(br#"{"Image":"x","HostConfig":{"PidsLimit":0}}"#).unwrap();
            adapt_create(&mut request, ApiVersion(version));
            let host = request.host_config.unwrap();
            (host.ipc_mode, host.cgroupns_mode, host.pids_limit)
        };
        assert_eq!(adapted(39), ("shareable".into(), "host".into(), None));
        assert_eq!(adapted(40), (String::new(), "host".into(), None));
        assert_eq!(adapted(51), (String::new(), String::new(), None));
    }
}
