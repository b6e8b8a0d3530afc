//! `--metrics-addr`: figures for Prometheus at `/metrics`, by dockerd's names where it has them.
//!
//! Everything is looked up when it is asked for, but for one counter of requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kelson_api::SystemInfo;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpStream;

use crate::server::App;

/// The text format of Prometheus's successor, which Prometheus asks for first.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers of the API by the first digit of their status, 1 to 5.
static ANSWERS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// Counts an answer of the API.
pub fn answered(status: StatusCode) {
    if let Some(count) = ANSWERS.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves one connection.
pub async fn serve(app: Arc<App>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(answer(&app, &request).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection for metrics ended");
    }
}

async fn answer(app: &App, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match figures(app).await {
            Ok(text) => (StatusCode::OK, text),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => (StatusCode::NOT_FOUND, "the figures are at /metrics\n".to_owned()),
    };
    let kind = match status {
        StatusCode::OK => TEXT,
        _ => "text/plain; charset=utf-8",
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn figures(app: &App) -> Result<String, String> {
    let engine = app.engine().await.map_err(|error| error.message)?;
    let info = engine.info().await.map_err(|error| error.to_string())?;
    let mut registry = Registry::default();
    of_engine(&mut registry, &info);
    let answers = Family::<[(&str, &str); 1], prometheus_client::metrics::counter::Counter>::default();
    for (count, class) in ANSWERS.iter().zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
        answers
            .get_or_create(&[("status", class)])
            .inc_by(count.load(Ordering::Relaxed));
    }
    registry.register(
        "kelson_api_answers",
        "Answers of the API by the class of their status",
        answers,
    );
    registry.register_collector(Box::new(Own));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).map_err(|error| error.to_string())?;
    Ok(text)
}

fn of_engine(registry: &mut Registry, info: &SystemInfo) {
    let about = Info::new([
        ("architecture", info.architecture.clone()),
        ("daemon_id", info.id.clone()),
        ("graphdriver", info.driver.clone()),
        ("kernel", info.kernel_version.clone()),
        ("os", info.operating_system.clone()),
        ("os_type", info.os_type.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    registry.register("engine_daemon_engine", "The engine and where it runs", about);
    let states = Family::<[(&str, &str); 1], Gauge>::default();
    for (state, count) in [
        ("running", info.containers_running),
        ("paused", info.containers_paused),
        ("stopped", info.containers_stopped),
    ] {
        states.get_or_create(&[("state", state)]).set(count);
    }
    registry.register(
        "engine_daemon_container_states_containers",
        "Containers in each state",
        states,
    );
    for (name, help, value) in [
        (
            "engine_daemon_engine_cpus_cpus",
            "Processors of the host",
            info.ncpu,
        ),
        (
            "engine_daemon_engine_memory_bytes",
            "Memory of the host",
            info.mem_total,
        ),
        ("engine_daemon_images", "Images in the store", info.images),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}

/// kelsond itself, by the names that all clients of Prometheus give to a process's figures.
#[derive(Debug)]
struct Own;

impl Collector for Own {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some((stat, files)) = procfs::process::Process::myself()
            .and_then(|own| Ok((own.stat()?, own.fd_count()?)))
            .ok()
        else {
            // Without /proc there are no such figures.
            return Ok(());
        };
        let ticks = Duration::from_secs(stat.utime + stat.stime).as_secs_f64();
        let cpu = ConstCounter::new(ticks / procfs::ticks_per_second() as f64);
        let metric = encoder.encode_descriptor(
            "process_cpu",
            "CPU time of kelsond",
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?;
        cpu.encode(metric)?;
        let resident = i64::try_from(stat.rss * procfs::page_size()).unwrap_or(i64::MAX);
        for (name, help, unit, value) in [
            (
                "process_resident_memory",
                "Resident memory of kelsond",
                Some(&Unit::Bytes),
                resident,
            ),
            (
                "process_open_fds",
                "Open files of kelsond",
                None,
                i64::try_from(files).unwrap_or(i64::MAX),
            ),
            ("process_threads", "Threads of kelsond", None, stat.num_threads),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
