//! The API as such: ping, version, info, versions of paths, errors.

use anyhow::ensure;
use serde_json::json;

use super::{contains, refused};
use crate::case::{Case, engine_case as case};
use crate::engine::dock::CALL_LIMIT;
use crate::engine::http::Incoming;
use crate::engine::{Dock, Request};
use crate::lab::check;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "engine/system/ping",
            "ping answers OK with the version of the API in a header, to GET and to HEAD",
            &["engine#api/SystemPing", "engine#api/SystemPingHead"],
            |dock| {
                let answer = dock.get("/_ping")?.expect(200)?;
                check("the body", &json!(answer.text()), "OK")?;
                check("Ostype", &json!(answer.header("ostype")), "linux")?;
                ensure!(answer.header("api-version").is_some(), "no Api-Version");
                let head = dock.open(&Request::new("HEAD", "/_ping"), CALL_LIMIT)?;
                check("status of HEAD", &json!(head.status), 200)?;
                ensure!(head.header("api-version").is_some(), "no Api-Version for HEAD");
                Ok(())
            },
        ),
        case(
            "engine/system/version",
            "version tells the engine's, the API's newest and oldest, the kernel's and the platform",
            &["engine#api/SystemVersion"],
            |dock| {
                let answer = dock.json("/version")?;
                for name in [
                    "Version",
                    "ApiVersion",
                    "MinAPIVersion",
                    "KernelVersion",
                    "Os",
                    "Arch",
                ] {
                    ensure!(
                        answer[name].as_str().is_some_and(|text| !text.is_empty()),
                        "{name} is {}",
                        answer[name]
                    );
                }
                check("Os", &answer["Os"], "linux")
            },
        ),
        case(
            "engine/system/info",
            "info follows the API's description, and counts containers by state",
            &["engine#A1/7", "engine#api/SystemInfo"],
            |dock| {
                let _running = dock.probe(&["stay"])?;
                let info = dock.json("/info")?;
                let count = |name: &str| info[name].as_i64().unwrap_or(-1);
                let sum = count("ContainersRunning") + count("ContainersPaused") + count("ContainersStopped");
                ensure!(
                    count("Containers") == sum && count("ContainersRunning") >= 1,
                    "{} containers, of {sum}",
                    count("Containers")
                );
                ensure!(
                    count("NCPU") > 0 && count("MemTotal") > 0,
                    "NCPU {}, MemTotal {}",
                    count("NCPU"),
                    count("MemTotal")
                );
                Ok(())
            },
        ),
        case(
            "engine/system/without-a-version",
            "a path without a version is served",
            &["engine#api/SystemPing", "engine#api/ContainerList"],
            |dock| {
                let answer = plain(dock, "GET", "/containers/json?limit=1")?.whole()?;
                answer.expect(200).map(drop)
            },
        ),
        case(
            "engine/system/version-too-new",
            "a version that the engine does not have yet is 400, and the message names the newest",
            &["engine#api/SystemVersion"],
            |dock| {
                let message = refused(plain(dock, "GET", "/v9.99/containers/json")?.whole()?, 400)?;
                contains("the message", &message, "9.99")
            },
        ),
        case(
            "engine/system/no-such-path",
            "a path that does not exist is 404 with a message in JSON",
            &["engine#api/SystemPing"],
            |dock| {
                for path in ["/nothing", "/containers", "/containers/a/b/c"] {
                    let answer = dock.open(&Request::new("GET", path), CALL_LIMIT)?.whole()?;
                    refused(answer, 404)?;
                }
                Ok(())
            },
        ),
        case(
            "engine/system/no-such-method",
            "a method that a path does not have is refused",
            &["engine#api/SystemPing"],
            |dock| {
                let answer = dock
                    .open(&Request::new("PUT", "/containers/json"), CALL_LIMIT)?
                    .whole()?;
                ensure!(matches!(answer.status, 404 | 405), "status {}", answer.status);
                Ok(())
            },
        ),
        case(
            "engine/system/oldest-version",
            "the oldest version that the engine names is served",
            &["engine#api/SystemVersion"],
            |dock| {
                let oldest = dock.json("/version")?["MinAPIVersion"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                let answer = plain(dock, "GET", &format!("/v{oldest}/containers/json?limit=1"))?.whole()?;
                answer.expect(200).map(drop)
            },
        ),
        case(
            "engine/system/broken-requests",
            "requests that are no HTTP are answered or closed, and the engine serves the next one",
            &["engine#api/SystemPing"],
            |dock| {
                use std::io::{Read, Write};
                for bytes in [
                    b"\0\x01\x02\r\n\r\n".as_slice(),
                    b"GET\r\n\r\n",
                    b"POST /containers/create HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                ] {
                    let mut connection = dock.subject.address.connect(CALL_LIMIT)?;
                    connection.write_all(bytes)?;
                    connection.end_writing()?;
                    let mut answer = Vec::new();
                    // A connection that is cut is an answer, too.
                    (&mut connection).take(1 << 16).read_to_end(&mut answer).ok();
                    ensure!(
                        answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
                        "it says {:?}",
                        String::from_utf8_lossy(&answer)
                    );
                }
                dock.get("/_ping")?.expect(200).map(drop)
            },
        ),
    ]
}

/// A request whose path is taken as it is.
fn plain(dock: &Dock<'_>, method: &str, target: &str) -> anyhow::Result<Incoming> {
    Request::new(method, target).send(&dock.subject.address, CALL_LIMIT)
}
