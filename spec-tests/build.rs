//! Compiles the probe with rustc alone: static, small, no crates. So one file is the whole suite.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=probe");
    let (Some(out), Ok(target)) = (env::var_os("OUT_DIR"), env::var("TARGET")) else {
        panic!("run by cargo only");
    };
    let program = PathBuf::from(out).join("kelson-probe");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args([
        "--edition=2024",
        "--crate-type=bin",
        "--crate-name=kelson_probe",
        "--target",
        &target,
    ]);
    command.args([
        "-Ctarget-feature=+crt-static",
        "-Cpanic=abort",
        "-Copt-level=s",
        "-Cstrip=symbols",
    ]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut flag = std::ffi::OsString::from("-Clinker=");
        flag.push(linker);
        command.arg(flag);
    }
    let status = command.arg("-o").arg(&program).arg("probe/main.rs").status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("rustc probe/main.rs: {status}"),
        Err(error) => panic!("run rustc: {error}"),
    }
    println!("cargo:rustc-env=KELSON_PROBE={}", program.display());
}
