//! The suites against our own runtime: no case fails, on whichever machine this is.
//! The coverage document is what the program prints.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// What `make test` has built, else what this build has made beside us.
fn runtime() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_kelson-spec-tests")).parent()?;
    let directory = std::env::var_os("KELSON_BIN_DIR").map_or_else(|| beside.to_owned(), PathBuf::from);
    let program = directory.join("kelson-runtime");
    program.exists().then_some(program)
}

fn judge(suite: &str) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: needs root");
        return;
    }
    let Some(runtime) = runtime() else {
        eprintln!("SKIP: no kelson-runtime in KELSON_BIN_DIR or beside kelson-spec-tests");
        return;
    };
    let output = Command::new(env!("CARGO_BIN_EXE_kelson-spec-tests"))
        .args(["run", "--filter", suite, "--runtime"])
        .arg(runtime)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains(" passed, "),
        "{}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn our_runtime_keeps_the_specification() {
    judge("runtime/");
}

#[test]
fn our_runtime_has_the_command_line_that_engines_use() {
    judge("cli/");
}

#[test]
fn our_runtime_withstands_the_attacks() {
    judge("attacks/");
}

#[test]
fn the_coverage_documents_are_up_to_date() {
    for (table, name) in [
        ("runtime", "docs/coverage.md"),
        ("engine", "docs/coverage-engine.md"),
        ("attacks", "docs/coverage-attacks.md"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_kelson-spec-tests"))
            .args(["report", "--coverage", table])
            .output()
            .unwrap();
        let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        assert!(
            String::from_utf8_lossy(&output.stdout) == document,
            "spec-tests/{name} is old: cargo spec report --coverage {table} > spec-tests/{name}"
        );
    }
}
