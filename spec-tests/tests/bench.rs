//! The benches run, and what they write can be read by programs, browsers and people. No figure is judged here.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What `make test` has built, else what this build has made beside us.
fn program(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_kelson-spec-tests")).parent()?;
    let directory = std::env::var_os("KELSON_BIN_DIR").map_or_else(|| beside.to_owned(), PathBuf::from);
    Some(directory.join(name)).filter(|program| program.exists())
}

#[test]
fn runtimes_are_timed_against_each_other_and_the_floor() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: needs root");
        return;
    }
    let (Some(runtime), Some(floor)) = (program("kelson-runtime"), program("kelson-floor")) else {
        eprintln!("SKIP: no kelson-runtime and kelson-floor in KELSON_BIN_DIR or beside kelson-spec-tests");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    // A second contender by another path: two of one name must not be taken for one.
    let second = file("kelson-runtime");
    std::fs::copy(&runtime, &second).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kelson-spec-tests"))
        .args([
            "bench",
            "--lone",
            "1",
            "--rounds",
            "1",
            "--burst",
            "2",
            "--parallel",
            "3",
        ])
        .args(["--crowd", "4"])
        .arg("--runtime")
        .arg(&runtime)
        .arg("--runtime")
        .arg(&second)
        .arg("--floor")
        .arg(&floor)
        .arg("--json")
        .arg(file("bench.json"))
        .arg("--svg")
        .arg(file("bench.svg"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");

    let json: Value = serde_json::from_slice(&std::fs::read(file("bench.json")).unwrap()).unwrap();
    let reports = json["reports"].as_array().unwrap();
    let of = |title: &str| reports.iter().find(|report| report["title"] == title).unwrap();
    let run = of("run of /bin/true");
    let names: Vec<&str> = run["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            runtime.to_str().unwrap(),
            second.to_str().unwrap(),
            "kelson-floor"
        ],
        "{text}"
    );
    assert_eq!(run["rows"][2]["is_limit"], true);
    for row in run["rows"].as_array().unwrap() {
        assert_eq!(row["figures"].as_array().unwrap().len(), 4, "{row}");
        assert!(
            row["figures"][1]["median_us"].as_u64().unwrap() > 0,
            "no CPU time: {row}"
        );
    }
    assert_eq!(run["ratios"].as_array().unwrap().len(), 2);
    assert!(run["memory"][0]["pss_kib"].as_u64().unwrap() > 0);
    of("run of /bin/true: 3 at once");
    of("create, start, delete --force of /bin/true");
    of("exec of /bin/true");
    of("state");
    assert!(text.contains("| kelson-floor (the limit) |"), "{text}");

    let picture = std::fs::read_to_string(file("bench.svg")).unwrap();
    assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"));
    assert_eq!(
        picture.matches("stroke-dasharray").count(),
        6,
        "the limit, once per column"
    );
}

#[test]
fn wrong_arguments_are_named() {
    for (arguments, said) in [
        (&["bench"][..], "--runtime <PATH>"),
        (&["bench", "--engine", "ssh://x"], "neither unix:// nor tcp://"),
        (
            &["bench", "--runtime", "a", "--engine", "b"],
            "cannot be used with",
        ),
        (&["bench", "--runtime", "a", "--lone", "0"], "at least 1"),
        (
            &["bench", "--runtime", "/no/such/runtime"],
            "no contender could be started",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_kelson-spec-tests"))
            .args(arguments)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
    }
}
