//! A shim as the engine starts it, a client of its sockets, and a busybox root for it to run.
#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    missing_debug_implementations,
    reason = "a test"
)]

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kelson_shim_proto::attach::{self, Hello, Reply, Stream};
use kelson_shim_proto::exit::ExitRecord;
use kelson_shim_proto::logs::json_file::Entry;
use kelson_shim_proto::serve::{PortParams, Ready, RuntimeParams, ServeParams};
use kelson_shim_proto::task::{
    Any, CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, Mount, ShutdownRequest,
    StartRequest, TaskClient, WaitRequest,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use ttrpc::context::{self, Context};

/// How long anything may take before a test fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn ctx() -> Context {
    context::with_duration(DEADLINE)
}

/// One container, its shim and its files.
pub struct Bench {
    pub dir: TempDir,
    pub id: String,
    pub shim: Option<Child>,
    pub shim_pid: u32,
    pub spec: Value,
    pub once: bool,
    pub log: String,
    /// Where the shim is to die.
    pub fault: Option<&'static str>,
    /// Addresses of stdin, stdout and stderr instead of ours.
    pub paths: Option<[String; 3]>,
    runtime: PathBuf,
}

/// The runtime a test is to use, or why there is none.
pub fn runtime(name: &str) -> Result<PathBuf, String> {
    if !rustix_is_root() {
        return Err("needs root".to_owned());
    }
    if name == "kelson-runtime" {
        if let Some(path) = std::env::var_os("KELSON_RUNTIME") {
            return Ok(path.into());
        }
        let beside = Path::new(env!("CARGO_BIN_EXE_kelson-shim")).with_file_name(name);
        return if beside.exists() {
            Ok(beside)
        } else {
            Err(format!("{} is not built", beside.display()))
        };
    }
    if name == "crun" && Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists() {
        return Err(
            "crun refuses hybrid cgroups: run the tests in a mount namespace with a tmpfs on /sys/fs/cgroup/unified"
                .into(),
        );
    }
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// The shim to test: another build of it by `KELSON_SHIM`.
pub fn shim_binary() -> PathBuf {
    std::env::var_os("KELSON_SHIM").map_or_else(|| env!("CARGO_BIN_EXE_kelson-shim").into(), PathBuf::from)
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

impl Bench {
    /// Files for a container that runs `args`.
    pub fn new(runtime: &Path, args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("kelson-shim-").tempdir().unwrap();
        let id = format!(
            "shimtest-{}-{}",
            std::process::id(),
            dir.path().file_name().unwrap().to_str().unwrap()
        );
        let id = id.replace('.', "");
        let lower = dir.path().join("lower");
        for sub in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            fs::create_dir_all(lower.join(sub)).unwrap();
        }
        fs::copy("/usr/bin/busybox", lower.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "echo", "cat", "sleep", "true", "false", "stty", "seq", "head", "kill", "yes", "dd", "nc",
        ] {
            let _ = std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet));
        }
        fs::write(lower.join("etc/plain"), "x").unwrap();
        for sub in ["upper", "work", "bundle", "state", "record"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
                "env": ["PATH=/bin", "TERM=xterm"],
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
                "noNewPrivileges": true
            },
            "root": {"path": "rootfs", "readonly": false},
            "hostname": "shimtest",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}]
            }
        });
        let log = format!("kelson-log:json-file?path={}/c-json.log", dir.path().display());
        Self {
            dir,
            id,
            shim: None,
            shim_pid: 0,
            spec,
            once: true,
            log,
            fault: None,
            paths: None,
            runtime: runtime.to_owned(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn params(&self) -> ServeParams {
        ServeParams {
            format: 1,
            id: self.id.clone(),
            bundle: self.path("bundle"),
            runtime: RuntimeParams {
                path: self.runtime.clone(),
                root: self.path("state"),
                systemd_cgroup: false,
            },
            task_fd: 0,
            attach_fd: 0,
            netns_fd: None,
            ports: Vec::new(),
            exit_record: self.path("record/exit.json"),
            shim_cgroup: None,
        }
    }

    /// Starts the shim as the engine does and waits for its ready line.
    pub fn serve(&mut self, ports: Vec<(PortParams, OwnedFd)>) {
        fs::write(self.path("bundle/config.json"), self.spec.to_string()).unwrap();
        let task = UnixListener::bind(self.path("task.sock")).unwrap();
        let attach = UnixListener::bind(self.path("attach.sock")).unwrap();
        let mut params = self.params();
        params.task_fd = inherit(&task);
        params.attach_fd = inherit(&attach);
        params.ports = ports
            .iter()
            .map(|(port, fd)| PortParams {
                fd: inherit(fd),
                ..port.clone()
            })
            .collect();
        let mut shim = Command::new(shim_binary())
            .arg("serve")
            .envs(self.fault.map(|point| ("KELSON_SHIM_FAULT", point)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.path("shim.log")).unwrap())
            .spawn()
            .unwrap();
        shim.stdin.take().unwrap().write_all(&params.encode()).unwrap();
        let mut line = String::new();
        std::io::Read::read_to_string(&mut shim.stdout.take().unwrap(), &mut line).unwrap();
        let ready: Ready =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?} {}", self.shim_log()));
        assert_eq!(ready.error, None);
        assert_eq!(ready.pid, shim.id());
        self.shim_pid = ready.pid;
        self.shim = Some(shim);
    }

    pub fn shim_log(&self) -> String {
        fs::read_to_string(self.path("shim.log")).unwrap_or_default()
    }

    pub async fn client(&self) -> TaskClient {
        let address = format!("unix://{}", self.path("task.sock").display());
        TaskClient::new(ttrpc::r#async::Client::connect(&address).await.unwrap())
    }

    pub fn create_request(&self) -> CreateTaskRequest {
        let terminal = self.spec["process"]["terminal"].as_bool().unwrap();
        let [stdin, stdout, stderr] = self.paths.clone().unwrap_or_else(|| {
            let stdin = format!("kelson-attach:?once={}", u8::from(self.once));
            [stdin, self.log.clone(), self.log.clone()]
        });
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.path("bundle").display().to_string(),
            rootfs: vec![Mount {
                type_: "overlay".into(),
                source: "overlay".into(),
                options: vec![
                    format!("lowerdir={}", self.path("lower").display()),
                    format!("upperdir={}", self.path("upper").display()),
                    format!("workdir={}", self.path("work").display()),
                ],
                ..Default::default()
            }],
            terminal,
            stdin,
            stdout,
            stderr: if terminal { String::new() } else { stderr },
            ..Default::default()
        }
    }

    pub async fn create(&self, client: &TaskClient) -> u32 {
        client
            .create(ctx(), &self.create_request())
            .await
            .unwrap_or_else(|e| panic!("{e} {}", self.shim_log()))
            .pid
    }

    pub async fn start(&self, client: &TaskClient) {
        let request = StartRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        client
            .start(ctx(), &request)
            .await
            .unwrap_or_else(|e| panic!("{e} {}", self.shim_log()));
    }

    pub async fn wait(&self, client: &TaskClient, exec_id: &str) -> u32 {
        let request = WaitRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        client
            .wait(ctx(), &request)
            .await
            .unwrap_or_else(|e| panic!("{e} {}", self.shim_log()))
            .exit_status
    }

    pub async fn kill(&self, client: &TaskClient, exec_id: &str, signal: u32) -> ttrpc::Result<()> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            signal,
            ..Default::default()
        };
        client.kill(ctx(), &request).await.map(drop)
    }

    pub async fn delete(&self, client: &TaskClient, exec_id: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        client
            .delete(ctx(), &request)
            .await
            .map(|response| response.exit_status)
    }

    pub async fn exec(
        &self,
        client: &TaskClient,
        exec_id: &str,
        args: &[&str],
        terminal: bool,
    ) -> ttrpc::Result<()> {
        let spec = json!({"terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
            "env": ["PATH=/bin"]});
        let request = ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            terminal,
            stdin: "kelson-attach:?once=1".into(),
            stdout: "kelson-attach:".into(),
            stderr: if terminal {
                String::new()
            } else {
                "kelson-attach:".into()
            },
            spec: Some(Any {
                value: spec.to_string().into_bytes(),
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        client.exec(ctx(), &request).await.map(drop)
    }

    pub async fn start_exec(&self, client: &TaskClient, exec_id: &str) -> ttrpc::Result<u32> {
        let request = StartRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        client.start(ctx(), &request).await.map(|response| response.pid)
    }

    pub async fn attach(&self, hello: &Hello) -> Attached {
        let mut socket = UnixStream::connect(self.path("attach.sock")).await.unwrap();
        socket.write_all(&hello.encode()).await.unwrap();
        let mut line = Vec::new();
        loop {
            match socket.read_u8().await.unwrap() {
                b'\n' => break,
                byte => line.push(byte),
            }
        }
        Attached {
            socket,
            reply: Reply::decode(&line).unwrap(),
        }
    }

    pub fn log_text(&self) -> String {
        let mut text = String::new();
        let bytes = fs::read(self.path("c-json.log")).unwrap_or_default();
        for line in bytes
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
        {
            text.push_str(&Entry::decode(line).unwrap().log);
        }
        text
    }

    pub fn record(&self) -> ExitRecord {
        ExitRecord::decode(&fs::read(self.path("record/exit.json")).unwrap()).unwrap()
    }

    /// Ends the shim and proves that nothing is left of the container.
    pub async fn finish(mut self, client: TaskClient) {
        self.delete(&client, "")
            .await
            .unwrap_or_else(|e| panic!("{e} {}", self.shim_log()));
        let _ = client
            .shutdown(
                ctx(),
                &ShutdownRequest {
                    id: self.id.clone(),
                    now: true,
                    ..Default::default()
                },
            )
            .await;
        drop(client);
        self.gone().await;
    }

    /// Waits for the shim's own end and looks for leftovers.
    pub async fn gone(&mut self) {
        let mut shim = self.shim.take().unwrap();
        eventually("the shim ends", || shim.try_wait().unwrap().is_some()).await;
        let status = shim.wait().unwrap();
        assert!(status.success(), "{status} {}", self.shim_log());
        self.nothing_left();
    }

    /// Proves that no mount of the container is seen in our mount namespace.
    pub fn no_mount_here(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.dir.path().to_str().unwrap()),
            "a mount is seen: {mounts}"
        );
    }

    pub fn nothing_left(&self) {
        self.no_mount_here();
        let state: Vec<_> = fs::read_dir(self.path("state"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert!(state.is_empty(), "runtime state is left: {state:?}");
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let hierarchy = hierarchy.unwrap().path();
            // Hidden for crun, which then makes plain directories there.
            if !hierarchy.ends_with("unified") || hierarchy.join("cgroup.controllers").exists() {
                let left = hierarchy.join(&self.id);
                assert!(!left.exists(), "{} is left", left.display());
            }
        }
        assert!(!Path::new("/sys/fs/cgroup").join(&self.id).exists());
        let bundle: Vec<_> = fs::read_dir(self.path("bundle"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(
            bundle
                .iter()
                .all(|name| name == "config.json" || name == "rootfs"),
            "{bundle:?}"
        );
        assert!(fs::read_dir(self.path("bundle/rootfs")).map_or(true, |mut dir| dir.next().is_none()));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Only after a failed test: end what it started, by what it was told.
        if let Some(mut shim) = self.shim.take() {
            let _ = shim.kill();
            let _ = shim.wait();
            let _ = Command::new(&self.runtime)
                .arg("--root")
                .arg(self.path("state"))
                .args(["delete", "--force", &self.id])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A client on the attach socket.
pub struct Attached {
    pub socket: UnixStream,
    pub reply: Reply,
}

impl Attached {
    /// Reads to the end of the stream.
    pub async fn read_all(&mut self) -> (Vec<u8>, Vec<u8>) {
        self.read_until(|_, _| false).await
    }

    /// Reads until `enough`, or the end of the stream.
    pub async fn read_until(&mut self, enough: impl Fn(&[u8], &[u8]) -> bool) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut decoder = attach::Decoder::default();
        let mut buffer = vec![0; 64 * 1024];
        while !enough(&out, &err) {
            let read = tokio::time::timeout(DEADLINE, self.socket.read(&mut buffer));
            let n = read
                .await
                .unwrap_or_else(|_| panic!("no more output; had {:?}", String::from_utf8_lossy(&out)));
            let n = n.unwrap();
            if n == 0 {
                break;
            }
            decoder
                .push(&buffer[..n], |stream, bytes| match stream {
                    Stream::Stdout => out.extend_from_slice(bytes),
                    Stream::Stderr => err.extend_from_slice(bytes),
                })
                .unwrap();
        }
        (out, err)
    }
}

fn inherit(fd: &impl AsRawFd) -> i32 {
    kelson_sys::fds::keep_on_exec(fd.as_raw_fd()).unwrap();
    fd.as_raw_fd()
}

/// Polls the machine until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "not in {} s: {what}", DEADLINE.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !matches!(
            stat.rsplit(')')
                .next()
                .and_then(|rest| rest.trim().chars().next()),
            Some('Z' | 'X')
        )
    })
}

/// Runs every case with every runtime that is here.
#[macro_export]
macro_rules! each_runtime {
    ($($case:ident),+ $(,)?) => {
        mod runc { $($crate::each_runtime!(@one $case, "runc");)+ }
        mod crun { $($crate::each_runtime!(@one $case, "crun");)+ }
        mod kelson_runtime { $($crate::each_runtime!(@one $case, "kelson-runtime");)+ }
    };
    (@one $case:ident, $runtime:expr) => {
        #[tokio::test]
        async fn $case() {
            match $crate::common::runtime($runtime) {
                Ok(path) => tokio::time::timeout(std::time::Duration::from_secs(120), super::$case(&path)).await.unwrap(),
                Err(why) => println!("skipped: {why}"),
            }
        }
    };
}
