//! TCP: one upstream connection per client, each direction closed when its source closes it.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How many connections one published port carries at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 4096;

/// How long the container's address may take to answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Pause after an error of accept(2), such as no free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Forwards from `listener` until aborted.
pub fn start(listener: std::net::TcpListener, target: SocketAddr) -> std::io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    Ok(tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((client, _)) => {
                    tokio::spawn(async move {
                        relay(client, target).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }))
}

async fn relay(mut client: TcpStream, target: SocketAddr) {
    // A refused or silent target closes the client's connection, as an empty port would soon after.
    let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(target)).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
