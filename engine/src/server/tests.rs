//! The server without an engine, over a real socket: what is answered before any container exists.

use super::*;
use crate::config::{Flags, resolve};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// Sends raw bytes, returns all that comes back until the server closes.
async fn talk(request: &str) -> String {
    let flags = Flags::default();
    // The sender is dropped: a request that needs the engine is told so at once instead of waiting.
    let (_, engine) = watch::channel(None);
    let app = Arc::new(App::new(resolve(&flags, None).unwrap(), engine));
    let (mut client, server) = UnixStream::pair().unwrap();
    tokio::spawn(serve(app, Socket::Unix(server), None));
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = client.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(target: &str) -> String {
    talk(&format!(
        "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    ))
    .await
}

fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn ping_needs_no_engine_and_carries_what_clients_negotiate_by() {
    let answer = get("/_ping").await;
    assert_eq!(status_of(&answer), 200);
    assert!(answer.ends_with("\r\n\r\nOK"), "{answer}");
    for header in [
        "api-version: 1.51",
        "ostype: linux",
        "docker-experimental: false",
        "swarm: inactive",
        "server: Kelson/",
    ] {
        assert!(answer.contains(header), "{header} in {answer}");
    }
    let head = talk("HEAD /v1.24/_ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(
        head.contains("api-version: 1.51") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn unknown_paths_methods_and_versions() {
    for target in ["/nope", "/v1.40/nope", "/containers/x", "/v1.40"] {
        let answer = get(target).await;
        assert_eq!(status_of(&answer), 404, "{target}");
        assert!(answer.ends_with("{\"message\":\"page not found\"}\n"), "{answer}");
    }
    assert_eq!(status_of(&get("/v1.99/info").await), 400);
    assert_eq!(status_of(&get("/v1.1/info").await), 400);
    let put = talk("PUT /info HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(status_of(&put), 404);
    let prune = talk(
        "POST /v1.24/containers/prune HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    );
    assert_eq!(status_of(&prune.await), 400);
}

#[tokio::test]
async fn what_is_not_done_says_so() {
    assert_eq!(status_of(&get("/containers/x/checkpoints").await), 501);
    let swarm = get("/nodes").await;
    assert_eq!(status_of(&swarm), 503);
    assert!(swarm.contains("This node is not a swarm manager."), "{swarm}");
    assert!(get("/plugins").await.ends_with("[]\n"));
    let plugin = get("/plugins/nosuch/json").await;
    assert_eq!(status_of(&plugin), 404);
    assert!(plugin.contains("nosuch"), "{plugin}");
}

#[tokio::test]
async fn without_an_engine_requests_are_told_so() {
    assert_eq!(status_of(&get("/containers/json").await), 503);
    assert_eq!(status_of(&get("/containers/json?filters=x").await), 400);
}

#[tokio::test]
async fn bodies_are_checked_before_anything_happens() {
    let post = |kind: &str, body: &str| {
        let len = body.len();
        let text = format!(
            "POST /containers/create HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{kind}content-length: {len}\r\n\r\n{body}"
        );
        async move { talk(&text).await }
    };
    let json = "content-type: application/json\r\n";
    for (kind, body, message) in [
        ("", "{}", "malformed Content-Type header"),
        (
            "content-type: text/plain\r\n",
            "{}",
            "unsupported Content-Type header",
        ),
        (json, "", "got EOF while reading request body"),
        (json, "{", "invalid JSON"),
        (json, "{\"Image\":5}", "invalid JSON"),
        (
            json,
            "{}",
            "config cannot be empty in order to create a container",
        ),
    ] {
        let answer = post(kind, body).await;
        assert_eq!(status_of(&answer), 400, "{body}");
        assert!(answer.contains(message), "{message} in {answer}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let filler = "x".repeat(call::MAX_JSON_BODY + 1);
    let flags = Flags::default();
    let (_, engine) = watch::channel(None);
    let app = Arc::new(App::new(resolve(&flags, None).unwrap(), engine));
    let (mut client, server) = UnixStream::pair().unwrap();
    tokio::spawn(serve(app, Socket::Unix(server), None));
    let head = format!(
        "POST /containers/create HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        filler.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = client.write_all(filler.as_bytes()).await;
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[tokio::test]
async fn an_error_of_a_raw_hijack_is_an_ordinary_answer() {
    let answer =
        talk("POST /containers/x/attach?stream=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status_of(&answer), 503);
    assert!(answer.contains("{\"message\":"), "{answer}");
}
