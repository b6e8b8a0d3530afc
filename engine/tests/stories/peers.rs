//! Issue's story 3: our parts under stock engines, and a stock part under ours.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kelson_spec_tests::bundle;
use kelson_spec_tests::eventually::eventually;

use crate::support::command::{LIMIT, Outcome, run};
use crate::support::images::Image;
use crate::support::programs::{ours, peer};
use crate::support::{Client, Playground};

#[test]
fn containerd_runs_our_runtime() {
    let play = Playground::without_daemon(Client::Docker, &[]);
    let archive = Image::Busybox.ensure_made();
    let containerd = Containerd::start(play.scratch());
    containerd
        .ctr(&["images", "import", archive.archive().to_str().unwrap()])
        .ok();
    let image = Image::Busybox.reference();
    let runtime = ours("kelson-runtime");
    let start = |more: &[&str]| {
        let mut arguments = vec!["run", "--rm", "--runc-binary", runtime.to_str().unwrap()];
        arguments.extend(more);
        containerd.ctr(&arguments)
    };
    assert_eq!(start(&[image, "one", "echo", "hello"]).ok(), "hello");
    start(&[image, "two", "sh", "-c", "exit 6"]).fails_with(6);
    let error = start(&[image, "three", "no-such"]).fails_with(1);
    assert!(error.contains("no-such"), "{error}");

    let runc = ["--runc-binary", runtime.to_str().unwrap()];
    containerd
        .ctr(&[&["run", "-d"], &runc[..], &[image, "four", "sleep", "3600"]].concat())
        .ok();
    let executed = containerd
        .ctr(&["task", "exec", "--exec-id", "look", "four", "cat", "/proc/1/comm"])
        .ok();
    assert_eq!(executed, "sleep");
    let figures = containerd.ctr(&["task", "metrics", "four"]).ok();
    assert!(figures.contains("four"), "{figures}");
    let processes = containerd.ctr(&["task", "ps", "four"]).ok();
    assert_eq!(processes.lines().count(), 2, "{processes}");
    containerd.ctr(&["task", "pause", "four"]).ok();
    containerd.ctr(&["task", "resume", "four"]).ok();
    containerd
        .ctr(&["task", "kill", "--signal", "SIGKILL", "four"])
        .ok();
    eventually("removal of the task", Duration::from_secs(20), || {
        let outcome = containerd.ctr(&["task", "delete", "four"]);
        // `delete` exits with the task's code.
        anyhow::ensure!(!outcome.stderr.contains("must be stopped"), "{outcome:?}");
        Ok(Some(()))
    })
    .unwrap();
    containerd.ctr(&["container", "delete", "four"]).ok();
}

/// containerd with its state below one directory.
struct Containerd {
    child: Child,
    socket: std::path::PathBuf,
}

impl Containerd {
    fn start(place: &Path) -> Self {
        let socket = place.join("containerd.sock");
        let configuration = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
            place.join("containerd"),
            place.join("containerd-run"),
        );
        let file = place.join("containerd.toml");
        fs::write(&file, configuration).unwrap();
        let log = fs::File::create(place.join("containerd.log")).unwrap();
        let mut command = Command::new(peer("containerd"));
        command
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let containerd = Self {
            child: command.spawn().unwrap(),
            socket,
        };
        eventually("containerd", Duration::from_secs(30), || {
            let outcome = containerd.ctr(&["version"]);
            anyhow::ensure!(outcome.code == 0, "{outcome:?}");
            Ok(Some(()))
        })
        .unwrap();
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Outcome {
        run(
            Command::new(peer("ctr"))
                .arg("--address")
                .arg(&self.socket)
                .args(arguments),
            LIMIT,
        )
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn our_engine_runs_stock_runc() {
    let play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    let mut runtimes = vec!["runc", "crun"];
    // Once anything on the machine has handed a controller down the v2 hierarchy beside v1, crun refuses to run.
    let handed = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    if let Some(handed) = handed.ok().filter(|list| !list.trim().is_empty()) {
        eprintln!(
            "crun is left out: beside v1, the v2 hierarchy has {}",
            handed.trim()
        );
        runtimes.pop();
    }
    for runtime in runtimes {
        let hello = play.run(&["run", "--rm", "--runtime", runtime, image, "echo", "hello"]);
        assert_eq!(hello.ok(), "hello", "{runtime}");
        play.run(&["run", "--rm", "--runtime", runtime, image, "sh", "-c", "exit 4"])
            .fails_with(4);
        play.run(&["run", "--rm", "--runtime", runtime, image, "no-such"])
            .fails_with(127);
        play.run(&["run", "--rm", "--runtime", runtime, image, "/etc/passwd"])
            .fails_with(126);
    }
    let before = play.inventory();
    let name = ["--name", "one"];
    play.ok(&[
        &["run", "-d", "--runtime", "runc"],
        &name[..],
        &[image, "sleep", "3600"],
    ]
    .concat());
    assert_eq!(play.ok(&["exec", "one", "cat", "/proc/1/comm"]), "sleep");
    play.ok(&["rm", "-f", "one"]);
    play.nothing_left_since(&before);
    play.finish();
}

#[test]
fn our_runtime_refuses_a_malformed_configuration() {
    let play = Playground::without_daemon(Client::Docker, &[]);
    let place = play.scratch().join("bundle");
    bundle::write(&place, &["/bin/true"], "/test/one").unwrap();
    let state = play.scratch().join("state");
    let attempt = || {
        let mut command = Command::new(ours("kelson-runtime"));
        command
            .arg("--root")
            .arg(&state)
            .args(["run", "--bundle"])
            .arg(&place)
            .arg("one");
        run(&mut command, LIMIT)
    };
    attempt().ok();
    let before = play.inventory();
    let good: serde_json::Value =
        serde_json::from_slice(&fs::read(place.join("config.json")).unwrap()).unwrap();
    let broken: [(&str, String, &str); 5] = [
        ("no JSON", "{ \"ociVersion\": ".to_owned(), "config.json"),
        (
            "a number for a string",
            changed(&good, "/root/path", 7.into()),
            "path",
        ),
        (
            "no arguments",
            changed(&good, "/process/args", serde_json::json!([])),
            "args",
        ),
        (
            "a relative cwd",
            changed(&good, "/process/cwd", "tmp".into()),
            "cwd",
        ),
        (
            "a namespace that is none",
            changed(&good, "/linux/namespaces/0/type", "pidd".into()),
            "pidd",
        ),
    ];
    for (name, text, word) in broken {
        fs::write(place.join("config.json"), text).unwrap();
        let error = attempt().fails_with(1);
        assert!(
            error.contains(word) && error.lines().count() == 1,
            "{name}: {error}"
        );
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play.nothing_left_since(&before)));
        assert!(result.is_ok(), "{name}: something is left");
    }
}

fn changed(good: &serde_json::Value, pointer: &str, value: serde_json::Value) -> String {
    let mut copy = good.clone();
    *copy.pointer_mut(pointer).unwrap() = value;
    copy.to_string()
}
