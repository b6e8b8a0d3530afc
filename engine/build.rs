//! Compiles the embedded image's program with rustc alone: static, small, no crates. So plain `cargo build` carries it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let source = PathBuf::from("hello/main.rs");
    println!("cargo:rerun-if-changed={}", source.display());
    let (Some(out), Ok(target)) = (env::var_os("OUT_DIR"), env::var("TARGET")) else {
        panic!("run by cargo only");
    };
    let program = PathBuf::from(out).join("kelson-hello");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args([
        "--edition=2024",
        "--crate-type=bin",
        "--crate-name=kelson_hello",
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
    let status = command.arg("-o").arg(&program).arg(&source).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("rustc {}: {status}", source.display()),
        Err(error) => panic!("run rustc: {error}"),
    }
    println!("cargo:rustc-env=KELSON_HELLO={}", program.display());
}
