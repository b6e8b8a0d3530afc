//! The shim itself, behind the socket that `start` made: it is our stdin.
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kelson_shim_proto::task::create_task;
use rustix::process::set_child_subreaper;
use ttrpc::r#async::Server;

use super::argv::Argv;
use super::maker::Maker;
use super::publish::{self, Publisher};
use super::sandbox::Sandbox;
use crate::bootstrap::{FAREWELL, counted, listener, survive_signals};
use crate::diagnostics;
use crate::error::{Doing, Error, Kind, Result};
use crate::events::Events;
use crate::lifetime::Lifetime;
use crate::reaper::Reaper;
use crate::registry::Registry;
use crate::service::Service;

/// The Task service's names: containerd 1.x and 2.x ask for the one that they know. Messages and methods are the same.
const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";

/// Serves until there is nothing to serve.
pub fn run(argv: &Argv) -> Result<()> {
    kelson_sys::fds::cloexec_from(3).doing(|| "mark inherited descriptors".to_owned())?;
    let socket = take_stdin()?;
    let path = path_of(&socket)?;
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").doing(|| "change to /".to_owned())?;
    set_child_subreaper(Some(rustix::process::getpid())).doing(|| "become a subreaper".to_owned())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "start the reactor".to_owned())?;
    let result = runtime.block_on(serve(argv, socket));
    // Not before the end: whoever finds it can connect.
    let _ = std::fs::remove_file(path);
    result.inspect_err(|error| diagnostics::report(&error.to_string()))
}

/// Takes the listening socket from descriptor 0, which becomes `/dev/null`.
fn take_stdin() -> Result<OwnedFd> {
    let doing = || "take the socket on stdin; this program is run by containerd, through start".to_owned();
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).doing(doing)?;
    if !rustix::net::sockopt::socket_acceptconn(&socket).doing(doing)? {
        return Err(Error::new(Kind::Invalid, doing()));
    }
    let null = std::fs::File::open("/dev/null").doing(|| "open /dev/null".to_owned())?;
    rustix::stdio::dup2_stdin(&null).doing(|| "replace stdin".to_owned())?;
    Ok(socket)
}

fn path_of(socket: &OwnedFd) -> Result<PathBuf> {
    let socket = socket.try_clone().doing(|| "look at the socket".to_owned())?;
    let address = std::os::unix::net::UnixListener::from(socket)
        .local_addr()
        .doing(|| "look at the socket".to_owned())?;
    Ok(address.as_pathname().map(PathBuf::from).unwrap_or_default())
}

async fn serve(argv: &Argv, socket: OwnedFd) -> Result<()> {
    survive_signals()?;
    let reaper = Reaper::start()?;
    let lifetime = Arc::new(Lifetime::default());
    let (events, queue) = Events::queue();
    tokio::spawn(publish::run(
        Publisher::new(argv, Arc::clone(&reaper)),
        Arc::clone(&queue),
    ));
    let sandbox = Sandbox::new(Arc::clone(&reaper), Arc::clone(&lifetime));
    let maker = Maker {
        namespace: argv.namespace.clone(),
        reaper,
        lifetime: Arc::clone(&lifetime),
        events,
    };
    let registry = Registry::of_many(maker, Arc::clone(&lifetime));
    let service = Arc::new(Service::new(registry, Arc::clone(&lifetime)));
    let mut task = create_task(service.clone());
    let v3 = create_task(service).remove(TASK_V2);
    task.extend(
        v3.map(|service| (TASK_V3.to_owned(), service))
            .into_iter()
            .collect::<HashMap<_, _>>(),
    );
    let mut server = Server::new()
        .register_service(task)
        .register_service(sandbox.service())
        .add_listener(counted(listener(socket)?, Arc::clone(&lifetime)));
    server
        .start()
        .await
        .map_err(|error| Error::new(Kind::Internal, format!("serve tasks: {error}")))?;
    crate::idle::soon();
    lifetime.over().await;
    // The last events are the most wanted ones; the answer to Shutdown is sent meanwhile.
    let _ = tokio::time::timeout(publish::FAREWELL, queue.drained()).await;
    let _ = tokio::time::timeout(FAREWELL, server.shutdown()).await;
    Ok(())
}
