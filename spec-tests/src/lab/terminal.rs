//! The other end of a console socket.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::{Answers, CALL_LIMIT, Lab, process::Helper};
use crate::eventually::eventually;

/// A helper that takes a terminal and keeps what comes out of it.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
    output: PathBuf,
    _helper: Helper,
}

impl Terminal {
    /// Listens on a socket of its own.
    ///
    /// # Errors
    /// When the helper does not start.
    pub fn open(lab: &Lab, name: &str) -> Result<Self> {
        let (socket, output) = (lab.path(name), lab.path(&format!("{name}.out")));
        let helper = lab.helper(&[&format!("console {} {}", socket.display(), output.display())])?;
        eventually("the console socket", CALL_LIMIT, || {
            Ok(output.exists().then_some(()))
        })?;
        Ok(Self {
            socket,
            output,
            _helper: helper,
        })
    }

    /// For `--console-socket`.
    #[must_use]
    pub fn socket(&self) -> String {
        self.socket.to_string_lossy().into_owned()
    }

    /// What a probe said on it, once there are `count` answers.
    ///
    /// # Errors
    /// When there are not that many in time.
    pub fn answers(&self, count: usize) -> Result<Answers> {
        eventually("answers on the terminal", CALL_LIMIT, || {
            let answers = Answers::parse(&fs::read_to_string(&self.output)?);
            Ok((answers.0.len() >= count).then_some(answers))
        })
    }
}
