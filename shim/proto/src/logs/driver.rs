//! The address of a driver: a program that carries output elsewhere, and perhaps a log that is kept beside it.
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Escaped, JsonFile, json_file_address, unescape};

/// `kelson-log:driver?program=P&arg=A...&buffer=N&path=P&...`: what [`super::JsonFile`] says, if anything is, is a log in `local`
/// format from which output can be read again.
///
/// The program is run as containerd's loggers are, with stdout as descriptor 3 and stderr as 4. It says on 5 that it is ready,
/// by one `+`, or why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// How many bytes wait in memory for it before output is dropped; `None`: the process waits for it.
    pub buffer: Option<u64>,
    /// A log beside it.
    pub cache: Option<JsonFile>,
}

impl Driver {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let (mut program, mut args, mut buffer) = (PathBuf::new(), Vec::new(), None);
        let mut keeps = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = || format!("log address: {key}={value}");
            match key {
                "program" => program = PathBuf::from(unescape(value).ok_or_else(bad)?),
                "arg" => args.push(unescape(value).ok_or_else(bad)?),
                "buffer" => buffer = Some(value.parse().map_err(|_| bad())?),
                "path" => keeps = true,
                _ => {}
            }
        }
        if !program.is_absolute() {
            return Err("log address: program is not absolute".to_owned());
        }
        Ok(Self {
            program,
            args,
            buffer,
            cache: keeps.then(|| json_file_address(query, true)).transpose()?,
        })
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program={}", Escaped(&self.program))?;
        for arg in &self.args {
            write!(f, "&arg={}", Escaped(Path::new(arg)))?;
        }
        if let Some(buffer) = self.buffer {
            write!(f, "&buffer={buffer}")?;
        }
        match &self.cache {
            Some(cache) => write!(f, "&{cache}"),
            None => Ok(()),
        }
    }
}
