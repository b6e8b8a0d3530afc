//! Attach: a relay between an API client and the shim's attach socket. The only thing decided here is the detach keys.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::oneshot;

use super::container::{Container, Pending};
use super::logs;
use super::record::Status;
use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::tasks::{AttachConnection, AttachRequest, frames};
use crate::types::{AttachOptions, Attached, FrameStream, LogOptions};

/// Bytes of input that wait for the shim.
const INPUT_BUFFER: usize = 64 << 10;

/// ctrl-p, ctrl-q.
const DEFAULT_KEYS: [u8; 2] = [16, 17];

/// `docker attach`.
pub(crate) async fn run(inner: &Arc<Inner>, name: &str, options: AttachOptions) -> Result<Attached> {
    let container = inner.containers.find(name)?;
    let tty = container.record().config.tty;
    let keys = match options.detach_keys.as_deref() {
        None | Some("") => DEFAULT_KEYS.to_vec(),
        Some(text) => parse_keys(text)?,
    };
    if container.status() == Status::Paused {
        return Err(Error::conflict(format!(
            "container {} is paused, unpause the container before attach",
            container.id
        )));
    }
    if !options.stream {
        return past(inner, name, &options, tty);
    }
    let request = AttachRequest {
        exec: String::new(),
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
        from_start: options.logs,
        tty,
    };
    let connection = connect(&container, request).await?;
    inner.emit(&container, "attach", &[]);
    let detached = {
        let (inner, container) = (inner.clone(), container.clone());
        move || inner.emit(&container, "detach", &[])
    };
    // The keys are a terminal's affair: a pipe may hold any bytes.
    let keys = if tty && options.stdin { keys } else { Vec::new() };
    Ok(relay(connection, tty, keys, detached))
}

/// `logs=1` without `stream=1`: what was written so far, then the end.
fn past(inner: &Arc<Inner>, name: &str, options: &AttachOptions, tty: bool) -> Result<Attached> {
    let output: FrameStream = if options.logs && (options.stdout || options.stderr) {
        let wanted = LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            ..LogOptions::default()
        };
        logs::run(inner, name, wanted)?.frames
    } else {
        Box::pin(futures_util::stream::empty())
    };
    Ok(Attached {
        tty,
        output,
        input: Box::pin(tokio::io::sink()),
    })
}

/// A connection that is there, or comes with the start.
async fn connect(
    container: &Arc<Container>,
    request: AttachRequest,
) -> Result<oneshot::Receiver<AttachConnection>> {
    let (send, receive) = oneshot::channel();
    if let Some((task, pending)) = container.attach_to(Pending {
        request,
        connected: send,
    })? {
        let connection = task.attach(&pending.request).await?;
        let _ = pending.connected.send(connection);
    }
    Ok(receive)
}

/// Joins a client's streams with a connection, once that is there.
pub(crate) fn relay(
    connection: oneshot::Receiver<AttachConnection>,
    tty: bool,
    keys: Vec<u8>,
    detached: impl FnOnce() + Send + 'static,
) -> Attached {
    let (ours, theirs) = tokio::io::duplex(INPUT_BUFFER);
    let (to_output, reader) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        // No start, no connection: the output ends, as its sender is dropped.
        let Ok(AttachConnection {
            reader,
            writer,
            early,
        }) = connection.await
        else {
            return;
        };
        if to_output.send((reader, early)).is_err() {
            return;
        }
        if pump(theirs, writer, &keys).await {
            detached();
            let _ = stop.send(());
        }
    });
    let output = futures_util::stream::once(reader).flat_map(|started| match started {
        Ok((reader, early)) => frames(reader, early),
        Err(_) => Box::pin(futures_util::stream::empty()) as FrameStream,
    });
    let output = output.take_until(async move {
        // End of input is not the end of output.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    Attached {
        tty,
        output: Box::pin(output),
        input: Box::pin(ours) as Pin<Box<dyn AsyncWrite + Send>>,
    }
}

/// Copies input until its end, or until the keys were typed (true).
async fn pump(mut from: DuplexStream, mut to: OwnedWriteHalf, keys: &[u8]) -> bool {
    let mut matched = 0;
    let mut buffer = vec![0u8; 4096];
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                // Half-close: end of the process's input.
                let _ = to.shutdown().await;
                return false;
            }
            Ok(n) => n,
        };
        let (out, detach) = scan(&buffer[..n], keys, &mut matched);
        if !out.is_empty() && to.write_all(&out).await.is_err() {
            return false;
        }
        if detach {
            return true;
        }
    }
}

/// Takes the detach keys out of input. Keys of a sequence that breaks off are passed on late, as docker does.
fn scan(input: &[u8], keys: &[u8], matched: &mut usize) -> (Vec<u8>, bool) {
    if keys.is_empty() {
        return (input.to_vec(), false);
    }
    let mut out = Vec::with_capacity(input.len());
    for byte in input {
        if *byte == keys[*matched] {
            *matched += 1;
            if *matched == keys.len() {
                return (out, true);
            }
            continue;
        }
        out.extend_from_slice(&keys[..*matched]);
        *matched = usize::from(*byte == keys[0]);
        if *matched == 0 {
            out.push(*byte);
        } else if keys.len() == 1 {
            return (out, true);
        }
    }
    (out, false)
}

/// `ctrl-a,b,ctrl-@` and single characters.
pub(crate) fn parse_keys(text: &str) -> Result<Vec<u8>> {
    let key = |word: &str| -> Option<u8> {
        match (word.strip_prefix("ctrl-"), word.as_bytes()) {
            (Some(c), _) => match c.as_bytes() {
                [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
                b"@" => Some(0),
                b"[" => Some(27),
                b"\\" => Some(28),
                b"]" => Some(29),
                b"^" => Some(30),
                b"_" => Some(31),
                _ => None,
            },
            (None, [c]) => Some(*c),
            _ => None,
        }
    };
    text.split(',')
        .map(|word| {
            key(word).ok_or_else(|| {
                Error::invalid(format!(
                    "Invalid escape keys (from --detach-keys): Unknown character: '{word}'"
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed() {
        assert_eq!(parse_keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(parse_keys("a,ctrl-[").unwrap(), [b'a', 27]);
        assert!(parse_keys("ctrl-1").is_err());
        assert!(parse_keys("ab").is_err());
    }

    #[test]
    fn keys_are_found_across_reads_and_passed_on_when_they_break_off() {
        let mut matched = 0;
        assert_eq!(
            scan(b"x\x10", &DEFAULT_KEYS, &mut matched),
            (b"x".to_vec(), false)
        );
        assert_eq!(scan(b"\x11y", &DEFAULT_KEYS, &mut matched), (vec![], true));
        matched = 0;
        assert_eq!(
            scan(b"a\x10b\x10\x10\x11", &DEFAULT_KEYS, &mut matched),
            (b"a\x10b\x10".to_vec(), true)
        );
        matched = 0;
        assert_eq!(
            scan(b"\x10\x11", &[], &mut matched),
            (b"\x10\x11".to_vec(), false)
        );
    }
}
