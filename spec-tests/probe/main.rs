//! The probe: the whole userland of a container under test, and every hook.
//!
//! `probe ACT ARGS , ACT ARGS ...` does one act after the other and prints one line of JSON for each:
//! `{"act": "open /x r", "ok": true, "value": ...}` or `{"act": ..., "ok": false, "errno": 13}`. It has no crates and is
//! static, so that it runs where there is nothing else. `exit N` ends it; `hook FILE NAME` adds to FILE what a hook sees. The verbs in
//! `plain.rs` print as the program of a container does.
#![no_main]

mod acts;
mod agent;
mod json;
mod observe;
mod plain;
mod sys;

use std::ffi::{c_char, c_int};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

use json::{object, string, strings};

/// The C main: std's own start-up would change the disposition of SIGPIPE and open missing standard streams before we
/// could look at them.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    plain::spring();
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    for words in args.split(|arg| arg == ",") {
        match words.first().map(String::as_str) {
            Some("exit") => return words.get(1).and_then(|code| code.parse().ok()).unwrap_or(125),
            Some("hook") => hook(&words[1..]),
            Some(_) => match plain::act(words) {
                plain::Ending::Unknown => answer(words),
                plain::Ending::Done => {}
                plain::Ending::Exit(code) => return code,
            },
            None => {}
        }
    }
    0
}

fn answer(words: &[String]) {
    let act = string(&words.join(" "));
    say(&match acts::act(words) {
        Ok(value) => object(&[("act", act), ("ok", "true".into()), ("value", value)]),
        Err(error) => object(&[
            ("act", act),
            ("ok", "false".into()),
            ("errno", error.raw_os_error().unwrap_or(0).to_string()),
        ]),
    });
}

/// One line, in one write, to standard output if there is one.
pub fn say(line: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(format!("{line}\n").as_bytes());
    let _ = stdout.flush();
}

fn hook(words: &[String]) {
    let (Some(file), Some(name)) = (words.first(), words.get(1)) else {
        return;
    };
    let mut state = String::new();
    let _ = std::io::stdin().take(1 << 20).read_to_string(&mut state);
    let pid = pid_in(&state);
    let of = |what: &str| {
        fs::read_link(format!("/proc/{pid}/{what}"))
            .map_or_else(|e| e.to_string(), |p| p.display().to_string())
    };
    let root = |path: &str| {
        fs::metadata(path).map_or("null".into(), |m| string(&format!("{}:{}", m.dev(), m.ino())))
    };
    let line = object(&[
        ("hook", string(name)),
        ("state", string(&state)),
        ("args", strings(std::env::args())),
        (
            "env",
            strings(
                std::env::vars_os().map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy())),
            ),
        ),
        (
            "cwd",
            string(&std::env::current_dir().map_or_else(|e| e.to_string(), |p| p.display().to_string())),
        ),
        ("namespaces", observe::namespaces()),
        ("root", root("/")),
        (
            "fds",
            fs::read_dir("/proc/self/fd")
                .map_or(0, |all| all.count().saturating_sub(1))
                .to_string(),
        ),
        (
            "mounts",
            strings(
                fs::read_to_string("/proc/self/mountinfo")
                    .unwrap_or_default()
                    .lines()
                    .map(str::to_owned),
            ),
        ),
        ("container_exe", string(&of("exe"))),
        ("container_root", root(&format!("/proc/{pid}/root/"))),
        (
            "container_mounts",
            strings(
                fs::read_to_string(format!("/proc/{pid}/mountinfo"))
                    .unwrap_or_default()
                    .lines()
                    .map(str::to_owned),
            ),
        ),
        ("container_net", string(&of("ns/net"))),
        ("container_mnt", string(&of("ns/mnt"))),
    ]);
    let record = OpenOptions::new().append(true).create(true).open(file);
    let _ = record.and_then(|mut out| out.write_all(format!("{line}\n").as_bytes()));
}

/// The container's pid out of a state, without a parser.
fn pid_in(state: &str) -> String {
    let rest = state.split("\"pid\"").nth(1).unwrap_or_default();
    rest.chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect()
}
