//! Work inside a container's network namespace: a socket belongs to where it was opened, from wherever it is used.
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::error::{Doing, Error, Kind, Result};

/// Does `work` in a thread that enters `namespace`, and ends afterwards.
pub async fn inside<T: Send + 'static>(
    namespace: Arc<OwnedFd>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (send, receive) = oneshot::channel();
    let enter = move || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .doing(|| "enter a network namespace".to_owned())?;
        work()
    };
    std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(move || send.send(enter()).ok())
        .doing(|| "start a thread for a network namespace".to_owned())?;
    receive.await.unwrap_or_else(|_| {
        Err(Error::new(
            Kind::Internal,
            "a thread in a network namespace is gone",
        ))
    })
}
