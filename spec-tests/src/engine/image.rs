//! Images of our own, as archives in memory: the probe is the whole userland, so no registry and no network are needed.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::image::{architecture, header, hex};
use crate::lab::PROBE;

/// Name and content of a file.
pub type Entry = (String, Vec<u8>);

/// What is in an image.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Names it gets; none leaves it without.
    pub tags: Vec<String>,
    /// The `config` object: `Cmd`, `Env`, `Labels`, ...
    pub config: Value,
    /// Files of each layer, with their content.
    pub layers: Vec<Vec<Entry>>,
    /// Further layers, as they are: archives that no program would write.
    pub raw_layers: Vec<Vec<u8>>,
}

impl Recipe {
    /// The probe alone, which is the entry point and greets.
    #[must_use]
    pub fn new(tag: &str) -> Self {
        let passwd = b"root:x:0:0:root:/root:/probe\nguest:x:1000:1000:guest:/home:/probe\n".to_vec();
        let group = b"root:x:0:\nguest:x:1000:\nextra:x:2000:guest\n".to_vec();
        Self {
            tags: vec![tag.to_owned()],
            config: json!({"Entrypoint": ["/probe"], "Cmd": ["print", "hello"], "Env": ["PATH=/bin"]}),
            layers: vec![vec![
                ("probe".into(), PROBE.to_vec()),
                ("etc/passwd".into(), passwd),
                ("etc/group".into(), group),
                ("tmp/".into(), Vec::new()),
                ("home/".into(), Vec::new()),
            ]],
            raw_layers: Vec::new(),
        }
    }

    /// Adds a layer of one file.
    #[must_use]
    pub fn with_file(mut self, path: &str, content: &str) -> Self {
        self.layers.push(vec![(path.into(), content.into())]);
        self
    }

    /// Sets a field of the configuration.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// The id that an engine gives it: the digest of the configuration.
    ///
    /// # Errors
    /// Never for a memory of sane size.
    pub fn id(&self) -> Result<String> {
        let (config, _) = self.parts()?;
        Ok(format!("sha256:{}", hex(&Sha256::digest(config))))
    }

    fn parts(&self) -> Result<(Vec<u8>, Vec<Entry>)> {
        let mut layers = Vec::new();
        for files in &self.layers {
            let bytes = archive_of(files)?;
            layers.push((hex(&Sha256::digest(&bytes)), bytes));
        }
        for bytes in &self.raw_layers {
            layers.push((hex(&Sha256::digest(bytes)), bytes.clone()));
        }
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|(digest, _)| format!("sha256:{digest}"))
            .collect();
        let history: Vec<Value> = (0..layers.len())
            .map(|n| json!({"created": "2026-11-21T00:00:00Z", "created_by": format!("layer {n}")}))
            .collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "2026-11-21T00:00:00Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        Ok((serde_json::to_vec(&config)?, layers))
    }

    /// The archive that `POST /images/load` takes.
    ///
    /// # Errors
    /// Never for a memory of sane size.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let (config, layers) = self.parts()?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let names: Vec<String> = layers
            .iter()
            .map(|(digest, _)| format!("{digest}/layer.tar"))
            .collect();
        let manifest = json!([{"Config": config_name, "RepoTags": self.tags, "Layers": names}]);
        let mut files = vec![
            (config_name, config),
            ("manifest.json".into(), serde_json::to_vec(&manifest)?),
        ];
        files.extend(names.into_iter().zip(layers.into_iter().map(|(_, bytes)| bytes)));
        archive_of(&files)
    }
}

/// A tar of files, in this order; a name that ends in `/` is a directory. All can be executed.
///
/// # Errors
/// When a name is too long for the format.
pub fn archive_of(files: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let kind = if name.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        };
        archive.append_data(&mut header(kind, 0o755, content.len()), name, content.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

/// Names and contents of the regular files in a tar, and names of everything else.
///
/// # Errors
/// When it is no tar.
pub fn entries_of(archive: &[u8]) -> Result<Vec<Entry>> {
    use std::io::Read;
    let mut all = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        all.push((name, content));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_what_its_manifest_names() {
        let recipe = Recipe::new("a/b:1")
            .with_file("x", "y")
            .with("User", json!("guest"));
        let entries = entries_of(&recipe.archive().unwrap()).unwrap();
        let get = |name: &str| {
            entries
                .iter()
                .find(|(one, _)| one == name)
                .map(|(_, bytes)| bytes.clone())
        };
        let manifest: Value = serde_json::from_slice(&get("manifest.json").unwrap()).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["a/b:1"]));
        let layers = manifest[0]["Layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        let second = get(layers[1].as_str().unwrap()).unwrap();
        assert_eq!(entries_of(&second).unwrap(), [("x".to_owned(), b"y".to_vec())]);
        let config_name = manifest[0]["Config"].as_str().unwrap();
        assert_eq!(
            recipe.id().unwrap(),
            format!("sha256:{}", config_name.trim_end_matches(".json"))
        );
    }
}
