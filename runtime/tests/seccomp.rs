//! Filters whose calls wait for an agent, with an agent of our own that answers them.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use common::{Bundle, can_run, text};
use libseccomp::{ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags, ScmpSyscall};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

/// ENOMEDIUM, which no mkdir gives.
const ANSWER: i32 = 123;

/// An agent that refuses every mkdir, lets all other calls go on, and gives what it was told of each container.
struct Agent {
    told: Receiver<Value>,
    thread: Option<JoinHandle<()>>,
    path: std::path::PathBuf,
}

impl Agent {
    fn new(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || serve(&listener, &tell));
        Self {
            told,
            thread: Some(thread),
            path: path.to_owned(),
        }
    }

    fn told(&self) -> Value {
        self.told
            .recv_timeout(std::time::Duration::from_secs(10))
            .unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A connection without a descriptor ends it.
        drop(UnixStream::connect(&self.path));
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn serve(listener: &UnixListener, tell: &Sender<Value>) {
    let mut served = Vec::new();
    loop {
        let (stream, _) = listener.accept().unwrap();
        let Some((document, fd)) = receive(&stream) else {
            break;
        };
        let _ = tell.send(document);
        served.push(std::thread::spawn(move || answer(&fd)));
    }
    for thread in served {
        thread.join().unwrap();
    }
}

fn receive(stream: &UnixStream) -> Option<(Value, OwnedFd)> {
    let mut buffer = [0u8; 8192];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let m = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .unwrap();
    let fd = m.cmsgs().unwrap().find_map(|c| match c {
        ControlMessageOwned::ScmRights(fds) => Some(kelson_sys::fds::take_inherited(fds[0]).unwrap()),
        _ => None,
    })?;
    let length = m.bytes;
    Some((serde_json::from_slice(&buffer[..length]).unwrap(), fd))
}

/// Until nobody has the filter any more.
fn answer(fd: &OwnedFd) {
    let mkdir = ScmpSyscall::from_name("mkdir").unwrap();
    loop {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        if !fds[0].revents().unwrap().contains(PollFlags::POLLIN) {
            return;
        }
        // The process may be gone by now.
        let Ok(request) = ScmpNotifReq::receive(fd.as_raw_fd()) else {
            continue;
        };
        let response = if request.data.syscall == mkdir {
            ScmpNotifResp::new_error(request.id, -ANSWER, ScmpNotifRespFlags::empty())
        } else {
            ScmpNotifResp::new_continue(request.id, ScmpNotifRespFlags::empty())
        };
        let _ = response.respond(fd.as_raw_fd());
    }
}

fn listening(b: &mut Bundle, calls: &[&str], no_new_privileges: bool) {
    b.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
    b.config["annotations"] = json!({"org.example.key": "value"});
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": b.path("agent"), "listenerMetadata": "for the agent",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": calls, "action": "SCMP_ACT_NOTIFY"}]
    });
}

const MKDIR: &str = "mkdir /tmp/x 2>&1; test ! -e /tmp/x && echo not made";

#[test]
fn an_agent_answers_calls_of_the_first_process_and_of_exec() {
    if !can_run() {
        return;
    }
    for no_new_privileges in [false, true] {
        let mut b = Bundle::new(&format!("{MKDIR}; exec sleep 100"));
        listening(&mut b, &["mkdir"], no_new_privileges);
        let agent = Agent::new(&b.path("agent"));
        // Twice: the second time the filter is from the cache, where the agent is not.
        for _ in 0..2 {
            let out = b.create(&[]);
            assert!(out.status.success(), "{}", text(&out.stderr));
            let told = agent.told();
            let pid = b.pid();
            assert_eq!(
                (&told["fds"], &told["pid"], &told["metadata"]),
                (&json!(["seccompFd"]), &json!(pid), &json!("for the agent"))
            );
            assert_eq!(told["ociVersion"], b.config["ociVersion"]);
            let state = &told["state"];
            assert_eq!(
                (&state["id"], &state["status"], &state["pid"]),
                (&json!(b.id), &json!("creating"), &json!(pid))
            );
            assert_eq!(state["annotations"]["org.example.key"], "value");
            assert_eq!(state["bundle"], json!(b.dir.path()));

            b.start();
            common::eventually("the call is answered", || {
                let out = fs::read_to_string(b.path("out")).unwrap();
                out.contains("No medium found") && out.contains("not made")
            });
            let out = b.exec(&["sh", "-c", MKDIR]);
            let said = text(&out.stdout);
            assert!(
                said.contains("No medium found") && said.contains("not made"),
                "{said}{}",
                text(&out.stderr)
            );
            let told = agent.told();
            assert_eq!(
                (&told["state"]["status"], &told["state"]["pid"]),
                (&json!("running"), &json!(pid))
            );
            assert_ne!(told["pid"], json!(pid));
            assert!(b.delete().status.success());
        }
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn the_calls_of_the_runtime_itself_may_wait() {
    if !can_run() {
        return;
    }
    for no_new_privileges in [false, true] {
        let mut b = Bundle::new("echo fine");
        let calls = [
            "execve", "openat", "open", "read", "close", "fcntl", "sendmsg", "recvmsg",
        ];
        listening(&mut b, &calls, no_new_privileges);
        let agent = Agent::new(&b.path("agent"));
        assert_eq!(b.output(), "fine\n");
        agent.told();
    }
}

#[test]
fn without_an_agent_nothing_starts_and_nothing_is_left() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("true");
    listening(&mut b, &["mkdir"], true);
    let out = b.run();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        said.contains("linux.seccomp.listenerPath: failed to connect with seccomp agent"),
        "{said}"
    );
    b.config["linux"]["seccomp"]["listenerPath"] = json!("@no-such-agent");
    assert!(text(&b.run().stderr).contains("@no-such-agent"));
    b.config["linux"]["seccomp"]["listenerPath"] = json!("");
    b.config["linux"]["seccomp"]["listenerMetadata"] = json!("");
    assert!(text(&b.run().stderr).contains("linux.seccomp.listenerPath: is required"));
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn an_agent_named_by_crun_and_one_that_is_not_needed() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new(MKDIR);
    listening(&mut b, &["mkdir"], true);
    let agent = Agent::new(&b.path("agent"));
    let path = b.config["linux"]["seccomp"]["listenerPath"].take();
    b.config["annotations"]["run.oci.seccomp.receiver"] = path;
    b.config["linux"]["seccomp"]["listenerMetadata"] = json!(null);
    assert!(b.output().contains("No medium found"));
    assert_eq!(agent.told().get("metadata"), None);
    drop(agent);
    // Without such an action the path means nothing.
    listening(&mut b, &["mkdir"], true);
    b.config["linux"]["seccomp"]["syscalls"] = json!([]);
    b.config["process"]["args"] = json!(["echo", "fine"]);
    assert_eq!(b.output(), "fine\n");
}

#[test]
fn a_startcontainer_hook_is_under_the_filter() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("true");
    b.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": ANSWER}]});
    b.config["hooks"] =
        json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "mkdir /tmp/x"]}]});
    let out = b.run();
    assert!(
        !out.status.success() && text(&out.stderr).contains("No medium found"),
        "{}",
        text(&out.stderr)
    );
}
