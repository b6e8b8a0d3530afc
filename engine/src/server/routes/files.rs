//! A container's files: `archive` (`docker cp`), `export` and `changes` (`docker diff`).

use super::save::{PIPE, pump};
use crate::server::body::{Reply, json, status, stream, streaming};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use crate::server::upload::Upload;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use kelson_core::{ExtractArchive, TarSource};
use kelson_images::{ChangeKind, PathStat};
use serde_json::{Value, json as object};
use std::io;
use std::path::PathBuf;
use tokio_util::io::SyncIoBridge;

const STAT_HEADER: &str = "x-docker-container-path-stat";

fn path(call: &Call) -> Result<PathBuf, ApiError> {
    match call.query.get("path") {
        "" => Err(ApiError::invalid("missing parameter: path")),
        path => Ok(PathBuf::from(path)),
    }
}

/// `HEAD /containers/{id}/archive`: what is at a path, in a header.
pub async fn look(call: Call) -> Result<Reply, ApiError> {
    let path = path(&call)?;
    let engine = call.app.engine().await?;
    let stat = engine.container_path_stat(call.var("id"), &path).await?;
    let mut reply = status(StatusCode::OK);
    reply.headers_mut().insert(STAT_HEADER, stat_header(&stat)?);
    Ok(reply)
}

/// `GET /containers/{id}/archive`: a tar of what is at a path.
pub async fn archive(call: Call) -> Result<Reply, ApiError> {
    let path = path(&call)?;
    let engine = call.app.engine().await?;
    let (stat, tar) = engine.container_archive(call.var("id"), &path).await?;
    let mut reply = send(tar, "application/x-tar");
    reply.headers_mut().insert(STAT_HEADER, stat_header(&stat)?);
    Ok(reply)
}

/// `GET /containers/{id}/export`.
pub async fn export(call: Call) -> Result<Reply, ApiError> {
    let tar = call.app.engine().await?.container_export(call.var("id")).await?;
    Ok(send(tar, "application/octet-stream"))
}

/// Streams a tar. What goes wrong now can only break the body off.
fn send(tar: TarSource, media_type: &'static str) -> Reply {
    let (writer, reader) = tokio::io::duplex(PIPE);
    let (sender, body) = stream();
    tokio::spawn(async move {
        let written = tokio::task::spawn_blocking(move || {
            // Dropping the bridge, at the end, tells the pump that all has been written.
            tar.write(&mut SyncIoBridge::new(writer))
        });
        let (written, sent) = tokio::join!(written, pump(reader, &sender));
        match (written, sent) {
            (Ok(Ok(())), Ok(())) => {}
            (Ok(Err(error)), _) => {
                tracing::error!("archive of a container: {error}");
                sender.abort(io::Error::other(error)).await;
            }
            (Err(error), _) => sender.abort(io::Error::other(error)).await,
            (Ok(Ok(())), Err(error)) => sender.abort(error).await,
        }
    });
    streaming(media_type, body)
}

/// `PUT /containers/{id}/archive`: extracts the body.
pub async fn extract(call: Call) -> Result<Reply, ApiError> {
    let path = path(&call)?;
    let how = ExtractArchive {
        keep_kinds: call.query.flag("noOverwriteDirNonDir"),
        as_user: call.query.flag("copyUIDGID"),
    };
    let engine = call.app.engine().await?;
    let name = call.var("id").to_owned();
    let input = SyncIoBridge::new(Upload::new(call.body));
    engine.container_extract(&name, &path, input, how).await?;
    Ok(status(StatusCode::OK))
}

/// `GET /containers/{id}/changes`; `null` when there is none, as Go writes an empty list it never made.
pub async fn changes(call: Call) -> Result<Reply, ApiError> {
    let changes = call.app.engine().await?.container_changes(call.var("id")).await?;
    let list: Vec<Value> = changes
        .iter()
        .map(|change| {
            let kind = match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            };
            object!({"Path": change.path.to_string_lossy(), "Kind": kind})
        })
        .collect();
    json(StatusCode::OK, &(!list.is_empty()).then_some(list))
}

fn stat_header(stat: &PathStat) -> Result<HeaderValue, ApiError> {
    let mtime = Timestamp::new(stat.mtime.0, i32::try_from(stat.mtime.1).unwrap_or(0));
    let value = object!({
        "name": stat.name,
        "size": stat.size,
        "mode": go_mode(stat.mode),
        "mtime": mtime.unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        "linkTarget": stat.link_target.as_ref().map(|t| t.to_string_lossy()).unwrap_or_default(),
    });
    HeaderValue::from_str(&STANDARD.encode(value.to_string()))
        .map_err(|e| ApiError::internal(format!("describe a path: {e}")))
}

/// `st_mode` as Go's `os.FileMode`: permissions below, and a bit for each kind from the top.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0);
    special.fold(kind | mode & 0o777, |all, (_, bit)| all | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_go_counts_them() {
        // From Go's documentation of io/fs.FileMode.
        for (mode, want) in [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_01ed),
            (0o120_777, 0x0800_01ff),
            (0o020_666, 0x0420_01b6),
            (0o104_755, 0x0080_01ed),
            (0o041_777, 0x8010_01ff),
        ] {
            assert_eq!(go_mode(mode), want, "{mode:o}");
        }
    }
}
