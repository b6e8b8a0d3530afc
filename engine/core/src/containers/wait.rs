//! `docker wait`: registered before it returns, so that nothing between is missed.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::container::Life;
use crate::error::Result;
use crate::inner::Inner;
use crate::types::{WaitCondition, WaitOutcome, Waiting};

pub(crate) fn run(inner: &Arc<Inner>, name: &str, condition: WaitCondition) -> Result<Waiting> {
    let container = inner.containers.find(name)?;
    let mut life = container.life();
    let ended_before = life.borrow_and_update().ended;
    let (send, done) = oneshot::channel();
    tokio::spawn(async move {
        let holds = |life: &Life| match condition {
            // docker: the end of a run ends the wait, also if the restart policy begins another one.
            WaitCondition::NotRunning => {
                !life.has_process && !life.restarting || life.ended > ended_before || life.removed
            }
            WaitCondition::NextExit => life.ended > ended_before || life.removed,
            WaitCondition::Removed => life.removed || life.removal_error.is_some(),
        };
        let mut send = send;
        let outcome = tokio::select! {
            found = life.wait_for(holds) => found.map(|life| WaitOutcome {
                exit_code: life.exit_code,
                error: life.removal_error.clone().filter(|_| condition == WaitCondition::Removed),
            }).ok(),
            // The client went away.
            () = send.closed() => None,
        };
        if let Some(outcome) = outcome {
            let _ = send.send(outcome);
        }
    });
    Ok(Waiting { done })
}
