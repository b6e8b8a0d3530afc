//! The daemon's life: configure, listen, open the engine, serve, end.
//!
//! Sockets are bound before the engine opens: whoever can connect is heard, and a request that needs the engine waits
//! for it. At the end only connections end; containers belong to their shims (docs/decisions/001).

use crate::config::{Flags, LogFormat, Settings, resolve};
use crate::server::listen::Socket;
use crate::server::sockets::{Listener, bind};
use crate::server::tls::Acceptor;
use crate::server::{self, App};
use crate::service::{self, notify};
use crate::{metrics, wiring};
use anyhow::{Context, bail};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::{EnvFilter, reload};

/// Where `daemon.json` is looked for.
const CONFIG_FILE: &str = "/etc/kelson/daemon.json";

/// Two cores' worth: the work of a request is in the kernel, the shims and the disk.
const WORKERS: usize = 2;

/// The deepest handlers (spec generation) were measured far below this.
const STACK: usize = 1 << 20;

/// malloc arenas. More threads than that rarely allocate at the same moment, and each arena keeps its own slack.
const ARENAS: i32 = 2;

/// How long requests in flight may go on after a signal to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Pause after an accept that failed for want of descriptors, so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    let settings = configure(flags)?;
    if flags.validate {
        writeln!(std::io::stdout(), "configuration OK")?;
        return Ok(());
    }
    let level = start_log(&settings);
    if !kelson_sys::malloc::limit_arenas(ARENAS) {
        tracing::debug!("this C library's allocator has no limit of arenas");
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let _pidfile = settings.pidfile.as_deref().map(PidFile::write).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_stack_size(STACK)
        .thread_name("kelsond")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(live(flags, settings, level));
    // Blocking calls that hang in the kernel must not keep the daemon from ending.
    runtime.shutdown_timeout(DRAIN);
    ended
}

fn configure(flags: &Flags) -> anyhow::Result<Settings> {
    let path = flags
        .config_file
        .clone()
        .unwrap_or_else(|| PathBuf::from(CONFIG_FILE));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        // Only the default file may be missing.
        Err(e) if e.kind() == ErrorKind::NotFound && flags.config_file.is_none() => None,
        Err(e) => {
            return Err(e)
                .with_context(|| format!("unable to configure the daemon with file {}", path.display()));
        }
    };
    resolve(flags, text.as_deref()).with_context(|| match text {
        Some(_) => format!("configuration with file {}", path.display()),
        None => "configuration".to_owned(),
    })
}

/// Changes the level of the log while kelsond runs, unless RUST_LOG has the say.
type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send>;

fn start_log(settings: &Settings) -> SetLevel {
    // RUST_LOG refines what --log-level says.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&settings.log_level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    // A second logger in one process only happens in tests.
    match settings.log_format {
        LogFormat::Text => {
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            let _ = log.try_init();
            set_level(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let handle = log.reload_handle();
            let _ = log.try_init();
            set_level(move |filter| handle.reload(filter))
        }
    }
}

fn set_level(reload: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + 'static) -> SetLevel {
    Box::new(move |level| {
        if std::env::var_os(EnvFilter::DEFAULT_ENV).is_some() {
            return Ok(());
        }
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        reload(filter).map_err(|error| error.to_string())
    })
}

async fn live(flags: &Flags, settings: Settings, set_level: SetLevel) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let tls = settings.tls.as_ref().map(Acceptor::new).transpose()?;
    let listeners = listen(&settings).await?;
    let figures = match &settings.metrics {
        Some(address) => bind(address, None).await.map_err(anyhow::Error::msg)?,
        None => Vec::new(),
    };
    let config = wiring::engine_config(&settings)?;
    let (opened, engine) = watch::channel(None);
    let app = Arc::new(App::new(settings, engine));
    let mut servers = Vec::new();
    for listener in listeners {
        servers.push(tokio::spawn(accept(Arc::clone(&app), listener, tls.clone())));
    }
    for listener in figures {
        if let Some(at) = listener.address() {
            tracing::info!("metrics at http://{at}/metrics");
        }
        servers.push(tokio::spawn(accept_for_metrics(Arc::clone(&app), listener)));
    }
    notify("READY=1");
    let mut starting = tokio::spawn(wiring::open(config, opened));
    tokio::spawn(feed_watchdog());
    let reloading = async {
        while hangup.recv().await.is_some() {
            reload_configuration(flags, &app, &set_level);
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        () = reloading => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        failed = async {
            match (&mut starting).await {
                // Started: from here on only a signal ends the daemon.
                Ok(Ok(())) => std::future::pending().await,
                Ok(Err(error)) => error,
                Err(panicked) => anyhow::anyhow!("engine start: {panicked}"),
            }
        } => Err(failed),
    };
    notify("STOPPING=1");
    tracing::info!("stopping; containers live on");
    for server in servers {
        server.abort();
        // An aborted task drops its listener, which removes the socket file.
        let _ = server.await;
    }
    starting.abort();
    if let Some(engine) = app.engine_now() {
        engine.shutdown().await;
    }
    ended
}

/// Binds every address, and says where the API is.
async fn listen(settings: &Settings) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in &settings.hosts {
        let bound = bind(address, settings.group.as_deref())
            .await
            .map_err(anyhow::Error::msg)?;
        for listener in bound {
            match listener.address() {
                Some(at) => {
                    let open = match &settings.tls {
                        None => Some("TLS"),
                        Some(tls) => tls.clients.is_none().then_some("--tlsverify"),
                    };
                    if let Some(missing) = open.filter(|_| !at.ip().is_loopback()) {
                        tracing::warn!(
                            "listening on {at} without {missing}: anyone who can connect is root on this host"
                        );
                    }
                    tracing::info!("API listen on {at}");
                }
                None => tracing::info!("API listen on {address}"),
            }
            listeners.push(listener);
        }
    }
    Ok(listeners)
}

/// Reads the configuration again, as dockerd does: a file that is wrong changes nothing.
fn reload_configuration(flags: &Flags, app: &App, set_level: &SetLevel) {
    service::notify_reloading();
    match configure(flags) {
        Ok(new) => crate::reload::apply(app, &new, set_level),
        Err(error) => tracing::error!("reload: {error:#}; nothing was changed"),
    }
    notify("READY=1");
}

/// Tells the service manager's watchdog that the runtime still turns.
async fn feed_watchdog() {
    let Some(interval) = service::watchdog() else {
        return;
    };
    loop {
        notify("WATCHDOG=1");
        tokio::time::sleep(interval).await;
    }
}

async fn accept(app: Arc<App>, listener: Listener, tls: Option<Acceptor>) {
    loop {
        match listener.accept().await {
            Ok(socket) => {
                tokio::spawn(server::serve(Arc::clone(&app), socket, tls.clone()));
            }
            Err(error) => {
                tracing::error!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn accept_for_metrics(app: Arc<App>, listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(Socket::Tcp(stream)) => {
                tokio::spawn(metrics::serve(Arc::clone(&app), stream));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "accept a connection for metrics");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// A pid file, removed at the end.
#[derive(Debug)]
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> anyhow::Result<Self> {
        let old = std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(pid) =
            old.filter(|pid| *pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists())
        {
            bail!(
                "process with PID {pid} is still running; pid file {}",
                path.display()
            );
        }
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}
