//! What a process is given beyond ids and limits, by the same rules for a container's first process and for exec:
//! scheduler, I/O priority, personality, memory policy. Each costs a system call only where the config has it.

use kelson_sys::sched;

use super::memory_policy::{self, Policy};
use super::{personality, scheduler};
use crate::config::{Linux, Process};
use crate::error::Result;

/// All of them, decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    scheduler: Option<sched::Attributes>,
    io_priority: Option<u16>,
    personality: Option<u32>,
    memory_policy: Option<Policy>,
}

impl Attributes {
    /// Decides for a process of a container.
    ///
    /// # Errors
    /// `Invalid` names the field.
    pub fn decide(process: &Process, linux: &Linux) -> Result<Self> {
        Ok(Self {
            scheduler: (process.scheduler.as_ref())
                .map(|s| scheduler::decide(s, "process.scheduler"))
                .transpose()?,
            io_priority: (process.io_priority.as_ref())
                .map(|io| scheduler::io_priority(io, "process.ioPriority"))
                .transpose()?,
            personality: linux.personality.as_ref().map(personality::decide).transpose()?,
            memory_policy: linux
                .memory_policy
                .as_ref()
                .map(memory_policy::decide)
                .transpose()?,
        })
    }

    /// Puts them in force for the calling process. Before the ids change, as most take privileges, and before the filter,
    /// which may forbid them.
    ///
    /// # Errors
    /// Names the field that the kernel refused.
    pub fn apply(&self) -> Result<()> {
        if let Some(attributes) = &self.scheduler {
            scheduler::apply(attributes)?;
        }
        if let Some(priority) = self.io_priority {
            scheduler::apply_io_priority(priority)?;
        }
        if let Some(bits) = self.personality {
            personality::apply(bits)?;
        }
        self.memory_policy.as_ref().map_or(Ok(()), Policy::apply)
    }
}
