//! Published ports: bytes and datagrams from a bound socket to the container's address and back.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
mod common;

use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use common::{Bench, DEADLINE};
use kelson_shim_proto::serve::{PortParams, Proto};
use std::io::{Read, Write};

each_runtime!(tcp_half_close_and_udp);

/// The service's address is one of this host's: what the shim does is the same for a container's.
async fn tcp_half_close_and_udp(runtime: &Path) {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    echo.set_read_timeout(Some(DEADLINE)).unwrap();
    let published_tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let published_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp_at, udp_at) = (
        published_tcp.local_addr().unwrap(),
        published_udp.local_addr().unwrap(),
    );
    let port = |proto, target| PortParams { fd: 0, proto, target };
    let ports = vec![
        (
            port(Proto::Tcp, service.local_addr().unwrap()),
            published_tcp.into(),
        ),
        (port(Proto::Udp, echo.local_addr().unwrap()), published_udp.into()),
    ];
    let mut bench = Bench::new(runtime, &["sleep", "1000"]);
    bench.serve(ports);
    // Comes before the container runs, and is served when it does.
    let mut early = TcpStream::connect(tcp_at).unwrap();
    early.write_all(b"early").unwrap();
    let client = bench.client().await;
    bench.create(&client).await;
    bench.start(&client).await;

    let tcp = tokio::task::spawn_blocking(move || {
        early.set_read_timeout(Some(DEADLINE)).unwrap();
        let (mut inside, _) = service.accept().unwrap();
        inside.set_read_timeout(Some(DEADLINE)).unwrap();
        early.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        // The end of input comes through while the way back stays open.
        inside.read_to_string(&mut text).unwrap();
        inside.write_all(b"answer").unwrap();
        drop(inside);
        let mut answer = String::new();
        early.read_to_string(&mut answer).unwrap();
        (text, answer)
    });
    assert_eq!(tcp.await.unwrap(), ("early".to_owned(), "answer".to_owned()));

    let udp = tokio::task::spawn_blocking(move || {
        let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut buffer = [0; 100];
        for (n, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.send_to(format!("ping{n}").as_bytes(), udp_at).unwrap();
            let (len, from) = echo.recv_from(&mut buffer).unwrap();
            echo.send_to(&buffer[..len], from).unwrap();
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (format!("ping{n}").as_bytes(), udp_at));
        }
    });
    udp.await.unwrap();

    bench.kill(&client, "", 9).await.unwrap();
    bench.wait(&client, "").await;
    // The port is free again with the container's end.
    TcpListener::bind(tcp_at).unwrap();
    bench.finish(client).await;
}
