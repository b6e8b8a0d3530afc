//! Compiles the pid 1 of `--init` with rustc alone: static, without std and libc. So plain `cargo build` carries it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Machines whose system calls it knows. On others the program is empty, and `--init` is refused.
const KNOWN: [&str; 2] = ["x86_64", "aarch64"];

/// A program of one page: nothing is linked that it did not bring.
const LINK: &str = "-Clink-args=-nostartfiles -nostdlib -static -Wl,--build-id=none";

fn main() {
    println!("cargo:rerun-if-changed=../../runtime/sys/init");
    let (Some(out), Ok(target), Ok(machine)) = (
        env::var_os("OUT_DIR"),
        env::var("TARGET"),
        env::var("CARGO_CFG_TARGET_ARCH"),
    ) else {
        panic!("run by cargo only");
    };
    let program = PathBuf::from(out).join("kelson-init");
    println!("cargo:rustc-env=KELSON_INIT={}", program.display());
    if !KNOWN.contains(&machine.as_str()) {
        println!("cargo:warning=--init needs one of {KNOWN:?}, and this is {machine}");
        return std::fs::write(&program, b"").unwrap_or_else(|e| panic!("write {}: {e}", program.display()));
    }
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--edition=2024", "--crate-type=bin", "--crate-name=kelson_init"]);
    command.args([
        "--target",
        &target,
        "-Ctarget-feature=+crt-static",
        "-Crelocation-model=static",
    ]);
    // Link-time optimisation also because it makes core's code abort on a panic: what unwinds would need a library.
    command.args([
        "-Cpanic=abort",
        "-Copt-level=s",
        "-Clto=fat",
        "-Cstrip=symbols",
        LINK,
    ]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut flag = std::ffi::OsString::from("-Clinker=");
        flag.push(linker);
        command.arg(flag);
    }
    let source = "../../runtime/sys/init/main.rs";
    match command.arg("-o").arg(&program).arg(source).status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("rustc {source}: {status}"),
        Err(error) => panic!("run rustc: {error}"),
    }
}
