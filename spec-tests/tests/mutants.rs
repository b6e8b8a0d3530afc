//! Runtimes that are broken on purpose, hang, lie or leave a mess: a shell script in front of the real one takes something away, and the cases that
//! ask for it must fail. The same cases pass with a script that changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Runs of the suite at the same time.
const SIDE_BY_SIDE: usize = 4;

/// What is broken, the lines of shell that break it, and the cases that must notice. `$cmd` is the runtime's command,
/// `$bundle` the bundle of create and run, `$@` the arguments, `$real` the runtime.
const MUTANTS: &[(&str, &str, &[&str])] = &[
    (
        "a mount option is dropped",
        r#"config 's/"noexec"/"exec"/'"#,
        &["runtime/mount-options/noexec"],
    ),
    (
        "masked paths are not masked",
        r#"config 's/"maskedPaths"/"unmaskedPaths"/'"#,
        &[
            "runtime/masked/file",
            "runtime/masked/directory",
            "runtime/masked/not-absolute",
        ],
    ),
    (
        "read-only paths are not read-only",
        r#"config 's/"readonlyPaths"/"writablePaths"/'"#,
        &["runtime/readonly/cannot-be-written"],
    ),
    (
        "the root is never read-only",
        r#"config 's/"readonly": true/"readonly": false/'"#,
        &["runtime/root/readonly"],
    ),
    (
        "oomScoreAdj is ignored",
        r#"config 's/"oomScoreAdj"/"oomScore"/'"#,
        &["runtime/process/oom-score-adj"],
    ),
    (
        "noNewPrivileges is ignored",
        r#"config 's/"noNewPrivileges"/"someNewPrivileges"/'"#,
        &["runtime/process/no-new-privileges"],
    ),
    (
        "the seccomp filter is not loaded",
        r#"config 's/"seccomp"/"seccomps"/'"#,
        &[
            "runtime/seccomp/errno",
            "runtime/seccomp/kill",
            "runtime/seccomp/compare-eq",
        ],
    ),
    (
        "a capability too many",
        r#"config 's/"CAP_KILL"/"CAP_KILL", "CAP_SYS_ADMIN"/'"#,
        &["runtime/capabilities/bounding", "runtime/capabilities/effective"],
    ),
    (
        "hooks of two kinds are exchanged",
        r#"config 's/"prestart":/"x":/; s/"createRuntime":/"prestart":/; s/"x":/"createRuntime":/'"#,
        &["runtime/hooks/order"],
    ),
    (
        "poststop hooks are forgotten",
        r#"config 's/"poststop"/"poststopped"/'"#,
        &["runtime/hooks/order", "runtime/hooks/poststop-state"],
    ),
    (
        "a limit is not set",
        r#"config 's/"pids":/"pid":/'"#,
        &["runtime/cgroups/pids-limit", "runtime/cgroups/pids-limit-holds"],
    ),
    (
        "additional groups are lost",
        r#"config 's/"additionalGids"/"moreGids"/'"#,
        &["runtime/user/additional-groups"],
    ),
    (
        "a namespace is not made",
        r#"[ -n "$bundle" ] && sed -z -i 's/{[[:space:]]*"type": "ipc"[[:space:]]*},//' "$bundle/config.json""#,
        &["runtime/namespaces/ipc-new", "runtime/namespaces/ipc-is-its-own"],
    ),
    (
        "a descriptor leaks",
        r#"if [ "$cmd" = create ]; then shift 3; exec 3</; exec "$real" --root "$root" create --preserve-fds 1 "$@"; fi"#,
        &["runtime/process/descriptors"],
    ),
    (
        "an error is exit code 0",
        r#"if [ "$cmd" = state ] || [ "$cmd" = kill ]; then "$real" "$@" || exit 0; exit 0; fi"#,
        &[
            "runtime/state/unknown-id",
            "runtime/kill/of-a-stopped-container",
            "runtime/kill/needs-an-id",
        ],
    ),
    (
        "delete does nothing",
        r#"[ "$cmd" = delete ] && exit 0"#,
        &[
            "runtime/delete/removes-what-create-made",
            "runtime/delete/id-can-be-used-again",
        ],
    ),
    (
        "delete freezes what it should remove",
        r#"if [ "$cmd" = delete ]; then for a; do id=$a; done; "$real" --root "$root" pause "$id"; exit 0; fi"#,
        &["runtime/delete/removes-what-create-made"],
    ),
    (
        "every command hangs and cannot be asked to end",
        r#"case "$cmd" in create|run) trap '' TERM INT HUP; while :; do sleep 1000; done;; esac"#,
        &["runtime/create/creates"],
    ),
    (
        "it writes without end",
        r#"[ "$cmd" = state ] && exec cat /dev/zero"#,
        &["runtime/state/of-a-created-container"],
    ),
    (
        "another signal is sent",
        r#"if [ "$cmd" = kill ]; then exec "$real" --root "$root" kill "$4" KILL; fi"#,
        &["runtime/kill/reaches-the-process", "cli/kill/default-signal"],
    ),
    (
        "a created container is said to run",
        r#"if [ "$cmd" = state ]; then "$real" "$@" | sed 's/"created"/"running"/'; exit 0; fi"#,
        &[
            "runtime/state/of-a-created-container",
            "runtime/state/words-are-those-of-the-specification",
        ],
    ),
    (
        "the state is garbage",
        r#"if [ "$cmd" = state ]; then head -c 3000 /dev/zero | tr '\0' '{'; exit 0; fi"#,
        &["runtime/state/of-a-created-container", "runtime/create/creates"],
    ),
    (
        "errors are crashes",
        r#"if [ "$cmd" = start ]; then "$real" "$@" || kill -SEGV $$; exit 0; fi"#,
        &["runtime/start/unknown-id", "runtime/start/of-a-running-container"],
    ),
    (
        "start hangs",
        r#"[ "$cmd" = start ] && exec sleep 1000"#,
        &["runtime/start/runs-the-program"],
    ),
    (
        "exec loses the exit code",
        r#"if [ "$cmd" = exec ]; then "$real" "$@"; exit 0; fi"#,
        &["cli/exec/exit-code", "cli/exec/not-there"],
    ),
    (
        "exec runs as root whatever the user",
        r#"if [ "$cmd" = exec ]; then shift 3; for a; do shift; case "$a" in --user*|100[0-9]*) ;; *) set -- "$@" "$a";; esac; done; exec "$real" --root "$root" exec "$@"; fi"#,
        &["cli/exec/user"],
    ),
];

const FRAME: &str = r#"#!/bin/sh
real=REAL
root=$2
cmd=$3
bundle=
last=
for argument; do
  [ "$last" = --bundle ] && bundle=$argument
  last=$argument
done
config() { if [ -f "$bundle/config.json" ]; then sed -i "$1" "$bundle/config.json"; fi; }
MUTATION
exec "$real" "$@"
"#;

fn runtime() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_kelson-spec-tests")).parent()?;
    let directory = std::env::var_os("KELSON_BIN_DIR").map_or_else(|| beside.to_owned(), PathBuf::from);
    let program = directory.join("kelson-runtime");
    program.exists().then_some(program)
}

/// The lines of a run of some cases against a runtime that is broken so.
fn judge(directory: &Path, real: &Path, mutation: &str, cases: &[&str]) -> String {
    let script = directory.join("runtime.sh");
    let text = FRAME
        .replace("REAL", &real.to_string_lossy())
        .replace("MUTATION", mutation);
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kelson-spec-tests"));
    command.args(["run", "--runtime"]).arg(&script);
    for case in cases {
        command.args(["--filter", case]);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let own = format!("kst{}", child.id());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let left = left_of(&own);
    assert!(left.is_empty(), "{mutation}: left behind: {left:#?}\n{text}");
    assert!(
        text.contains(" passed, "),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Processes and cgroups that are left of a run, by what their names begin with.
fn left_of(own: &str) -> Vec<String> {
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(own) {
            left.push(format!("process {}: {command}", entry.file_name().display()));
        }
    }
    left.extend(cgroups_of(own));
    left
}

fn cgroups_of(own: &str) -> Vec<String> {
    let mut left = Vec::new();
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(own) {
                left.push(format!("cgroup {}", entry.path().display()));
            }
            directories.push(entry.path());
        }
    }
    left
}

#[test]
fn every_mutant_is_caught_by_the_cases_that_are_named() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: needs root");
        return;
    }
    let Some(real) = runtime() else {
        eprintln!("SKIP: no kelson-runtime in KELSON_BIN_DIR or beside kelson-spec-tests");
        return;
    };
    // Most of a run is waiting, and some are for a runtime that hangs.
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                let directory = tempfile::tempdir().unwrap();
                while let Some((name, mutation, cases)) = MUTANTS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let text = judge(directory.path(), &real, mutation, cases);
                    for case in *cases {
                        if !text.lines().any(|line| line == format!("failed: {case}")) {
                            let line = format!("{name}: {case} did not fail");
                            missed.lock().unwrap().push(line);
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let all: Vec<&str> = MUTANTS
        .iter()
        .flat_map(|(_, _, cases)| cases.iter().copied())
        .collect();
    let text = judge(directory.path(), &real, "", &all);
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("failed: ")).collect();
    assert!(
        failed.is_empty(),
        "with a script that changes nothing: {failed:#?}\n{text}"
    );
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_mess_is_named_and_removed() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: needs root");
        return;
    }
    let Some(real) = runtime() else {
        eprintln!("SKIP: no kelson-runtime in KELSON_BIN_DIR or beside kelson-spec-tests");
        return;
    };
    let mess = r#"if [ "$cmd" = create ]; then
        sleep 1000 & mount -t tmpfs mess /mnt
        for d in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do [ -e "$d" ] && mkdir -p "${d%/*}/mess/deep"; done
        exit 1
    fi"#;
    let directory = tempfile::tempdir().unwrap();
    let text = judge(
        directory.path(),
        &real,
        mess,
        &["runtime/create/creates", "runtime/start/unknown-id"],
    );
    for line in [
        "left behind: cgroup mess",
        "left behind: cgroup deep",
        "left behind: mount /mnt",
        "failed: runtime/create/creates",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let process = text
        .lines()
        .any(|line| line.contains("left behind: process ") && line.ends_with("sleep 1000"));
    assert!(process, "{text}");
    // The next case is not poisoned.
    assert!(text.contains("ok    runtime/start/unknown-id"), "{text}");
    assert_eq!(cgroups_of("mess"), Vec::<String>::new());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(" - tmpfs mess "), "{table}");
}
