//! `/exec` and `/containers/{id}/exec`.

use super::{containers, relay};
use crate::server::body::{Reply, json, status, stream, streaming};
use crate::server::call::{Call, stream_type};
use crate::server::errors::ApiError;
use crate::server::versions::ApiVersion;
use http::{HeaderMap, StatusCode, header};
use kelson_api::stream::StreamId;
use kelson_api::{ExecCreateRequest, ExecStartRequest, IdResponse};
use kelson_core::{Attached, ExecStartOptions};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// docker-py reads the answer's head by way of a buffer, and output past that buffer: what comes along with the head is lost
/// to it. dockerd takes longer than this to start anything.
const HEAD_FIRST: Duration = Duration::from_millis(30);

fn reads_ahead(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
    agent.is_some_and(|agent| agent.starts_with("docker-sdk-python/"))
}

/// `POST /containers/{id}/exec`.
pub async fn create(mut call: Call) -> Result<Reply, ApiError> {
    let mut request: ExecCreateRequest = call.json().await?;
    if request.cmd.as_ref().is_none_or(|c| c.is_empty()) {
        return Err(ApiError::invalid("No exec command specified"));
    }
    if call.version < ApiVersion(42) {
        request.console_size = None;
    }
    let id = call
        .app
        .engine()
        .await?
        .exec_create(call.var("id"), request)
        .await?;
    json(StatusCode::CREATED, &IdResponse { id })
}

/// `POST /exec/{id}/start`. As in moby the connection is taken over first; what goes wrong after that is shown on it,
/// and the exit code (126, 127) is the exec's, where the CLI looks for it.
pub async fn start(mut call: Call) -> Result<Reply, ApiError> {
    let request: ExecStartRequest = call.json_or_default().await?;
    let engine = call.app.engine().await?;
    let id = call.var("id").to_owned();
    let options = ExecStartOptions {
        tty: request.tty,
        console_size: console_size(&request, call.version)?,
    };
    // Unknown ids answer 404 while that is still possible.
    let known = engine.exec_inspect(&id).await?;
    if known.exit_code.is_some() {
        return Err(ApiError::conflict(format!("exec command {id} has already run")));
    }
    if known.running {
        return Err(ApiError::conflict(format!(
            "exec command {id} is already running"
        )));
    }
    if request.detach {
        engine.exec_start_detached(&id, options).await?;
        return Ok(status(StatusCode::OK));
    }
    let tty = request.tty;
    let reads_ahead = reads_ahead(&call.headers);
    match call.hijack(tty) {
        Some((reply, io)) => {
            tokio::spawn(async move {
                let Some(mut io) = io.await else { return };
                if reads_ahead {
                    tokio::time::sleep(HEAD_FIRST).await;
                }
                match engine.exec_start(&id, options).await {
                    // As moby: how the output is framed is for the start to say.
                    Ok(attached) => relay::both_ways(io, Attached { tty, ..attached }).await,
                    Err(error) => {
                        let line = relay::engine_line(StreamId::Stdout, &error.to_string(), tty);
                        // A client that has left needs no explanation.
                        let _ = io.write_all(&line).await;
                        let _ = io.shutdown().await;
                    }
                }
            });
            Ok(reply)
        }
        None => {
            let attached = engine.exec_start(&id, options).await?;
            let (sender, body) = stream();
            tokio::spawn(relay::downward(attached.output, tty, sender));
            Ok(streaming(stream_type(call.version, tty), body))
        }
    }
}

fn console_size(request: &ExecStartRequest, version: ApiVersion) -> Result<Option<(u16, u16)>, ApiError> {
    let Some([height, width]) = request.console_size.filter(|_| version >= ApiVersion(42)) else {
        return Ok(None);
    };
    if !request.tty {
        return Err(ApiError::invalid(
            "console size is only supported when allocating a TTY",
        ));
    }
    match (u16::try_from(height), u16::try_from(width)) {
        (Ok(height), Ok(width)) => Ok(Some((height, width))),
        _ => Err(ApiError::invalid("console size does not fit a terminal")),
    }
}

/// `POST /exec/{id}/resize`.
pub async fn resize(call: Call) -> Result<Reply, ApiError> {
    let (height, width) = containers::window(&call)?;
    call.app
        .engine()
        .await?
        .exec_resize(call.var("id"), height, width)
        .await?;
    Ok(status(StatusCode::OK))
}

/// `GET /exec/{id}/json`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    json(
        StatusCode::OK,
        &call.app.engine().await?.exec_inspect(call.var("id")).await?,
    )
}
