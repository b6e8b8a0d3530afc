//! From a process's pipe or terminal to its [`Hub`].
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kelson_shim_proto::attach::Stream;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::hub::Hub;
use crate::error::Result;

/// How much is read at once. All reads of this process share one such buffer, which lives only while there is
/// something to read: idle containers cost no buffer.
const READ: usize = 64 * 1024;

/// How many full reads one stream gets before the others have their turn.
const BURST: usize = 16;

/// Reads `source` to its end in the background.
pub fn start(hub: &Arc<Hub>, stream: Stream, source: OwnedFd) -> Result<()> {
    let source = super::watch(source, Interest::READABLE, "a process's output")?;
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        run(&hub, stream, &source).await;
        hub.stream_ended();
    });
    Ok(())
}

async fn run(hub: &Hub, stream: Stream, source: &AsyncFd<OwnedFd>) {
    loop {
        let Ok(mut ready) = source.readable().await else {
            return;
        };
        match burst(hub, stream, source) {
            Burst::Empty => ready.clear_ready(),
            Burst::More => tokio::task::yield_now().await,
            Burst::End => return,
        }
        drop(ready);
        hub.wait_for_room().await;
    }
}

enum Burst {
    Empty,
    More,
    End,
}

fn burst(hub: &Hub, stream: Stream, source: &AsyncFd<OwnedFd>) -> Burst {
    let mut buffer = Vec::with_capacity(READ);
    for _ in 0..BURST {
        buffer.clear();
        match rustix::io::read(source, rustix::buffer::spare_capacity(&mut buffer)) {
            // A terminal whose last user is gone answers EIO.
            Ok(0) | Err(Errno::IO) => return Burst::End,
            Ok(_) => hub.output(stream, &buffer),
            Err(Errno::AGAIN) => return Burst::Empty,
            Err(Errno::INTR) => {}
            Err(_) => return Burst::End,
        }
        if hub.is_full() {
            break;
        }
    }
    Burst::More
}
