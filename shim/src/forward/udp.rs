//! UDP: one upstream socket per client address, so that answers find their way back.
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::lock;

/// How long a client may be silent, both ways, before its upstream socket is closed. Docker's proxy uses the same.
const IDLE: Duration = Duration::from_secs(90);

/// How many clients one published port remembers; a datagram of one more is dropped, as UDP may.
const MAX_CLIENTS: usize = 1024;

/// How many datagrams of one client wait to be sent upstream; more are dropped.
const MAX_QUEUED: usize = 16;

/// The largest datagram.
const MAX_DATAGRAM: usize = 65_535;

type Clients = Arc<std::sync::Mutex<HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>>>;

/// Forwards from `socket` until aborted.
pub fn start(socket: std::net::UdpSocket, target: SocketAddr) -> std::io::Result<JoinHandle<()>> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    Ok(tokio::spawn(run(socket, target)))
}

async fn run(socket: Arc<UdpSocket>, target: SocketAddr) {
    let clients = Clients::default();
    loop {
        // Held only while there is something to read.
        if socket.readable().await.is_err() {
            return;
        }
        let mut buffer = vec![0; MAX_DATAGRAM];
        // An error here (an ICMP answer to what we sent) belongs to one client and says nothing of the others.
        while let Ok((len, client)) = socket.try_recv_from(&mut buffer) {
            pass(&socket, target, &clients, client, &buffer[..len]);
        }
    }
}

fn pass(socket: &Arc<UdpSocket>, target: SocketAddr, clients: &Clients, client: SocketAddr, datagram: &[u8]) {
    let mut known = lock(clients);
    if !known.contains_key(&client) {
        if known.len() >= MAX_CLIENTS {
            return;
        }
        let (sender, receiver) = mpsc::channel(MAX_QUEUED);
        known.insert(client, sender);
        let (socket, clients) = (Arc::clone(socket), Arc::clone(clients));
        tokio::spawn(async move {
            let _ = serve(&socket, target, client, receiver).await;
            lock(&clients).remove(&client);
        });
    }
    if let Some(sender) = known.get(&client) {
        let _ = sender.try_send(datagram.to_vec());
    }
}

/// One client: its datagrams up, the answers down, until both are silent.
async fn serve(
    socket: &UdpSocket,
    target: SocketAddr,
    client: SocketAddr,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
) -> std::io::Result<()> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let upstream = UdpSocket::bind(any).await?;
    upstream.connect(target).await?;
    loop {
        tokio::select! {
            datagram = datagrams.recv() => match datagram {
                // Refused once is not refused for ever: the service may just be starting.
                Some(datagram) => drop(upstream.send(&datagram).await),
                None => return Ok(()),
            },
            ready = upstream.readable() => {
                ready?;
                let mut buffer = vec![0; MAX_DATAGRAM];
                while let Ok(len) = upstream.try_recv(&mut buffer) {
                    let _ = socket.send_to(&buffer[..len], client).await;
                }
            }
            () = tokio::time::sleep(IDLE) => return Ok(()),
        }
    }
}
