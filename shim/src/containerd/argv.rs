//! Containerd's flags, in the form of Go's flag package: `-id x`, `--id x` or `-id=x`; flags end at the first other word.
use std::ffi::OsString;

use crate::error::{Error, Kind, Result};

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Be the shim; `start` runs it so.
    #[default]
    Serve,
    /// Start a shim, or find the one of this pod.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Say what this program is.
    Info,
    /// Say its version.
    Version,
}

/// The flags, and their meaning where the environment says the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Argv {
    /// What is to be done.
    pub action: Action,
    /// `-namespace`, or `NAMESPACE`.
    pub namespace: String,
    /// `-id`: the container, or the sandbox.
    pub id: String,
    /// `-address`, or `GRPC_ADDRESS`: containerd's socket.
    pub address: String,
    /// `TTRPC_ADDRESS`: containerd's socket that takes events.
    pub ttrpc_address: String,
    /// `-publish-binary`: the program that publishes events where there is no such socket.
    pub publish_binary: String,
    /// `-bundle`; else the working directory.
    pub bundle: String,
}

impl Argv {
    /// Reads the arguments after the program's name, and the environment.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Self> {
        let env = |name: &str| std::env::var(name).unwrap_or_default();
        Self::parse_with(args, env)
    }

    fn parse_with(mut args: impl Iterator<Item = OsString>, env: impl Fn(&str) -> String) -> Result<Self> {
        let invalid = |text: String| Error::new(Kind::Invalid, text);
        let mut argv = Self {
            namespace: env("NAMESPACE"),
            address: env("GRPC_ADDRESS"),
            ttrpc_address: env("TTRPC_ADDRESS"),
            ..Self::default()
        };
        while let Some(arg) = args.next() {
            let word = arg
                .into_string()
                .map_err(|arg| invalid(format!("{}: not UTF-8", arg.display())))?;
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                argv.action = action(&word)?;
                break;
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let slot = match name {
                "v" | "version" => {
                    argv.action = Action::Version;
                    return Ok(argv);
                }
                "info" => {
                    argv.action = Action::Info;
                    return Ok(argv);
                }
                "debug" => continue,
                "namespace" => &mut argv.namespace,
                "id" => &mut argv.id,
                "address" => &mut argv.address,
                "publish-binary" => &mut argv.publish_binary,
                "bundle" => &mut argv.bundle,
                "socket" | "debug-socket" => &mut String::new(),
                _ => return Err(invalid(format!("-{name}: no such flag"))),
            };
            let next = || args.next().and_then(|value| value.into_string().ok());
            *slot = inline
                .or_else(next)
                .ok_or_else(|| invalid(format!("-{name}: needs a value")))?;
        }
        argv.check()
    }

    fn check(self) -> Result<Self> {
        for (name, value) in [("namespace", &self.namespace), ("id", &self.id)] {
            if value.is_empty() || value.contains('/') || value.starts_with('.') {
                let text = format!("-{name}: {value:?} is no name of containerd's");
                return Err(Error::new(Kind::Invalid, text));
            }
        }
        Ok(self)
    }
}

fn action(word: &str) -> Result<Action> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        other => Err(Error::new(
            Kind::Invalid,
            format!("{other:?}: no such action; want start or delete"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Argv> {
        let env = |name: &str| match name {
            "TTRPC_ADDRESS" => "/t".to_owned(),
            "NAMESPACE" => "from-env".to_owned(),
            _ => String::new(),
        };
        Argv::parse_with(args.iter().map(OsString::from), env)
    }

    #[test]
    fn as_containerd_writes_them() {
        let argv = parse(&[
            "-namespace",
            "n",
            "-address",
            "/g",
            "-publish-binary",
            "/b",
            "-id",
            "i",
            "-debug",
            "start",
        ]);
        let argv = argv.unwrap();
        assert_eq!(
            (argv.action, argv.namespace.as_str(), argv.id.as_str()),
            (Action::Start, "n", "i")
        );
        assert_eq!((argv.address.as_str(), argv.ttrpc_address.as_str()), ("/g", "/t"));
        let argv = parse(&["--id=i", "-bundle=/b", "delete"]).unwrap();
        assert_eq!(
            (argv.action, argv.namespace.as_str(), argv.bundle.as_str()),
            (Action::Delete, "from-env", "/b")
        );
        assert_eq!(parse(&["-id", "i"]).unwrap().action, Action::Serve);
        assert_eq!(parse(&["-info"]).unwrap().action, Action::Info);
        assert_eq!(parse(&["-v"]).unwrap().action, Action::Version);
    }

    #[test]
    fn bad_ones_are_named() {
        for (args, part) in [
            (&["-id", "i", "stop"][..], "stop"),
            (&["-id"], "-id: needs"),
            (&["-nosuch"], "-nosuch"),
            (&["start"], "-id: \"\""),
            (&["-id", "../x", "start"], "../x"),
        ] {
            assert!(parse(args).unwrap_err().to_string().contains(part), "{args:?}");
        }
    }
}
