//! The shim as containerd 2.3 and later start it, and its Sandbox service, spoken by hand.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kelson_shim_proto::wire::{Writer, read};
use ttrpc::r#async::Client;
use ttrpc::proto::Request;

/// A pod's shim that was started with parameters on stdin.
struct Pod {
    dir: tempfile::TempDir,
    socket: PathBuf,
    client: Client,
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The fields of a message that are bytes.
fn fields(message: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut out = Vec::new();
    read(message, |field, value| out.push((field, value.bytes().to_vec()))).unwrap();
    out
}

fn number(message: &[u8], wanted: u32) -> u64 {
    let mut out = 0;
    read(message, |field, value| {
        if field == wanted {
            out = value.number();
        }
    })
    .unwrap();
    out
}

impl Pod {
    async fn start(json: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("kelson-shim-").tempdir().unwrap();
        let shim = dir.path().join("containerd-shim-kelson-v2");
        fs::copy(env!("CARGO_BIN_EXE_kelson-shim"), &shim).unwrap();
        let sockets = dir.path().join("s").display().to_string();
        let params = if json {
            serde_json::json!({"instanceId": "pod", "namespace": "n", "socketDir": sockets})
                .to_string()
                .into_bytes()
        } else {
            let mut params = Writer::default();
            params.bytes(1, "pod").bytes(2, "n").bytes(9, &sockets);
            params.finish()
        };
        let mut start = Command::new(&shim)
            .args(["-namespace", "n", "-id", "pod", "-address", "/nowhere", "start"])
            .env("TTRPC_ADDRESS", dir.path().join("no.sock"))
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        start.stdin.take().unwrap().write_all(&params).unwrap();
        let output = start.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let address = if json {
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                (answer["version"].as_u64(), answer["protocol"].as_str()),
                (Some(3), Some("ttrpc"))
            );
            answer["address"].as_str().unwrap().to_owned()
        } else {
            let answer = fields(&output.stdout);
            assert_eq!((number(&output.stdout, 1), &answer[2].1[..]), (3, &b"ttrpc"[..]));
            String::from_utf8(answer[1].1.clone()).unwrap()
        };
        let socket = PathBuf::from(address.strip_prefix("unix://").unwrap());
        assert!(socket.starts_with(dir.path()));
        let client = Client::connect(&address).await.unwrap();
        Self { dir, socket, client }
    }

    async fn call_service(
        &self,
        service: &str,
        method: &str,
        payload: Writer,
    ) -> Result<Vec<u8>, ttrpc::Error> {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            timeout_nano: 30_000_000_000,
            payload: payload.finish(),
            ..Default::default()
        };
        self.client
            .request(request)
            .await
            .map(|response| response.payload)
    }

    async fn call(&self, method: &str, fill: impl FnOnce(&mut Writer)) -> Result<Vec<u8>, ttrpc::Error> {
        let mut request = Writer::default();
        request.bytes(1, "pod");
        fill(&mut request);
        self.call_service("containerd.runtime.sandbox.v1.Sandbox", method, request)
            .await
    }

    async fn state(&self) -> String {
        let status = self.call("SandboxStatus", |_| ()).await.unwrap();
        let state = fields(&status)
            .into_iter()
            .find(|(field, _)| *field == 3)
            .unwrap();
        String::from_utf8(state.1).unwrap()
    }
}

fn namespace(pid: impl std::fmt::Display, kind: &str) -> PathBuf {
    fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns").join(kind)).unwrap()
}

fn is_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if !root {
        println!("skipped: needs root");
    }
    root
}

#[tokio::test]
async fn a_sandbox_from_create_to_shutdown() {
    if !is_root() {
        return;
    }
    let pod = Pod::start(false).await;
    assert!(pod.call("StartSandbox", |_| ()).await.is_err());
    let bundle = pod.dir.path().display().to_string();
    let fill = |request: &mut Writer| {
        request.bytes(2, &bundle).bytes(5, "/proc/self/ns/net");
    };
    pod.call("CreateSandbox", fill).await.unwrap();
    assert!(pod.call("CreateSandbox", fill).await.is_err());
    assert_eq!(pod.state().await, "SANDBOX_NOTREADY");
    let started = pod.call("StartSandbox", |_| ()).await.unwrap();
    let pid = number(&started, 1);
    assert_ne!(namespace(pid, "ipc"), namespace("self", "ipc"));
    assert_ne!(namespace(pid, "uts"), namespace("self", "uts"));
    assert_eq!(namespace(pid, "net"), namespace("self", "net"));
    assert_eq!(pod.state().await, "SANDBOX_READY");
    pod.call("PingSandbox", |_| ()).await.unwrap();
    let platform = pod.call("Platform", |_| ()).await.unwrap();
    assert_eq!(fields(&fields(&platform)[0].1)[0].1, b"linux");
    // Containers of the pod come over the same socket, in the new service's name.
    let connected = pod
        .call_service("containerd.task.v3.Task", "Connect", Writer::default())
        .await;
    assert!(number(&connected.unwrap(), 1) > 0);
    pod.call("StopSandbox", |request| {
        request.uint(2, 5_u32);
    })
    .await
    .unwrap();
    let ended = pod.call("WaitSandbox", |_| ()).await.unwrap();
    assert_eq!(number(&ended, 1), 143);
    assert_eq!(pod.state().await, "SANDBOX_NOTREADY");
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    pod.call("ShutdownSandbox", |_| ()).await.unwrap();
    eventually("the shim ends", || !pod.socket.exists());
}

#[tokio::test]
async fn parameters_in_json_and_a_bad_namespace() {
    if !is_root() {
        return;
    }
    let pod = Pod::start(true).await;
    pod.call("CreateSandbox", |request| {
        request.bytes(5, "/no/such/netns");
    })
    .await
    .unwrap();
    let error = pod.call("StartSandbox", |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/netns"), "{error}");
    // And nothing is left of the attempt.
    assert_eq!(pod.state().await, "SANDBOX_NOTREADY");
    pod.call("ShutdownSandbox", |_| ()).await.unwrap();
    eventually("the shim ends", || !pod.socket.exists());
}

/// A container by hand, with every option that a runtime can be seen to obey.
#[tokio::test]
async fn options_of_containerds_runc_shim() {
    let runc = ["/usr/bin/runc", "/usr/sbin/runc"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists());
    let (true, Some(runc)) = (is_root(), runc) else {
        return println!("skipped: needs root and runc");
    };
    let pod = Pod::start(false).await;
    let bundle = pod.dir.path().join("bundle");
    fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
    fs::copy("/usr/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
    // Whose pipe is its stdout? A process that is not root opens it again only if it is its own.
    let script = "/bin/busybox echo again > /proc/self/fd/1; exec /bin/busybox sleep 1000";
    let id = format!("kelsonopt{}", std::process::id());
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 1234, "gid": 1235}, "cwd": "/", "args": ["/bin/busybox", "sh", "-c", script]},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"cgroupsPath": format!("/{id}"), "namespaces": [{"type": "pid"}, {"type": "mount"}]}
    });
    fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let mut options = Writer::default();
    let root = pod.dir.path().join("state").display().to_string();
    options
        .uint(4, 1234_u32)
        .uint(5, 1235_u32)
        .bytes(6, runc.display().to_string())
        .bytes(7, &root);
    let output = pod.dir.path().join("out");
    let mut create = Writer::default();
    create
        .bytes(1, &id)
        .bytes(2, bundle.display().to_string())
        .bytes(6, format!("file://{}", output.display()))
        .any(10, "containerd.runc.v1.Options", &options.finish());
    let task = |method, fill: &dyn Fn(&mut Writer)| {
        let mut request = Writer::default();
        request.bytes(1, &id);
        fill(&mut request);
        pod.call_service("containerd.task.v2.Task", method, request)
    };
    pod.call_service("containerd.task.v3.Task", "Create", create)
        .await
        .unwrap();
    assert!(
        Path::new(&root).join("n").join(&id).exists(),
        "the state is not where Root says"
    );
    task("Start", &|_| ()).await.unwrap();
    eventually("its output", || {
        fs::read_to_string(&output).is_ok_and(|text| text == "again\n")
    });
    let stats = task("Stats", &|_| ()).await.unwrap();
    let stats = String::from_utf8_lossy(&stats).into_owned();
    assert!(stats.contains("io.containerd.cgroups.v"), "{stats:?}");
    // A limit that can be read back, where there is a controller for it.
    let limits = br#"{"pids":{"limit":77}}"#;
    task("Update", &|request| {
        request.any(
            2,
            "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
            limits,
        );
    })
    .await
    .unwrap();
    let limit = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .iter()
        .find_map(|dir| fs::read_to_string(Path::new(dir).join(&id).join("pids.max")).ok());
    assert_eq!(limit.unwrap().trim(), "77");
    task("Kill", &|request| {
        request.uint(3, 9_u32);
    })
    .await
    .unwrap();
    let ended = task("Wait", &|_| ()).await.unwrap();
    assert_eq!(number(&ended, 1), 137);
    task("Delete", &|_| ()).await.unwrap();
    assert!(!Path::new(&root).join("n").join(&id).exists());
    task("Shutdown", &|_| ()).await.unwrap();
    eventually("the shim ends", || !pod.socket.exists());
}
