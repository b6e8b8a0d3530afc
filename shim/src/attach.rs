//! The attach socket: who may read and write which process, and from where on.
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use kelson_shim_proto::attach::{From, Hello, MAX_LINE, Reply, Stream};
use kelson_shim_proto::logs::records::Records;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};

use crate::container::Container;
use crate::diagnostics;
use crate::idle;
use crate::io::client::{Client, Flushed};
use crate::io::hub::{Hub, Next, Place};
use crate::io::stdin::Stdin;
use crate::process::Process;

/// How long a client may take to say what it wants.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How many clients may be attached at once; each may hold [`crate::io::client::MAX_QUEUED`] bytes.
const MAX_CLIENTS: usize = 256;

/// How much is read at once: of a client's input, and of the log.
const READ: usize = 16 * 1024;

/// Pause after an error of accept(2), such as no free descriptor, which would otherwise repeat at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the socket until the shim ends.
pub async fn serve(listener: UnixListener, container: Arc<Container>) {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((socket, _)) => {
                let container = Arc::clone(&container);
                tokio::spawn(async move {
                    let _counted = container.lifetime.client();
                    client(socket, &container).await;
                    drop(place);
                    idle::soon();
                });
            }
            Err(error) => {
                diagnostics::report(&format!("accept on the attach socket: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn client(mut socket: UnixStream, container: &Container) {
    let hello = match tokio::time::timeout(HELLO_DEADLINE, read_hello(&mut socket)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(message)) => return refuse(&mut socket, message).await,
        Err(_) => return refuse(&mut socket, "no hello in time".to_owned()).await,
    };
    let process = match container.process(&hello.exec_id) {
        Ok(process) => process,
        Err(error) => return refuse(&mut socket, error.to_string()).await,
    };
    if hello.reopen {
        let reply = if process.hub.reopen() {
            Reply::ok()
        } else {
            Reply::refused(format!("{} has no log", process.name()))
        };
        let _ = socket.write_all(&reply.encode()).await;
        return;
    }
    let from = match hello.position {
        None => None,
        Some(position) => match process.hub.at(position) {
            Some(place) => Some((place, position.offset)),
            None => return refuse(&mut socket, "that position is not in the log any more".to_owned()).await,
        },
    };
    // A few bytes into an empty socket buffer: this does not wait. It goes first, so that no frame overtakes it.
    if socket.write_all(&Reply::ok().encode()).await.is_err() {
        return;
    }
    let _counted = container.lifetime.reader();
    attached(socket, &process, &hello, from).await;
}

async fn refuse(socket: &mut UnixStream, message: String) {
    let _ = tokio::time::timeout(
        HELLO_DEADLINE,
        socket.write_all(&Reply::refused(message).encode()),
    )
    .await;
}

/// Reads the hello's line byte by byte: what follows it is the process's stdin.
async fn read_hello(socket: &mut UnixStream) -> Result<Hello, String> {
    let mut line = Vec::with_capacity(256);
    loop {
        match socket.read_u8().await {
            Ok(b'\n') => return Hello::decode(&line),
            Ok(byte) if line.len() < MAX_LINE => line.push(byte),
            Ok(_) => return Err(format!("attach hello: longer than {MAX_LINE} bytes")),
            Err(error) => return Err(format!("attach hello: {error}")),
        }
    }
}

/// Copies both ways until the output has come to its end or the client is gone.
async fn attached(socket: UnixStream, process: &Process, hello: &Hello, from: Option<(Place, u64)>) {
    let client = Arc::new(Client::new(socket, hello.stdout, hello.stderr));
    // Dropped in any case, so that a hub never keeps a client that nobody serves.
    let _registered = Registered {
        hub: &process.hub,
        client: &client,
    };
    if hello.from == From::Now {
        process.hub.attach(&client);
    }
    let upstream = async {
        if hello.stdin {
            copy_in(&client, &process.stdin).await;
            if process.stdin_once() {
                process.stdin.close().await;
            }
        }
        std::future::pending::<()>().await;
    };
    let downstream = async {
        if hello.from == From::Start {
            let (place, offset) = from.unwrap_or_else(|| (process.hub.oldest(), 0));
            replay(&client, &process.hub, place, offset).await;
        }
        copy_out(&client, &process.hub).await;
    };
    tokio::select! {
        () = upstream => {}
        () = downstream => {}
    }
}

struct Registered<'a> {
    hub: &'a Hub,
    client: &'a Arc<Client>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.hub.detach(self.client);
    }
}

/// The client's bytes to the process. Returns at the client's end of input, or when the process takes no more.
async fn copy_in(client: &Client, stdin: &Stdin) {
    let mut buffer = Vec::new();
    loop {
        if client.socket.readable().await.is_err() {
            return;
        }
        buffer.reserve_exact(READ);
        match client.socket.try_read_buf(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {
                if stdin.write(&buffer).await.is_err() {
                    return discard(client).await;
                }
                buffer = Vec::new();
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(_) => return,
        }
    }
}

/// Reads what nobody takes any more, so that the client's own end is still seen.
async fn discard(client: &Client) {
    let mut buffer = [0; 512];
    while client.socket.readable().await.is_ok() {
        match client.socket.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Sends what is queued until no more will come or the client has closed its socket.
async fn copy_out(client: &Client, hub: &Hub) {
    loop {
        match client.flush() {
            Flushed::Done => return,
            Flushed::Idle | Flushed::Blocked => hub.room.notify_waiters(),
        }
        tokio::select! {
            () = client.wake.notified() => {}
            gone = writable_again(&client.socket) => if gone { return client.cut() },
        }
    }
}

/// Waits for the socket to take bytes again, or to be closed by the client (then true). A half-closed one only
/// has no more input.
async fn writable_again(socket: &UnixStream) -> bool {
    // Forgets the readiness; the next edge of the kernel's brings us back. The writes themselves do not look at
    // it (see io/client.rs), and one that blocked did so before this.
    let _: std::io::Result<()> =
        socket.try_io(Interest::WRITABLE, || Err(std::io::ErrorKind::WouldBlock.into()));
    match socket.ready(Interest::WRITABLE).await {
        Ok(ready) => ready.is_write_closed(),
        Err(_) => true,
    }
}

/// Sends the log from `place`, which is `offset` bytes into its file, then becomes live without a gap.
async fn replay(client: &Arc<Client>, hub: &Hub, mut place: Place, mut offset: u64) {
    let mut file = place.file.take();
    let mut parser = Records::new(hub.format());
    let mut buffer = vec![0; READ];
    loop {
        let read = file
            .as_mut()
            .map_or(0, |file| file.read(&mut buffer).unwrap_or(0));
        if read == 0 {
            match hub.next(&place, offset, client) {
                Next::Live => return,
                Next::Read(Place { file: None, .. }) if file.is_none() => return,
                Next::Read(mut next) => {
                    if let Some(opened) = next.file.take() {
                        file = Some(opened);
                        offset = 0;
                        parser = Records::new(hub.format());
                    }
                    place = next;
                }
            }
            continue;
        }
        offset += read as u64;
        let mut frames: [Vec<u8>; 2] = Default::default();
        parser.push(&buffer[..read], |record| {
            let index = usize::from(record.stream == Stream::Stderr);
            let other = if index == 0 {
                Stream::Stderr
            } else {
                Stream::Stdout
            };
            // The other stream's lines come before this one, and must stay there.
            if !frames[1 - index].is_empty() {
                client.deliver(other, &frames[1 - index], None);
                frames[1 - index].clear();
            }
            record.write(&mut frames[index]);
            true
        });
        client.deliver(Stream::Stdout, &frames[0], None);
        client.deliver(Stream::Stderr, &frames[1], None);
        // The log is the queue: no more than this is held for a slow reader.
        loop {
            match client.flush() {
                Flushed::Idle => break,
                Flushed::Done => return,
                Flushed::Blocked => {
                    if writable_again(&client.socket).await {
                        return client.cut();
                    }
                }
            }
        }
    }
}
