//! The mutation check: our runtime, built with faults that can be planted one at a time, must fail the cases that ask for what each
//! fault takes away, and pass the same cases with none planted. Faults that a script in front of a runtime can bring about, hanging
//! and lying ones among them, are in `mutants.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Read by the runtime that is built with `deliberate-faults`: `fault::is_planted`.
const PLANT: &str = "KELSON_PLANTED_FAULT";

/// The fault's name, and the cases that must notice.
const FAULTS: &[(&str, &[&str])] = &[
    (
        "masked-path",
        &["runtime/masked/file", "runtime/masked/directory"],
    ),
    ("readonly-path", &["runtime/readonly/cannot-be-written"]),
    ("hook-order", &["runtime/hooks/order"]),
    ("descriptor", &["runtime/process/descriptors"]),
    ("oom-score-adj", &["runtime/process/oom-score-adj"]),
    ("no-new-privileges", &["runtime/process/no-new-privileges"]),
    ("capability", &["runtime/capabilities/bounding"]),
    ("additional-groups", &["runtime/user/additional-groups"]),
    ("seccomp", &["runtime/seccomp/errno", "cli/exec/seccomp"]),
    ("limits", &["runtime/cgroups/pids-limit-holds"]),
    ("sysctl", &["runtime/sysctl/is-set"]),
    ("rlimit", &["runtime/rlimits/nofile"]),
    ("mount-option", &["runtime/mount-options/noexec"]),
    (
        "state",
        &[
            "runtime/state/of-a-created-container",
            "runtime/state/words-are-those-of-the-specification",
        ],
    ),
    ("signal", &["runtime/kill/reaches-the-process"]),
    ("cgroup", &["runtime/delete/removes-what-create-made"]),
];

/// Built here, into the same directory as the tests, so that only the runtime itself is compiled once more.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--locked", "--quiet", "--workspace"])
        .args(["--bin", "kelson-runtime-faulty"])
        .args(["--features", "kelson-runtime/deliberate-faults"])
        .args(["--message-format", "json"])
        .current_dir(root)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.filter_map(|message| {
        let ours = message["target"]["name"] == "kelson-runtime-faulty";
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    });
    programs.next().expect("cargo names no executable")
}

/// Names of the cases that failed.
fn judge(runtime: &Path, fault: Option<&str>, cases: &[&str]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kelson-spec-tests"));
    command.args(["run", "--runtime"]).arg(runtime);
    for case in cases {
        command.args(["--filter", case]);
    }
    match fault {
        Some(name) => command.env(PLANT, name),
        None => command.env_remove(PLANT),
    };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains(" passed, "),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let failed = text.lines().filter_map(|line| line.strip_prefix("failed: "));
    failed.map(str::to_owned).collect()
}

#[test]
fn every_planted_fault_is_caught() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: needs root");
        return;
    }
    let runtime = build();
    let all: Vec<&str> = FAULTS
        .iter()
        .flat_map(|(_, cases)| cases.iter().copied())
        .collect();
    let failed = judge(&runtime, None, &all);
    assert!(failed.is_empty(), "with no fault planted: {failed:#?}");
    let mut missed = Vec::new();
    for (fault, cases) in FAULTS {
        let failed = judge(&runtime, Some(fault), cases);
        let quiet = cases.iter().filter(|case| !failed.iter().any(|one| one == *case));
        missed.extend(quiet.map(|case| format!("{fault}: {case} did not fail")));
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
