//! Questions that others answer. Their bytes pass untouched.
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use kelson_shim_proto::names::Upstream;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};

use super::netns;
use super::table::question_end;
use crate::error::{Doing, Result};

/// How long a server may keep us waiting before the next one is asked as well.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long all of them together may take; a client asks again after 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);
/// Servers that are asked at most, as with resolv.conf.
const MOST: usize = 3;

/// Answer codes with which a server says that it does not want to.
const SERVER_FAILURE: u8 = 2;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// Asks `upstreams` in their order until one answers, by the way the question came: a truncated answer is the client's
/// to ask again by TCP.
pub async fn ask(
    query: &[u8],
    upstreams: &[Upstream],
    namespace: &Arc<OwnedFd>,
    datagram: bool,
) -> Option<Vec<u8>> {
    let mut left = upstreams.iter().take(MOST);
    let mut asked = FuturesUnordered::new();
    let mut unwilling = None;
    let deadline = tokio::time::sleep(DEADLINE);
    tokio::pin!(deadline);
    asked.push(one(query, left.next()?, namespace, datagram));
    loop {
        let more = left.len() > 0;
        tokio::select! {
            answer = asked.next() => {
                match answer {
                    Some(Ok(answer)) if !is_unwilling(&answer) => return Some(answer),
                    Some(Ok(answer)) => unwilling = Some(answer),
                    Some(Err(_)) => {}
                    None if !more => return unwilling,
                    None => {}
                }
                if let Some(next) = left.next() {
                    asked.push(one(query, next, namespace, datagram));
                }
            }
            () = tokio::time::sleep(PATIENCE), if more => {
                if let Some(next) = left.next() {
                    asked.push(one(query, next, namespace, datagram));
                }
            }
            () = &mut deadline => return unwilling,
        }
    }
}

fn is_unwilling(answer: &[u8]) -> bool {
    matches!(answer[3] & 0xf, SERVER_FAILURE | NOT_IMPLEMENTED | REFUSED)
}

async fn one(query: &[u8], upstream: &Upstream, namespace: &Arc<OwnedFd>, datagram: bool) -> Result<Vec<u8>> {
    let address = upstream.address;
    let doing = || format!("ask the server {address}");
    let kind = if datagram {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let socket = if upstream.from_host {
        open(address, kind)?
    } else {
        netns::inside(Arc::clone(namespace), move || open(address, kind)).await?
    };
    if !datagram {
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        let mut stream = socket.connect(address).await.doing(doing)?;
        write_message(&mut stream, query).await.doing(doing)?;
        loop {
            let answer = read_message(&mut stream).await.doing(doing)?;
            if is_answer(query, &answer) {
                return Ok(answer);
            }
        }
    }
    let socket = UdpSocket::from_std(socket.into()).doing(doing)?;
    // From a port of the kernel's choice, and heard from nobody else.
    socket.connect(address).await.doing(doing)?;
    socket.send(query).await.doing(doing)?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut answer).await.doing(doing)?;
        if is_answer(query, &answer[..length]) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

fn open(address: SocketAddr, kind: SocketType) -> Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .doing(|| "open a socket for a name server".to_owned())
}

/// Whether it answers this very question.
fn is_answer(query: &[u8], answer: &[u8]) -> bool {
    if answer.len() < 12 || answer[..2] != query[..2] || answer[2] & 0x80 == 0 {
        return false;
    }
    match (question_end(query), question_end(answer)) {
        (Some(asked), Some(end)) => asked == end && query[12..end].eq_ignore_ascii_case(&answer[12..end]),
        // An answer that only says no may leave the question out.
        (Some(_), None) => answer[4..6] == [0, 0] && answer[3] & 0xf != 0,
        _ => false,
    }
}

/// Reads a message of a connection: two bytes of length first.
pub async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message of a connection in one piece.
pub async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(message);
    stream.write_all(&whole).await
}
