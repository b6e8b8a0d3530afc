//! Attach by websocket, as browsers do it.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::{HandshakeError, Message, client};

use crate::support::daemon::socket;
use crate::support::images::Image;
use crate::support::{Client, Playground};

#[test]
fn a_websocket_is_attached() {
    let play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let before = play.inventory();
    play.ok(&["run", "-d", "-i", "--name", "echo", image, "cat"]);
    let connect = || {
        let stream = UnixStream::connect(socket(play.scratch())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    };
    let query = "stream=1&stdin=1&stdout=1&stderr=1";
    let url = |name: &str| format!("ws://kelson/v1.45/containers/{name}/attach/ws?{query}");
    for word in ["first", "second"] {
        let (mut browser, _) = client(url("echo"), connect()).unwrap();
        browser.send(Message::text(format!("{word}\n"))).unwrap();
        let mut heard = Vec::new();
        while heard.len() <= word.len() {
            match browser.read().unwrap() {
                Message::Binary(data) => heard.extend_from_slice(&data),
                other => panic!("{other:?}"),
            }
        }
        // Raw, without docker's headers of eight bytes.
        assert_eq!(String::from_utf8(heard).unwrap(), format!("{word}\n"));
        drop(browser);
        assert_eq!(play.inspect("echo", "/State/Running"), true);
    }
    let Err(HandshakeError::Failure(Error::Http(answer))) = client(url("nobody"), connect()) else {
        panic!("attached to nobody");
    };
    assert_eq!(answer.status(), 404);

    // A websocket hears the end.
    let (mut browser, _) = client(url("echo"), connect()).unwrap();
    play.ok(&["rm", "-f", "echo"]);
    let end = std::iter::from_fn(|| Some(browser.read()))
        .find(|message| !matches!(message, Ok(Message::Binary(_))));
    assert!(matches!(end, Some(Ok(Message::Close(_)))), "{end:?}");
    play.nothing_left_since(&before);
    play.finish();
}
