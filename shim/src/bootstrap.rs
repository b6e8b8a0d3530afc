//! From the engine's `execve` to the first call: who we are to the kernel, and what we inherited.
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use kelson_shim_proto::FORMAT;
use kelson_shim_proto::serve::{MAX_PARAMS, PortParams, Ready, ServeParams};
use kelson_shim_proto::task::create_task;
use rustix::process::set_child_subreaper;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::attach;
use crate::cli::say;
use crate::container::{Container, Manner, Setup};
use crate::diagnostics;
use crate::error::{Doing, Error, Kind, Result};
use crate::events::Events;
use crate::idle;
use crate::lifetime::{Counted, Lifetime};
use crate::mounts;
use crate::reaper::Reaper;
use crate::registry::Registry;
use crate::runtime::Runtime;
use crate::service::Service;

/// How long answers under way may take to be sent at the end.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// Runs a shim until it is not needed any more.
///
/// # Errors
/// It could not be set up; the engine was told so by the ready line.
pub fn serve() -> Result<()> {
    let result = set_up();
    let (params, inherited) = match result {
        Ok(set_up) => set_up,
        Err(error) => return Err(tell(error)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "start the reactor".to_owned());
    match runtime {
        Ok(runtime) => runtime.block_on(run(params, inherited)),
        Err(error) => Err(tell(error)),
    }
}

/// Tells the engine that there will be no shim.
pub(crate) fn tell(error: Error) -> Error {
    ready(Some(error.to_string()));
    error
}

pub(crate) fn ready(error: Option<String>) {
    let ready = Ready {
        format: FORMAT,
        pid: std::process::id(),
        error,
    };
    if let Ok(mut line) = serde_json::to_vec(&ready) {
        line.push(b'\n');
        say(&line);
    }
    // The engine reads to the end of file; nobody else ever writes here.
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stdin(&null);
    }
}

/// Descriptors that came with us.
struct Inherited {
    task: OwnedFd,
    attach: OwnedFd,
    ports: Vec<(PortParams, OwnedFd)>,
    /// Only held: `config.json` names it by number, so it keeps that number.
    _netns: Option<OwnedFd>,
}

fn set_up() -> Result<(ServeParams, Inherited)> {
    let params = read_params()?;
    // Before anything is opened: an inherited number must not be reused, nor leak into a container.
    kelson_sys::fds::cloexec_from(3).doing(|| "mark inherited descriptors".to_owned())?;
    let inherited = inherit(&params)?;
    // Already a session leader: the engine did it.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").doing(|| "change to /".to_owned())?;
    set_child_subreaper(Some(rustix::process::getpid())).doing(|| "become a subreaper".to_owned())?;
    if let Some(path) = &params.shim_cgroup {
        join_cgroup(path)?;
    }
    mounts::own_namespace()?;
    Ok((params, inherited))
}

fn read_params() -> Result<ServeParams> {
    let mut text = Vec::new();
    let limit = MAX_PARAMS as u64 + 1;
    std::io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut text)
        .doing(|| "read shim parameters".to_owned())?;
    if text.len() > MAX_PARAMS {
        return Err(Error::new(
            Kind::Invalid,
            format!("shim parameters: longer than {MAX_PARAMS} bytes"),
        ));
    }
    let params = ServeParams::decode(&text).map_err(|error| Error::new(Kind::Invalid, error))?;
    for path in [
        &params.bundle,
        &params.exit_record,
        &params.runtime.path,
        &params.runtime.root,
    ] {
        if !path.is_absolute() {
            return Err(Error::new(
                Kind::Invalid,
                format!("shim parameters: {} is not absolute", path.display()),
            ));
        }
    }
    Ok(params)
}

fn inherit(params: &ServeParams) -> Result<Inherited> {
    let mut taken = std::collections::HashSet::new();
    let mut take = |fd: RawFd, what: &str| {
        if !taken.insert(fd) {
            return Err(Error::new(
                Kind::Invalid,
                format!("shim parameters: descriptor {fd} is named twice"),
            ));
        }
        kelson_sys::fds::take_inherited(fd).doing(|| format!("take {what}, descriptor {fd}"))
    };
    let task = take(params.task_fd, "the task socket")?;
    let attach = take(params.attach_fd, "the attach socket")?;
    let netns = params
        .netns_fd
        .map(|fd| take(fd, "the network namespace"))
        .transpose()?;
    let ports = params
        .ports
        .iter()
        .map(|port| Ok((port.clone(), take(port.fd, "a published port")?)));
    Ok(Inherited {
        task,
        attach,
        ports: ports.collect::<Result<_>>()?,
        _netns: netns,
    })
}

pub(crate) fn join_cgroup(path: &str) -> Result<()> {
    let internal =
        |error: kelson_cgroups::Error| Error::new(Kind::Internal, format!("cgroup of the shim: {error}"));
    let mut cgroup = kelson_cgroups::Host::detect()
        .and_then(|host| host.container(Some(path), "shim"))
        .map_err(internal)?;
    cgroup.create().map_err(internal)?;
    cgroup.joiner().and_then(|joiner| joiner.join()).map_err(internal)
}

async fn run(params: ServeParams, inherited: Inherited) -> Result<()> {
    let Inherited {
        task,
        attach: attach_socket,
        ports,
        _netns,
    } = inherited;
    let started = start(params, task, attach_socket, ports).await;
    let (mut server, lifetime) = match started {
        Ok(started) => started,
        Err(error) => return Err(tell(error)),
    };
    ready(None);
    idle::soon();
    lifetime.over().await;
    let _ = tokio::time::timeout(FAREWELL, server.shutdown()).await;
    Ok(())
}

async fn start(
    params: ServeParams,
    task: OwnedFd,
    attach_socket: OwnedFd,
    ports: Vec<(PortParams, OwnedFd)>,
) -> Result<(Server, Arc<Lifetime>)> {
    survive_signals()?;
    let reaper = Reaper::start()?;
    let lifetime = Arc::new(Lifetime::default());
    let runtime = Runtime::new(params.runtime, &params.id, Arc::clone(&reaper));
    let container = Container::new(Setup {
        id: params.id,
        bundle: params.bundle,
        exit_record: Some(params.exit_record),
        runtime,
        reaper,
        ports,
        lifetime: Arc::clone(&lifetime),
        events: Events::default(),
        manner: Manner::default(),
        namespace: String::new(),
    });
    let attach_listener = listener(attach_socket)?;
    tokio::spawn(attach::serve(attach_listener, Arc::clone(&container)));
    let registry = Registry::of_one(container, Arc::clone(&lifetime));
    let service = Service::new(registry, Arc::clone(&lifetime));
    let mut server = Server::new()
        .register_service(create_task(Arc::new(service)))
        .add_listener(counted(listener(task)?, Arc::clone(&lifetime)));
    server
        .start()
        .await
        .map_err(|error| Error::new(Kind::Internal, format!("serve tasks: {error}")))?;
    Ok((server, lifetime))
}

pub(crate) fn listener(fd: OwnedFd) -> Result<UnixListener> {
    rustix::io::ioctl_fionbio(fd.as_fd(), true).doing(|| "make a listener non-blocking".to_owned())?;
    UnixListener::from_std(fd.into()).doing(|| "watch a listener".to_owned())
}

/// Accepted connections, each counted while it lives.
pub(crate) fn counted(listener: UnixListener, lifetime: Arc<Lifetime>) -> Listener {
    Listener::new(stream::unfold(
        (listener, lifetime),
        |(listener, lifetime)| async move {
            let accepted = listener
                .accept()
                .await
                .map(|(stream, _)| Counted::new(stream, &lifetime));
            if accepted.is_err() {
                // No free descriptor, most likely: at once it would be the same again.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Some((accepted, (listener, lifetime)))
        },
    ))
}

/// A shim ends when its container has, not when somebody tidies up the session. Caught and not ignored: what is
/// ignored stays ignored in the programs we start.
pub(crate) fn survive_signals() -> Result<()> {
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let mut signals = signal(kind).doing(|| "catch signals".to_owned())?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                diagnostics::report("a signal asked the shim to end; it stays until its container has ended");
            }
        });
    }
    Ok(())
}
