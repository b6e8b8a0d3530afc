//! Ping, version, info, events, disk usage.

use super::{images, times};
use crate::server::body::{Body, Reply, json, stream, streaming};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use crate::server::versions::{ApiVersion, MAX, MIN};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use kelson_api::{ComponentVersion, Map, Platform, Version};
use kelson_core::EventOptions;

/// `GET|HEAD /_ping`: never waits for the engine; it is how clients find out who we are.
pub async fn ping(_call: Call) -> Result<Reply, ApiError> {
    let mut reply = Response::new(Body::from(Bytes::from_static(b"OK")));
    let headers = reply.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    Ok(reply)
}

/// `GET /version`.
pub async fn version(_call: Call) -> Result<Reply, ApiError> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let arch = go_arch().to_owned();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned();
    let details = Map::from([
        ("ApiVersion".to_owned(), MAX.to_string()),
        ("MinAPIVersion".to_owned(), MIN.to_string()),
        ("Os".to_owned(), "linux".to_owned()),
        ("Arch".to_owned(), arch.clone()),
        ("KernelVersion".to_owned(), kernel.clone()),
        ("Experimental".to_owned(), "false".to_owned()),
    ]);
    let engine = ComponentVersion {
        name: "Engine".to_owned(),
        version: version.clone(),
        details: Some(details),
    };
    json(
        StatusCode::OK,
        &Version {
            platform: Some(Platform {
                name: "Kelson Engine".to_owned(),
            }),
            components: Some(vec![engine]),
            version,
            api_version: MAX.to_string(),
            min_api_version: MIN.to_string(),
            os: "linux".to_owned(),
            arch,
            kernel_version: kernel,
            ..Version::default()
        },
    )
}

/// This machine's architecture in Go's words.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// `GET /info`: core's facts and the server's own.
pub async fn info(call: Call) -> Result<Reply, ApiError> {
    let mut info = call.app.engine().await?.info().await?;
    info.server_version = env!("CARGO_PKG_VERSION").to_owned();
    info.debug = call.app.debug.load(std::sync::atomic::Ordering::Relaxed);
    info.n_fd = std::fs::read_dir("/proc/self/fd").map_or(-1, |dir| i64::try_from(dir.count()).unwrap_or(-1));
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    info.n_goroutines = i64::try_from(tasks).unwrap_or(-1);
    info.index_server_address = "https://index.docker.io/v1/".to_owned();
    let proxies = &call.app.settings.proxies;
    info.http_proxy = without_password(&proxies.http);
    info.https_proxy = without_password(&proxies.https);
    info.no_proxy.clone_from(&proxies.no);
    json(StatusCode::OK, &info)
}

/// A proxy's URL may hold a password, and `info` is pasted into bug reports.
fn without_password(url: &str) -> String {
    match url
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)))
    {
        Some((scheme, host)) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => url.to_owned(),
    }
}

/// `GET /events`: one JSON value a line, until the client leaves or `until` is reached.
pub async fn events(call: Call) -> Result<Reply, ApiError> {
    let options = EventOptions {
        since: times::parse(call.query.get("since"))?,
        until: times::parse(call.query.get("until"))?,
        filters: call.query.filters()?,
    };
    if let (Some(since), Some(until)) = (options.since, options.until)
        && since > until
    {
        return Err(ApiError::invalid("`since` time cannot be after `until` time"));
    }
    let mut events = call.app.engine().await?.events(options)?;
    let (sender, body) = stream();
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
            };
            let Some(event) = event else { return };
            if sender.line(&event, "\n").await.is_err() {
                return;
            }
        }
    });
    Ok(streaming("application/json", body))
}

/// `GET /system/df`.
pub async fn disk_usage(call: Call) -> Result<Reply, ApiError> {
    const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];
    let types: Vec<&str> = match call.version >= ApiVersion(42) {
        true => call.query.values("type").collect(),
        false => Vec::new(),
    };
    if let Some(unknown) = types.iter().find(|name| !TYPES.contains(name)) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let shown = |name: &str| types.is_empty() || types.contains(&name);
    let engine = call.app.engine().await?;
    let mut usage = engine.disk_usage(shown("container"), shown("volume")).await?;
    if shown("image") {
        let (using, shared) = (engine.image_uses(), engine.images().shared_sizes());
        let images = engine.images().list();
        let images = images.iter().map(|image| {
            let count = using.get(&image.id().to_string()).copied().unwrap_or_default();
            kelson_api::ImageSummary {
                containers: i64::try_from(count).unwrap_or(i64::MAX),
                shared_size: shared
                    .get(image.id())
                    .map_or(0, |bytes| i64::try_from(*bytes).unwrap_or(i64::MAX)),
                ..images::summary(image, call.version)
            }
        });
        usage.images = Some(images.collect());
    } else {
        usage.layers_size = 0;
    }
    usage.build_cache = shown("build-cache").then(Vec::new);
    json(StatusCode::OK, &usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        assert_eq!(
            without_password("http://u:p@proxy:3128"),
            "http://xxxxx:xxxxx@proxy:3128"
        );
        assert_eq!(without_password("http://proxy:3128"), "http://proxy:3128");
        assert_eq!(without_password(""), "");
    }
}
