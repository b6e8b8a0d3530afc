//! A pod without a container of its own: one process that does nothing holds the namespaces that its containers join.
//!
//! That process is this program again (`kelson-shim pause`), in new IPC and UTS namespaces and in the pod's network namespace.
//! It ends when it is told to, or with the shim.
use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kelson_shim_proto::containerd::sandbox::{Request, SERVICE, Status, ended, platform, started};
use kelson_shim_proto::time::Time;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use ttrpc::r#async::{MethodHandler, Service, TtrpcContext};
use ttrpc::proto::{Request as Call, Response};

use crate::error::{Doing, Error, Kind, Result, lock};
use crate::lifetime::Lifetime;
use crate::reaper::{Exit, Reaper};

/// The methods.
const METHODS: [&str; 9] = [
    "CreateSandbox",
    "StartSandbox",
    "Platform",
    "StopSandbox",
    "WaitSandbox",
    "SandboxStatus",
    "PingSandbox",
    "ShutdownSandbox",
    "SandboxMetrics",
];

/// How long the process may take to be there.
const START: Duration = Duration::from_secs(10);

/// How long its end may take where the caller does not say.
const STOP: Duration = Duration::from_secs(10);

/// The sandbox of this shim, if there is one.
#[derive(Debug)]
pub struct Sandbox {
    reaper: Arc<Reaper>,
    lifetime: Arc<Lifetime>,
    state: Mutex<State>,
    exit: watch::Sender<Option<Exit>>,
}

#[derive(Debug, Default)]
struct State {
    id: Option<String>,
    netns: String,
    /// A start is under way or was made.
    claimed: bool,
    pid: u32,
    created_at: Time,
}

impl Sandbox {
    /// None yet.
    pub fn new(reaper: Arc<Reaper>, lifetime: Arc<Lifetime>) -> Arc<Self> {
        Arc::new(Self {
            reaper,
            lifetime,
            state: Mutex::default(),
            exit: watch::Sender::new(None),
        })
    }

    /// Its service, to register.
    pub fn service(self: Arc<Self>) -> HashMap<String, Service> {
        let methods = METHODS.iter().map(|name| {
            let method = Method {
                name,
                sandbox: Arc::clone(&self),
            };
            let handler: Box<dyn MethodHandler + Send + Sync> = Box::new(method);
            ((*name).to_owned(), handler)
        });
        let service = Service {
            methods: methods.collect(),
            streams: HashMap::new(),
        };
        HashMap::from([(SERVICE.to_owned(), service)])
    }

    async fn call(self: &Arc<Self>, method: &str, request: Request) -> Result<Vec<u8>> {
        if method == "CreateSandbox" {
            return self.create(request).map(|()| Vec::new());
        }
        self.must_be(&request.id)?;
        match method {
            "StartSandbox" => {
                let this = Arc::clone(self);
                // To its end, whatever becomes of the caller.
                let start = tokio::spawn(async move { this.start().await });
                let (pid, at) = start
                    .await
                    .map_err(|error| Error::new(Kind::Internal, error.to_string()))??;
                Ok(started(pid, at))
            }
            "Platform" => Ok(platform()),
            "StopSandbox" => self.stop(request.timeout).await.map(|()| Vec::new()),
            "WaitSandbox" => {
                let exit = self.wait().await;
                Ok(ended(exit.status, exit.at))
            }
            "SandboxStatus" => Ok(self.status(request.id).encode()),
            "PingSandbox" => Ok(Vec::new()),
            "ShutdownSandbox" => {
                self.stop(0).await?;
                self.lifetime.update(|facts| {
                    facts.kept = facts.kept.saturating_sub(1);
                    facts.shutdown = true;
                });
                Ok(Vec::new())
            }
            // The figures of a pod are those of its cgroup, which containerd made and reads.
            _ => Err(Error::new(
                Kind::Unsupported,
                format!("{method}: a sandbox has no figures of its own"),
            )),
        }
    }

    fn must_be(&self, id: &str) -> Result<()> {
        if lock(&self.state).id.as_deref() == Some(id) {
            return Ok(());
        }
        Err(Error::new(
            Kind::NotFound,
            format!("no sandbox {id:?} in this shim"),
        ))
    }

    fn create(&self, request: Request) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(id) = &state.id {
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("this shim has sandbox {id:?}"),
            ));
        }
        if request.id.is_empty() {
            return Err(Error::new(Kind::Invalid, "sandbox_id: is empty"));
        }
        if !request.netns.is_empty() && !request.netns.starts_with('/') {
            let text = format!("netns_path: {:?} is not absolute", request.netns);
            return Err(Error::new(Kind::Invalid, text));
        }
        (state.id, state.netns) = (Some(request.id), request.netns);
        self.lifetime
            .update(|facts| (facts.kept, facts.used) = (facts.kept + 1, true));
        Ok(())
    }

    async fn start(self: &Arc<Self>) -> Result<(u32, Time)> {
        let netns = {
            let mut state = lock(&self.state);
            if std::mem::replace(&mut state.claimed, true) {
                return Err(Error::new(Kind::Precondition, "the sandbox was started before"));
            }
            state.netns.clone()
        };
        let result = self.spawn(&netns).await;
        if result.is_err() {
            lock(&self.state).claimed = false;
        }
        result
    }

    async fn spawn(self: &Arc<Self>, netns: &str) -> Result<(u32, Time)> {
        let doing = || "start the sandbox's process".to_owned();
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(doing)?;
        let _expecting = self.reaper.expecting();
        let child = Command::new("/proc/self/exe")
            .arg0("kelson-shim")
            .args(["pause", netns])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::from(write))
            .spawn()
            .doing(doing)?;
        let pid = child.id();
        let exit = self.reaper.exit_of(i32::try_from(pid).unwrap_or(0));
        // Empty is success; else it says why not, and ends.
        let mut answer = String::new();
        let mut answers = Receiver::from_owned_fd(read).doing(doing)?.take(4096);
        let read = tokio::time::timeout(START, answers.read_to_string(&mut answer));
        if !matches!(read.await, Ok(Ok(_))) || !answer.is_empty() {
            signal(pid, Signal::KILL);
            return Err(Error::new(Kind::Internal, format!("{}: {answer}", doing())));
        }
        let at = Time::now();
        {
            let mut state = lock(&self.state);
            (state.pid, state.created_at) = (pid, at);
        }
        self.lifetime.update(|facts| facts.busy += 1);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let exit = exit.await.unwrap_or_else(|_| Exit::unknown());
            this.exit.send_replace(Some(exit));
            this.lifetime.update(|facts| facts.busy -= 1);
        });
        Ok((pid, at))
    }

    async fn stop(&self, timeout: u32) -> Result<()> {
        let pid = lock(&self.state).pid;
        if pid == 0 || self.exit.borrow().is_some() {
            return Ok(());
        }
        signal(pid, Signal::TERM);
        let patience = match timeout {
            0 => STOP,
            seconds => Duration::from_secs(seconds.into()),
        };
        if tokio::time::timeout(patience, self.wait()).await.is_err() {
            signal(pid, Signal::KILL);
            self.wait().await;
        }
        Ok(())
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        ended.unwrap_or_else(Exit::unknown)
    }

    fn status(&self, id: String) -> Status {
        let state = lock(&self.state);
        let exit = *self.exit.borrow();
        Status {
            id,
            pid: state.pid,
            ready: state.pid != 0 && exit.is_none(),
            created_at: state.created_at,
            exited_at: exit.map(|exit| exit.at),
        }
    }
}

/// Our own child, whose number is its own until the reaper has seen its end; callers have looked.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

struct Method {
    name: &'static str,
    sandbox: Arc<Sandbox>,
}

#[async_trait]
impl MethodHandler for Method {
    async fn handler(&self, _: TtrpcContext, call: Call) -> ttrpc::Result<Response> {
        let request = Request::decode(self.name, &call.payload)
            .map_err(|error| Error::new(Kind::Invalid, error).to_ttrpc())?;
        let payload = self
            .sandbox
            .call(self.name, request)
            .await
            .map_err(|error| error.to_ttrpc())?;
        let mut response = Response::new();
        response.set_status(ttrpc::get_status(ttrpc::Code::OK, String::new()));
        response.payload = payload;
        Ok(response)
    }
}

/// The process that holds the namespaces. What goes wrong is said on stdout, which is closed otherwise.
pub fn pause(netns: &str) -> Result<()> {
    let result = hold(netns);
    if let Err(error) = &result {
        crate::cli::say(error.to_string().as_bytes());
    }
    result?;
    let null = std::fs::File::options().write(true).open("/dev/null");
    let null = null.doing(|| "open /dev/null".to_owned())?;
    rustix::stdio::dup2_stdout(&null).doing(|| "close stdout".to_owned())?;
    loop {
        // Until a signal ends it.
        std::thread::park();
    }
}

fn hold(netns: &str) -> Result<()> {
    // The shim survives its container; this process does not survive the shim.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .doing(|| "ask to end with the shim".to_owned())?;
    if !netns.is_empty() {
        let doing = || format!("join network namespace {netns}");
        let file = std::fs::File::open(netns).doing(doing)?;
        setns(file, CloneFlags::CLONE_NEWNET).doing(doing)?;
    }
    unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS).doing(|| "unshare namespaces".to_owned())
}
