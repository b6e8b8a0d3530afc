//! `GET /containers/{id}/attach/ws`: attach for browsers. Output comes in binary messages, raw and of both streams alike;
//! what the client sends, text or binary, is input.

use super::containers;
use crate::server::body::{Body, Reply};
use crate::server::call::{Call, Raw, taken_over};
use crate::server::errors::ApiError;
use crate::server::versions::ApiVersion;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use kelson_core::Attached;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

/// Largest message taken from a client; longer input comes in several.
const MAX_MESSAGE: usize = 1 << 20;

/// `GET /containers/{id}/attach/ws`.
pub async fn attach(mut call: Call) -> Result<Reply, ApiError> {
    let key = key(&call.headers)?;
    let options = containers::attach_options(&call);
    let engine = call.app.engine().await?;
    let attached = engine.container_attach(call.var("id"), options).await?;
    let Some(upgrade) = call.upgrade.take() else {
        return Err(ApiError::invalid("this connection cannot become a websocket"));
    };
    // moby: text until 1.27.
    let text = call.version < ApiVersion(28);
    let io = taken_over(upgrade);
    tokio::spawn(async move {
        if let Some(io) = io.await {
            both_ways(io, attached, text).await;
        }
    });
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    Ok(reply)
}

/// The answer to the client's key.
fn key(headers: &HeaderMap) -> Result<HeaderValue, ApiError> {
    let has = |name: header::HeaderName, wanted: &str| {
        headers.get_all(name).iter().any(|value| {
            let words = value.to_str().unwrap_or_default().split(',');
            words.into_iter().any(|w| w.trim().eq_ignore_ascii_case(wanted))
        })
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(ApiError::invalid("not websocket protocol"));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(ApiError::invalid("missing or bad WebSocket Version"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| ApiError::invalid("mismatch challenge/response: no Sec-WebSocket-Key"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|e| ApiError::internal(format!("answer a websocket's key: {e}")))
}

async fn both_ways(io: Raw, attached: Attached, text: bool) {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
    let (mut to_client, mut from_client) = socket.split();
    let Attached {
        mut output,
        mut input,
        ..
    } = attached;
    let upward = async {
        while let Some(Ok(message)) = from_client.next().await {
            let data = match message {
                Message::Close(_) => break,
                Message::Binary(_) | Message::Text(_) => message.into_data(),
                _ => continue,
            };
            if input.write_all(&data).await.is_err() {
                // Without input, a ping and a goodbye are still to be heard.
                continue;
            }
        }
        // A websocket has no half close: whoever leaves, leaves.
        let _ = input.shutdown().await;
    };
    let downward = async {
        while let Some(piece) = output.next().await {
            let data = match piece {
                Ok(frame) => frame.data,
                Err(error) => format!("{error}\r\n").into(),
            };
            let message = if text {
                Message::text(String::from_utf8_lossy(&data).into_owned())
            } else {
                Message::binary(data)
            };
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        // A client that has left needs no goodbye.
        let _ = to_client.close().await;
    };
    tokio::select! {
        () = downward => {}
        () = upward => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn handshakes() {
        // The example of RFC 6455.
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert_eq!(key(&headers(&good)).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for missing in 0..good.len() {
            let mut some = good.to_vec();
            some.remove(missing);
            let error = key(&headers(&some)).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{:?}", good[missing]);
        }
    }
}
