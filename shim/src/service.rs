//! The Task service: calls to verbs, errors to codes, nothing else.
//!
//! Every verb that changes something runs in a task of its own: the server drops a call's future when its
//! client goes away, and a half-made container would be nobody's.
use std::sync::Arc;

use async_trait::async_trait;
use kelson_shim_proto::containerd::options::CheckpointOptions;
use kelson_shim_proto::task::{
    Any, CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Task, Timestamp,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use ttrpc::r#async::TtrpcContext;

use crate::container::Container;
use crate::error::{Error, Kind, Result};
use crate::idle;
use crate::lifetime::Lifetime;
use crate::process::{Described, status};
use crate::reaper::Exit;
use crate::registry::Registry;

/// Answers for the containers of this shim.
#[derive(Debug)]
pub struct Service {
    registry: Arc<Registry>,
    lifetime: Arc<Lifetime>,
}

impl Service {
    /// A service for the containers in `registry`.
    pub fn new(registry: Arc<Registry>, lifetime: Arc<Lifetime>) -> Self {
        Self { registry, lifetime }
    }

    fn container(&self, id: &str) -> ttrpc::Result<Arc<Container>> {
        self.registry.find(id).map_err(|error| error.to_ttrpc())
    }

    /// Runs a verb to its end, whatever becomes of the caller.
    async fn verb<T, F, Fut>(&self, id: &str, verb: F) -> ttrpc::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Container>) -> Fut,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.run(self.container(id)?, verb).await
    }

    async fn run<T, F, Fut>(&self, container: Arc<Container>, verb: F) -> ttrpc::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Container>) -> Fut,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let done = tokio::spawn(verb(container)).await;
        idle::soon();
        match done {
            Ok(result) => result.map_err(|error| error.to_ttrpc()),
            Err(error) => Err(Error::new(Kind::Internal, error.to_string()).to_ttrpc()),
        }
    }
}

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let described = Described {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let container = self
            .registry
            .to_create(&request)
            .map_err(|error| error.to_ttrpc())?;
        let registry = Arc::clone(&self.registry);
        let rootfs = request.rootfs;
        let (bundle, checkpoint) = (request.bundle, request.checkpoint);
        let pid = self
            .run(container, |container| async move {
                let made = async {
                    if !checkpoint.is_empty() {
                        return Err(Error::new(Kind::Unsupported, "create from a checkpoint"));
                    }
                    if !bundle.is_empty() && std::path::Path::new(&bundle) != container.bundle {
                        let ours = container.bundle.display();
                        let text = format!("bundle {bundle} is not this shim's, {ours}");
                        return Err(Error::new(Kind::Invalid, text));
                    }
                    container.create(rootfs, described).await
                };
                made.await.inspect_err(|_| registry.forget(&container))
            })
            .await?;
        Ok(CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let pid = self
            .verb(&request.id, |container| async move {
                if request.exec_id.is_empty() {
                    container.start().await
                } else {
                    container.start_exec(&request.exec_id).await
                }
            })
            .await?;
        Ok(StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let described = Described {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let spec = request
            .spec
            .into_option()
            .map(|any| any.value)
            .unwrap_or_default();
        self.container(&request.id)?
            .add_exec(&request.exec_id, described, spec)
            .map_err(|error| error.to_ttrpc())?;
        Ok(Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let registry = Arc::clone(&self.registry);
        let (pid, exit) = self
            .verb(&request.id, |container| async move {
                if request.exec_id.is_empty() {
                    container.delete().await.inspect(|_| registry.forget(&container))
                } else {
                    container.delete_exec(&request.exec_id).await
                }
            })
            .await?;
        let (exit_status, exited_at) = ended(exit);
        Ok(DeleteResponse {
            pid,
            exit_status,
            exited_at,
            ..Default::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.container(&request.id)?;
        let process = container
            .process(&request.exec_id)
            .map_err(|error| error.to_ttrpc())?;
        let state = process.snapshot();
        let (exit_status, exited_at) = state.exit.map(ended).unwrap_or_default();
        Ok(StateResponse {
            id: request.id,
            bundle: container.bundle.display().to_string(),
            pid: state.pid,
            status: status(state.phase, container.is_paused()).into(),
            stdin: state.described.stdin,
            stdout: state.described.stdout,
            stderr: state.described.stderr,
            terminal: state.described.terminal,
            exit_status,
            exited_at,
            exec_id: request.exec_id,
            ..Default::default()
        })
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let container = self.container(&request.id)?;
        let process = container
            .process(&request.exec_id)
            .map_err(|error| error.to_ttrpc())?;
        let (exit_status, exited_at) = ended(process.wait().await);
        Ok(WaitResponse {
            exit_status,
            exited_at,
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        self.verb(&request.id, |container| async move {
            container
                .kill(&request.exec_id, request.signal, request.all)
                .await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        self.verb(&request.id, |container| async move { container.pause().await })
            .await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        self.verb(&request.id, |container| async move { container.resume().await })
            .await?;
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = self
            .verb(&request.id, |container| async move { container.pids().await })
            .await?;
        let processes = pids
            .into_iter()
            .map(|pid| ProcessInfo {
                pid,
                ..Default::default()
            })
            .collect();
        Ok(PidsResponse {
            processes,
            ..Default::default()
        })
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&request.id)?;
        container
            .process(&request.exec_id)
            .and_then(|process| process.resize(request.width, request.height))
            .map_err(|error| error.to_ttrpc())?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let container = self.container(&request.id)?;
        let process = container
            .process(&request.exec_id)
            .map_err(|error| error.to_ttrpc())?;
        if request.stdin {
            process.stdin.close().await;
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = request.resources.into_option().unwrap_or_default().value;
        self.verb(&request.id, |container| async move {
            container.update(&resources).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let any = request.options.into_option().unwrap_or_default();
        let options = CheckpointOptions::decode(&any.type_url, &any.value)
            .map_err(|error| Error::new(Kind::Invalid, error).to_ttrpc())?;
        self.verb(&request.id, |container| async move {
            container.checkpoint(&request.path, &options).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let container = self.container(&request.id)?;
        let (type_url, value) = container.stats().map_err(|error| error.to_ttrpc())?;
        let any = Any {
            type_url: type_url.to_owned(),
            value,
            ..Default::default()
        };
        Ok(StatsResponse {
            stats: Some(any).into(),
            ..Default::default()
        })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        // Containerd asks with an empty id when it only wants the shim's pid.
        let task_pid = if request.id.is_empty() {
            0
        } else {
            self.registry
                .find(&request.id)
                .map_or(0, |container| container.init.snapshot().pid)
        };
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        if !self.registry.may_end(request.now) {
            // Containerd's meaning: it asks after every Delete, and the last one counts.
            return Ok(Empty::new());
        }
        self.lifetime
            .update(|facts| (facts.shutdown, facts.now) = (true, facts.now || request.now));
        Ok(Empty::new())
    }
}

fn ended(exit: Exit) -> (u32, protobuf::MessageField<Timestamp>) {
    let at = Timestamp {
        seconds: exit.at.secs,
        nanos: i32::try_from(exit.at.nanos).unwrap_or(0),
        ..Default::default()
    };
    (exit.status, protobuf::MessageField::some(at))
}
