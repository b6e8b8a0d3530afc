//! Small images for tests and benches, in the one format that every engine loads: `docker save`'s.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes an image of one layer.
///
/// `layer` is an uncompressed tar; `config` is the `config` object of the image (`Cmd`, `Env`, ...).
///
/// # Errors
/// When a file can't be read or written.
pub fn write_archive(target: &Path, reference: &str, layer: &Path, config: &Value) -> Result<()> {
    write_archive_of(target, reference, &[layer.to_owned()], config)
}

/// Writes an image of several layers, bottom first.
///
/// # Errors
/// As [`write_archive`].
pub fn write_archive_of(target: &Path, reference: &str, layers: &[PathBuf], config: &Value) -> Result<()> {
    let diff_ids = layers
        .iter()
        .map(|layer| digest_of(layer))
        .collect::<Result<Vec<_>>>()?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids.iter().map(|id| format!("sha256:{id}")).collect::<Vec<_>>()},
        "history": vec![json!({"created_by": "kelson-spec-tests"}); layers.len()],
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
    let layer_names: Vec<String> = diff_ids.iter().map(|id| format!("{id}/layer.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [reference], "Layers": layer_names}]);

    let mut archive =
        tar::Builder::new(File::create(target).with_context(|| format!("create {}", target.display()))?);
    append(&mut archive, &config_name, &config)?;
    for (name, layer) in layer_names.iter().zip(layers) {
        archive.append_file(name, &mut File::open(layer)?)?;
    }
    append(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?)?;
    archive.into_inner()?.flush()?;
    Ok(())
}

/// Writes the layer of a busybox image: the static program, and a link for each of its applets.
///
/// # Errors
/// When there is no static busybox on this machine (Debian's package busybox-static).
pub fn write_busybox_layer(target: &Path) -> Result<()> {
    let program = fs::read("/bin/busybox").context("read /bin/busybox (package busybox-static)")?;
    let mut archive = tar::Builder::new(File::create(target)?);
    for directory in ["bin/", "dev/", "etc/", "proc/", "root/", "sys/", "tmp/", "var/"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        archive.append_data(&mut header, directory, std::io::empty())?;
    }
    let mut entry = header(tar::EntryType::Regular, 0o755, program.len());
    archive.append_data(&mut entry, "bin/busybox", program.as_slice())?;
    for applet in APPLETS {
        let mut entry = header(tar::EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut entry, format!("bin/{applet}"), "busybox")?;
    }
    append(
        &mut archive,
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    append(&mut archive, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")?;
    archive.into_inner()?.flush()?;
    Ok(())
}

/// The applets that tests use; a fixed list, so that the layer is the same everywhere.
const APPLETS: [&str; 41] = [
    "cat", "chmod", "cp", "cut", "date", "dd", "df", "echo", "env", "expr", "false", "grep", "head",
    "hostname", "httpd", "id", "ip", "kill", "ls", "mkdir", "mount", "mv", "nc", "printf", "ps", "pwd", "rm",
    "seq", "sh", "sleep", "sort", "stat", "stty", "tail", "touch", "tr", "true", "tty", "usleep", "wc",
    "wget",
];

fn append(archive: &mut tar::Builder<File>, path: &str, bytes: &[u8]) -> Result<()> {
    archive.append_data(
        &mut header(tar::EntryType::Regular, 0o644, bytes.len()),
        path,
        bytes,
    )?;
    Ok(())
}

/// Of an archive's entry that belongs to root.
pub(crate) fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}

fn digest_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// As in digests.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name that images use for this machine's architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
