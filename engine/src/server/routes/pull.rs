//! Image calls that stream: pull, push, import, load.
//!
//! The status line is not sent before the first line of progress: until then an error still has its own status, after
//! that it is a line of the stream, as in moby.

use super::images::repo_and_tag;
use crate::server::body::{Reply, Sender, stream, streaming};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use crate::server::upload::Upload;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use kelson_api::{AuthConfig, ProgressDetail, ProgressMessage};
use kelson_core::Engine;
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use kelson_images::{ImportOptions, Platform, Progress, PullOptions, PushOptions};
use tokio::sync::mpsc;

/// Lines of progress waiting for the client. Byte counts are dropped when half of it is taken, everything else has the
/// other half to itself: an image has at most 127 layers, and each layer some six lines that are not byte counts.
const PROGRESS_DEPTH: usize = 2048;

/// `POST /images/create`: pull, or import.
pub async fn create(call: Call) -> Result<Reply, ApiError> {
    if call.query.some("fromImage").is_some() {
        return pull(call).await;
    }
    import(call).await
}

fn platform(call: &Call) -> Result<Option<Platform>, ApiError> {
    match call.query.some("platform") {
        None => Ok(None),
        // Since 1.4x some clients send the JSON form.
        Some(text) if text.starts_with('{') => {
            let value: serde_json::Value = serde_json::from_str(text)
                .map_err(|e| ApiError::invalid(format!("invalid platform: {e}")))?;
            let part = |key: &str| value.get(key).and_then(|v| v.as_str()).filter(|v| !v.is_empty());
            let parts: Vec<&str> = [part("os"), part("architecture"), part("variant")]
                .into_iter()
                .flatten()
                .collect();
            Ok(Some(parts.join("/").parse()?))
        }
        Some(text) => Ok(Some(text.parse()?)),
    }
}

async fn pull(call: Call) -> Result<Reply, ApiError> {
    let reference = pull_reference(call.query.get("fromImage"), call.query.get("tag"))?;
    let options = PullOptions {
        auth: registry_auth(&call)?,
        platform: platform(&call)?,
    };
    let engine = call.app.engine().await?;
    follow(move |lines| async move {
        let pulled = engine
            .images()
            .pull(&reference, options, move |p| lines.progress(&p))
            .await?;
        let (name, familiar) = (reference.familiar_name(), reference.familiar());
        tracing::debug!(image = %pulled.image.id(), "pulled {familiar}");
        engine.image_event("pull", &familiar, &[("name", &name)]);
        Ok(Vec::new())
    })
    .await
}

/// `POST /images/{name}/push`: one tag, or without one all tags of the repository.
pub async fn push(call: Call) -> Result<Reply, ApiError> {
    let reference = push_reference(call.var("name"), call.query.get("tag"))?;
    let options = PushOptions {
        auth: registry_auth(&call)?,
        ..PushOptions::default()
    };
    let engine = call.app.engine().await?;
    follow(move |lines| async move {
        let pushed = engine
            .images()
            .push(&reference, options, move |p| lines.progress(&p))
            .await?;
        let name = reference.familiar_name();
        engine.image_event("push", &reference.familiar(), &[("name", &name)]);
        Ok(pushed.iter().map(pushed_line).collect())
    })
    .await
}

/// What programs read of a push; people have read the same in the line before.
fn pushed_line(pushed: &kelson_images::Pushed) -> ProgressMessage {
    ProgressMessage {
        progress_detail: Some(ProgressDetail::default()),
        aux: Some(serde_json::json!({
            "Tag": pushed.tag, "Digest": pushed.digest.to_string(), "Size": pushed.size,
        })),
        ..ProgressMessage::default()
    }
}

fn push_reference(name: &str, tag: &str) -> Result<Reference, ApiError> {
    let reference = Reference::parse(name)?;
    Ok(match tag {
        "" => reference,
        tag => reference.with_tag(tag)?,
    })
}

/// `tag` may be a digest. Without either, moby pulls all tags; its own CLI always sends one, and so we mean `latest`.
fn pull_reference(image: &str, tag: &str) -> Result<Reference, ApiError> {
    let reference = Reference::parse(image)?;
    Ok(match tag {
        "" => reference.with_default_tag(),
        digest if digest.contains(':') => reference.with_digest(digest)?,
        tag => reference.with_tag(tag)?,
    })
}

/// `X-Registry-Auth`: base64url of JSON, with or without padding. As in moby, what cannot be read means anonymous:
/// the registry will say so if that is not enough.
pub(super) fn registry_auth(call: &Call) -> Result<Option<Credential>, ApiError> {
    let Some(header) = call.headers.get("x-registry-auth") else {
        return Ok(None);
    };
    let text = header
        .to_str()
        .map_err(|_| ApiError::invalid("invalid X-Registry-Auth header: not ASCII"))?;
    Ok(decode_auth(text))
}

fn decode_auth(text: &str) -> Option<Credential> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let urlsafe = text.trim().replace('+', "-").replace('/', "_");
    let json = GeneralPurpose::new(&alphabet::URL_SAFE, lenient)
        .decode(urlsafe)
        .ok()?;
    let auth: AuthConfig = kelson_api::wire::from_slice(&json).ok()?;
    let given = Credential {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    };
    Some(given).filter(|c| *c != Credential::default())
}

async fn import(call: Call) -> Result<Reply, ApiError> {
    let source = call.query.get("fromSrc").to_owned();
    if source.is_empty() {
        return Err(ApiError::invalid("either fromImage or fromSrc must be given"));
    }
    let options = ImportOptions {
        reference: repo_and_tag(call.query.get("repo"), call.query.get("tag"))?,
        changes: call.query.values("changes").map(str::to_owned).collect(),
        message: call.query.get("message").to_owned(),
        platform: platform(&call)?,
    };
    let engine = call.app.engine().await?;
    let name = options.reference.as_ref().map(Reference::familiar);
    let upload = Upload::new(call.body);
    follow(move |lines| async move {
        let id = if source == "-" {
            engine.images().import(upload, options).await?
        } else {
            lines.line(format!("Downloading from {source}"));
            let on_bytes = move |current, total| {
                lines.progress(&Progress {
                    id: None,
                    status: "Importing".to_owned(),
                    current: Some(current),
                    total,
                });
            };
            engine.images().import_url(&source, options, on_bytes).await?
        };
        let id = id.to_string();
        engine.image_event("import", &id, &[("name", name.as_deref().unwrap_or(&id))]);
        Ok(vec![ProgressMessage::status(id)])
    })
    .await
}

/// `POST /images/load`.
pub async fn load(call: Call) -> Result<Reply, ApiError> {
    let quiet = call.query.flag("quiet");
    let engine = call.app.engine().await?;
    let upload = Upload::new(call.body);
    follow(move |lines| async move {
        let show = move |p: Progress| {
            // Lines without an id name the loaded images; those are written below, with docker's key for them.
            if !quiet && p.id.is_some() {
                lines.progress(&p);
            }
        };
        // As moby: what is wrong with an archive is told in the stream, never by the status.
        Ok(match engine.images().load(upload, show).await {
            Ok(loaded) => loaded.iter().flat_map(|one| loaded_lines(&engine, one)).collect(),
            Err(e) => vec![ProgressMessage::failed(e.to_string())],
        })
    })
    .await
}

fn loaded_lines(engine: &Engine, loaded: &kelson_images::Loaded) -> Vec<ProgressMessage> {
    let id = loaded.id.to_string();
    let line = |text: String| ProgressMessage {
        stream: text,
        ..ProgressMessage::default()
    };
    let names: Vec<String> = loaded.references.iter().map(Reference::familiar).collect();
    engine.image_event("load", &id, &[("name", names.first().unwrap_or(&id))]);
    if names.is_empty() {
        return vec![line(format!("Loaded image ID: {id}\n"))];
    }
    names
        .into_iter()
        .map(|name| line(format!("Loaded image: {name}\n")))
        .collect()
}

/// Where a running operation puts its progress; never waits.
#[derive(Debug, Clone)]
struct Lines(mpsc::Sender<ProgressMessage>);

impl Lines {
    fn line(&self, text: String) {
        // As below.
        let _ = self.0.try_send(ProgressMessage::status(text));
    }

    fn progress(&self, p: &Progress) {
        if p.current.is_some() && self.0.capacity() < PROGRESS_DEPTH / 2 {
            return;
        }
        let count = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok()).unwrap_or_default();
        let detail = (p.id.is_some() || p.current.is_some()).then(|| ProgressDetail {
            current: count(p.current),
            total: count(p.total),
        });
        let line = ProgressMessage {
            status: p.status.clone(),
            id: p.id.clone().unwrap_or_default(),
            progress_detail: detail,
            ..ProgressMessage::default()
        };
        // The client is gone (the operation is cancelled elsewhere), or slow beyond all measure.
        let _ = self.0.try_send(line);
    }
}

/// Runs an operation and streams its lines. The operation is dropped, which cancels it, when the client leaves.
async fn follow<F, O>(start: F) -> Result<Reply, ApiError>
where
    F: FnOnce(Lines) -> O,
    O: Future<Output = Result<Vec<ProgressMessage>, ApiError>> + Send + 'static,
{
    let (lines, mut progress) = mpsc::channel(PROGRESS_DEPTH);
    let mut work = Box::pin(start(Lines(lines)));
    let first = tokio::select! {
        biased;
        Some(line) = progress.recv() => Some(line),
        done = &mut work => return finished(done, progress).await,
    };
    let (sender, body) = stream();
    tokio::spawn(async move {
        let mut pending = first;
        loop {
            if let Some(line) = pending.take()
                && sender.line(&line, "\r\n").await.is_err()
            {
                return;
            }
            tokio::select! {
                biased;
                Some(line) = progress.recv() => pending = Some(line),
                done = &mut work => {
                    let rest = done.unwrap_or_else(|e| vec![ProgressMessage::failed(e.message)]);
                    return drain(&mut progress, rest, &sender).await;
                }
                () = sender.closed() => return,
            }
        }
    });
    Ok(streaming("application/json", body))
}

/// The operation ended without a line, or with lines that came at the very end.
async fn finished(
    done: Result<Vec<ProgressMessage>, ApiError>,
    mut progress: mpsc::Receiver<ProgressMessage>,
) -> Result<Reply, ApiError> {
    let rest = done?;
    let (sender, body) = stream();
    tokio::spawn(async move { drain(&mut progress, rest, &sender).await });
    Ok(streaming("application/json", body))
}

async fn drain(progress: &mut mpsc::Receiver<ProgressMessage>, rest: Vec<ProgressMessage>, to: &Sender) {
    while let Ok(line) = progress.try_recv() {
        if to.line(&line, "\r\n").await.is_err() {
            return;
        }
    }
    for line in &rest {
        if to.line(line, "\r\n").await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let show = |image, tag| pull_reference(image, tag).unwrap().to_string();
        assert_eq!(show("busybox", ""), "docker.io/library/busybox:latest");
        assert_eq!(show("busybox:1", ""), "docker.io/library/busybox:1");
        assert_eq!(show("h:5000/a", "2"), "h:5000/a:2");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert!(show("a", &digest).ends_with(&format!("@{digest}")));
        assert!(pull_reference("UPPER", "").is_err());
    }

    #[test]
    fn auth_headers() {
        let encode = |json: &str| base64::engine::general_purpose::URL_SAFE.encode(json);
        let auth = decode_auth(&encode(
            r#"{"username":"u","password":"p?>","serveraddress":"x"}"#,
        ))
        .unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p?>"));
        assert_eq!(decode_auth(&encode("{}")), None);
        assert_eq!(
            decode_auth(&encode(r#"{"username":"ü"}"#).replace('=', ""))
                .unwrap()
                .username,
            "ü"
        );
        assert_eq!(decode_auth("garbage!"), None);
    }

    #[tokio::test]
    async fn an_error_before_the_first_line_keeps_its_status() {
        let early = follow(|_lines| async { Err(ApiError::not_found("pull access denied")) }).await;
        assert_eq!(early.unwrap_err().status, http::StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn an_error_after_the_first_line_is_a_line() {
        use http_body_util::BodyExt;
        let reply = follow(|lines| async move {
            lines.progress(&Progress {
                id: Some("x".into()),
                status: "Downloading".into(),
                current: Some(1),
                total: Some(2),
            });
            tokio::task::yield_now().await;
            Err(ApiError::internal("broken"))
        });
        let body = reply
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert_eq!(
            lines,
            [
                r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"x"}"#,
                r#"{"errorDetail":{"message":"broken"},"error":"broken"}"#
            ]
        );
    }
}
