//! `--mount`, `-v` and `--tmpfs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kelson_api::{BindOptions, DriverConfig, ImageOptions, Mount, TmpfsOptions, VolumeOptions};

use crate::format::units;

/// What a `-v` value asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Volume {
    /// `-v /data`: a volume without a name.
    Anonymous(String),
    /// `-v source:target[:mode]`, with a relative source made absolute.
    Bind(String),
}

/// Reads a `-v` value. Only a source that begins with a dot is relative to `current`; another
/// relative name is a volume's.
pub fn parse_volume(text: &str, current: &Path) -> Result<Volume, String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".into());
    }
    let Some((source, target)) = text.split_once(':') else {
        return Ok(Volume::Anonymous(text.into()));
    };
    if !source.starts_with('.') {
        return Ok(Volume::Bind(text.into()));
    }
    Ok(Volume::Bind(format!(
        "{}:{target}",
        absolute(source, current).display()
    )))
}

/// The path without `.` and `..`, by its text alone.
fn absolute(path: &str, current: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in current.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// Splits one record of comma-separated values; a field in double quotes may hold commas.
pub fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    let mut at_start = true;
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => {
                quoted = false;
                if chars.peek().is_some_and(|next| *next != ',') {
                    return Err("parse error on line 1: extraneous or missing \" in quoted-field".into());
                }
            }
            '"' if at_start => quoted = true,
            '"' => return Err("parse error on line 1: bare \" in non-quoted-field".into()),
            ',' if !quoted => {
                fields.push(String::new());
                at_start = true;
                continue;
            }
            c => field.push(c),
        }
        at_start = false;
    }
    if quoted {
        return Err("parse error on line 1: extraneous or missing \" in quoted-field".into());
    }
    Ok(fields)
}

#[derive(Default)]
struct Parts {
    mount: Mount,
    bind: Option<BindOptions>,
    volume: Option<VolumeOptions>,
    image: Option<ImageOptions>,
    tmpfs: Option<TmpfsOptions>,
}

/// Reads a `--mount` value.
pub fn parse_mount(text: &str) -> Result<Mount, String> {
    let mut parts = Parts::default();
    parts.mount.r#type = "volume".into();
    for field in csv(text.trim())? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        parts.set(&key, value, &field)?;
    }
    let Parts {
        mut mount,
        bind,
        volume,
        image,
        tmpfs,
    } = parts;
    if mount.r#type.is_empty() {
        return Err("type is required".into());
    }
    if mount.target.is_empty() {
        return Err("target is required".into());
    }
    let kind = mount.r#type.as_str();
    let mismatch = |options: &str| format!("cannot mix '{options}-*' options with mount type '{kind}'");
    if bind.is_some() && kind != "bind" {
        return Err(mismatch("bind"));
    }
    if volume.is_some() && kind != "volume" {
        return Err(mismatch("volume"));
    }
    if image.is_some() && kind != "image" {
        return Err(mismatch("image"));
    }
    if tmpfs.is_some() && kind != "tmpfs" {
        return Err(mismatch("tmpfs"));
    }
    if kind == "bind" && mount.source.starts_with('.') {
        let current = std::env::current_dir().map_err(|error| error.to_string())?;
        mount.source = absolute(&mount.source, &current).display().to_string();
    }
    (mount.bind_options, mount.volume_options) = (bind, volume);
    (mount.image_options, mount.tmpfs_options) = (image, tmpfs);
    Ok(mount)
}

impl Parts {
    fn set(&mut self, key: &str, value: Option<&str>, field: &str) -> Result<(), String> {
        let text = || {
            value
                .map(str::to_owned)
                .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))
        };
        match key {
            "type" => self.mount.r#type = text()?.to_ascii_lowercase(),
            "source" | "src" => self.mount.source = text()?,
            "target" | "dst" | "destination" => self.mount.target = text()?,
            "readonly" | "ro" => self.mount.read_only = boolean(key, value)?,
            "consistency" => self.mount.consistency = text()?.to_ascii_lowercase(),
            "bind-propagation" => self.bind().propagation = text()?.to_ascii_lowercase(),
            "bind-nonrecursive" => self.bind().non_recursive = boolean(key, value)?,
            "bind-recursive" => self.bind_recursive(&text()?)?,
            "bind-create-src" => self.bind().create_mountpoint = boolean(key, value)?,
            "volume-subpath" => self.volume().subpath = text()?,
            "volume-nocopy" => self.volume().no_copy = boolean(key, value)?,
            "volume-label" => {
                let (name, label) = pair(&text()?);
                self.volume()
                    .labels
                    .get_or_insert_with(BTreeMap::new)
                    .insert(name, label);
            }
            "volume-driver" => self.driver().name = text()?,
            "volume-opt" => {
                let (name, option) = pair(&text()?);
                self.driver()
                    .options
                    .get_or_insert_with(BTreeMap::new)
                    .insert(name, option);
            }
            "image-subpath" => self.image.get_or_insert_default().subpath = text()?,
            "tmpfs-size" => {
                let text = text()?;
                let size =
                    units::parse_size(&text).map_err(|_| format!("invalid value for {key}: {text}"))?;
                self.tmpfs.get_or_insert_default().size_bytes = size;
            }
            "tmpfs-mode" => {
                let text = text()?;
                let mode =
                    u32::from_str_radix(&text, 8).map_err(|_| format!("invalid value for {key}: {text}"))?;
                self.tmpfs.get_or_insert_default().mode = mode;
            }
            _ if value.is_none() => return Err(format!("invalid field '{field}' must be a key=value pair")),
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
        Ok(())
    }

    fn bind(&mut self) -> &mut BindOptions {
        self.bind.get_or_insert_default()
    }

    fn volume(&mut self) -> &mut VolumeOptions {
        self.volume.get_or_insert_default()
    }

    fn driver(&mut self) -> &mut DriverConfig {
        self.volume().driver_config.get_or_insert_default()
    }

    fn bind_recursive(&mut self, value: &str) -> Result<(), String> {
        let bind = self.bind();
        match value {
            "enabled" => {}
            "disabled" => bind.non_recursive = true,
            "writable" => bind.read_only_non_recursive = true,
            "readonly" => bind.read_only_force_recursive = true,
            _ => {
                return Err(format!(
                    "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ));
            }
        }
        Ok(())
    }
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.into(), value.into())
}

fn boolean(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(format!("invalid value for {key}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let parse = |text| parse_volume(text, Path::new("/home/x"));
        assert_eq!(parse("/data"), Ok(Volume::Anonymous("/data".into())));
        assert_eq!(parse("vol:/data:ro"), Ok(Volume::Bind("vol:/data:ro".into())));
        assert_eq!(parse("/a/b:/data"), Ok(Volume::Bind("/a/b:/data".into())));
        assert_eq!(
            parse("./a:/data:ro"),
            Ok(Volume::Bind("/home/x/a:/data:ro".into()))
        );
        assert_eq!(parse("../a/.:/d"), Ok(Volume::Bind("/home/a:/d".into())));
        assert_eq!(parse(".:/d"), Ok(Volume::Bind("/home/x:/d".into())));
        // What the engine cannot make sense of is for the engine to say.
        assert_eq!(parse("a:b:c:d"), Ok(Volume::Bind("a:b:c:d".into())));
        assert!(parse("").is_err());
    }

    #[test]
    fn mounts() {
        let mount = parse_mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rshared").unwrap();
        assert_eq!(
            (
                mount.r#type.as_str(),
                mount.source.as_str(),
                mount.target.as_str()
            ),
            ("bind", "/a", "/b")
        );
        assert!(mount.read_only);
        assert_eq!(mount.bind_options.unwrap().propagation, "rshared");
        let mount = parse_mount(
            "source=v,target=/b,volume-opt=a=b,\"volume-opt=o=x,y\",volume-label=l=m,volume-nocopy=true",
        )
        .unwrap();
        let options = mount.volume_options.unwrap();
        assert!(options.no_copy);
        assert_eq!(options.labels.unwrap()["l"], "m");
        assert_eq!(options.driver_config.unwrap().options.unwrap()["o"], "x,y");
        let mount = parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777").unwrap();
        assert_eq!(
            mount.tmpfs_options.unwrap(),
            TmpfsOptions {
                size_bytes: 1 << 20,
                mode: 0o1777,
                options: None
            }
        );
    }

    #[test]
    fn bad_mounts_say_why() {
        let why = |text| parse_mount(text).unwrap_err();
        assert_eq!(why("type=foo"), "target is required");
        assert_eq!(
            why("type=bind,src"),
            "invalid field 'src' must be a key=value pair"
        );
        assert_eq!(why("foo=bar,dst=/x"), "unexpected key 'foo' in 'foo=bar'");
        assert_eq!(why("dst=/x,ro=maybe"), "invalid value for ro: maybe");
        assert_eq!(
            why("type=volume,dst=/x,bind-propagation=shared"),
            "cannot mix 'bind-*' options with mount type 'volume'"
        );
        assert_eq!(
            why("type=tmpfs,dst=/x,tmpfs-size=x"),
            "invalid value for tmpfs-size: x"
        );
        assert!(why("\"type=bind").contains("quoted-field"));
    }
}
