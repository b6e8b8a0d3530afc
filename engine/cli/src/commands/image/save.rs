//! `save`, and the writing of an archive that `export` shares.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::argv::{Arity, Command, Flag, Parsed, value};
use crate::client::Request;
use crate::error::Failure;
use crate::session::Session;
use crate::tty;

const FLAGS: &[Flag] = &[value("output", "string", "Write to a file, instead of STDOUT").short('o')];

/// `kelson save`.
pub static COMMAND: Command = Command {
    names: &["image save", "save"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let get = session.client.get("/images/get");
    let request = parsed.args.iter().fold(get, |get, name| get.query("names", name));
    to_output(request, parsed.text("output"))
}

/// Sends a request whose answer is an archive, and writes that to a file or to standard output. A file appears only when it
/// is whole.
pub fn to_output(request: Request<'_>, output: Option<&str>) -> anyhow::Result<u8> {
    let Some(file) = output.filter(|path| !path.is_empty()) else {
        if tty::stdout_is_terminal() {
            let text = "cowardly refusing to save to a terminal. Use the -o flag or redirect";
            return Err(Failure::error(text, 1));
        }
        let mut body = request.send()?.body();
        io::copy(&mut body, &mut io::stdout().lock()).context("write output")?;
        return Ok(0);
    };
    let target = Path::new(file);
    if target.is_dir() {
        return Err(Failure::error(
            format!("failed to save: {file} is a directory"),
            1,
        ));
    }
    let mut body = request.send()?.body();
    let draft = Draft::new(target)?;
    let mut writer = &draft.file;
    io::copy(&mut body, &mut writer)
        .and_then(|_| writer.flush())
        .with_context(|| format!("write {file}"))?;
    fs::rename(&draft.path, target).with_context(|| format!("write {file}"))?;
    Ok(0)
}

/// A file beside its target until it is whole.
struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    fn new(target: &Path) -> anyhow::Result<Draft> {
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        let path = target.with_file_name(name);
        let file = File::create(&path).with_context(|| format!("write {}", target.display()))?;
        Ok(Draft { path, file })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}
