//! `context export` and `context import`: docker's tar of `meta.json` and `tls/docker/*.pem`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tar::{Archive, Builder, EntryType, Header};

use super::done;
use crate::argv::{Arity, Command, Parsed};
use crate::contexts::{Stored, TlsFiles, check_name};
use crate::output;
use crate::session::Session;
use crate::tty;

/// Docker's limit of what is read of an archive.
const LIMIT: u64 = 10 << 20;
const TLS: &str = "tls/docker/";

/// `kelson context export`.
pub static EXPORT: Command = Command {
    names: &["context export"],
    usage: "[OPTIONS] CONTEXT [FILE|-]",
    about: "Export a context to a tar archive FILE or a tar stream on STDOUT.",
    flags: &[],
    arity: Arity::Between(1, 2),
    first_argument_ends_flags: false,
    run: export,
};

/// `kelson context import`.
pub static IMPORT: Command = Command {
    names: &["context import"],
    usage: "CONTEXT FILE|-",
    about: "Import a context from a tar file",
    flags: &[],
    arity: Arity::Exactly(2),
    first_argument_ends_flags: false,
    run: import,
};

fn export(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let name = parsed.args[0].as_str();
    check_name(name)?;
    let store = session.contexts()?;
    let context = store.get(name)?;
    let mut tar = Builder::new(Vec::new());
    entry(
        &mut tar,
        "meta.json",
        EntryType::Regular,
        0o644,
        &serde_json::to_vec(&context.meta)?,
    )?;
    entry(&mut tar, "tls", EntryType::Directory, 0o700, &[])?;
    let files = store.tls_files(name);
    if !files.is_empty() {
        entry(&mut tar, "tls/docker", EntryType::Directory, 0o700, &[])?;
    }
    for file in files {
        let bytes = store.tls_file(name, &file)?;
        entry(
            &mut tar,
            &format!("{TLS}{file}"),
            EntryType::Regular,
            0o600,
            &bytes,
        )?;
    }
    let bytes = tar.into_inner()?;
    let default = format!("{name}.dockercontext");
    let target = parsed.args.get(1).unwrap_or(&default);
    if target == "-" {
        if tty::stdout_is_terminal() {
            bail!("cowardly refusing to export to a terminal, specify a file path");
        }
        output::out(&bytes)?;
        return Ok(0);
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target);
    file.and_then(|mut file| file.write_all(&bytes))
        .with_context(|| format!("write {target}"))?;
    output::note(&format!("Written file {target:?}"));
    Ok(0)
}

fn entry(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}

fn import(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let (name, source) = (parsed.args[0].as_str(), parsed.args[1].as_str());
    check_name(name)?;
    let store = session.contexts()?;
    if store.get(name).is_ok() {
        bail!("context {name:?} already exists");
    }
    let (context, tls) = if source == "-" {
        read(io::stdin().lock(), name)?
    } else {
        let file = File::open(source).map_err(|error| anyhow!(crate::error::open_failed(source, &error)))?;
        read(file, name)?
    };
    store.put(&context, Some(&tls))?;
    done(name, &format!("Successfully imported context {name:?}"))
}

/// Reads an archive whole before anything is written; a path that docker does not write is an error.
fn read(source: impl Read, name: &str) -> anyhow::Result<(Stored, TlsFiles)> {
    let (mut meta, mut tls) = (None, Vec::new());
    for entry in Archive::new(source.take(LIMIT)).entries()? {
        let mut entry = entry.context("read the archive (zip archives are not supported)")?;
        if entry.header().entry_type() == EntryType::Directory {
            continue;
        }
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        match path.strip_prefix(TLS) {
            _ if path == "meta.json" => meta = Some(bytes),
            Some(file) if Path::new(file).file_name().is_some_and(|only| only == file) => {
                tls.push((file.to_owned(), bytes));
            }
            _ => bail!("{path:?}: unexpected path in the archive"),
        }
    }
    let meta = meta.context("invalid context: no metadata found")?;
    let mut meta: Value = serde_json::from_slice(&meta).context("parse meta.json")?;
    if !meta.is_object() {
        bail!("invalid context: meta.json is no object");
    }
    meta["Name"] = name.into();
    let context = Stored {
        name: name.to_owned(),
        meta,
    };
    Ok((context, tls))
}
