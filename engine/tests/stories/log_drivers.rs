//! Log drivers: output goes elsewhere and can be read here, too; a destination that takes nothing holds nobody back.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

use crate::support::images::Image;
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(20);

#[test]
fn kelson_sends_logs_elsewhere() {
    sends_logs_elsewhere(Client::Kelson);
}

#[test]
fn docker_sends_logs_elsewhere() {
    sends_logs_elsewhere(Client::Docker);
}

fn sends_logs_elsewhere(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    let path = play.scratch().join("syslog");
    let server = UnixDatagram::bind(&path).unwrap();
    server.set_read_timeout(Some(SECONDS)).unwrap();
    let receive = || {
        let mut buffer = [0; 500];
        let count = server.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let address = format!("syslog-address=unixgram://{}", path.display());
    let syslog = [
        "--log-driver",
        "syslog",
        "--log-opt",
        &address,
        "--log-opt",
        "tag=t/{{.Name}}",
    ];
    let script = "echo one; echo two >&2; printf three";
    play.ok(&[
        &["run", "--name", "web"][..],
        &syslog,
        &[image, "sh", "-c", script],
    ]
    .concat());
    let mut received: Vec<String> = (0..3).map(|_| receive()).collect();
    // The two streams have no order.
    received.sort_by_key(|text| text.rsplit(": ").next().map(str::to_owned));
    for (text, (priority, line)) in received
        .iter()
        .zip([("<30>", "one"), ("<30>", "three"), ("<27>", "two")])
    {
        assert!(text.starts_with(priority) && text.contains(" t/web["), "{text}");
        assert!(text.ends_with(&format!("]: {line}\n")), "{text}");
    }
    // What went elsewhere is read here.
    let read = play.run(&["logs", "web"]);
    assert_eq!(
        (read.stdout.as_str(), read.stderr.as_str()),
        ("one\nthree", "two\n"),
        "{read:#?}"
    );
    assert_eq!(play.inspect("web", "/HostConfig/LogConfig/Type"), "syslog");
    assert_eq!(play.inspect("web", "/LogPath"), "");
    play.ok(&["rm", "web"]);

    // Whoever is not there is told at the start, and nothing is left.
    let nowhere = [
        "--log-driver",
        "gelf",
        "--log-opt",
        "gelf-address=tcp://127.0.0.1:1",
    ];
    let refused = play.run(&[&["run", "--rm", "--name", "none"][..], &nowhere, &[image, "true"]].concat());
    assert_eq!(refused.code, 125, "{refused:#?}");
    assert!(
        refused
            .stderr
            .contains("log driver gelf: connect to tcp://127.0.0.1:1"),
        "{refused:#?}"
    );

    for (driver, readable) in [("local", true), ("json-file", true), ("none", false)] {
        play.ok(&[
            "run",
            "--name",
            driver,
            "--log-driver",
            driver,
            image,
            "sh",
            "-c",
            "echo out; echo err >&2",
        ]);
        let read = play.run(&["logs", driver]);
        if readable {
            assert_eq!(
                (read.stdout.as_str(), read.stderr.as_str()),
                ("out\n", "err\n"),
                "{driver}: {read:#?}"
            );
        } else {
            assert!(
                read.stderr
                    .contains("configured logging driver does not support reading"),
                "{read:#?}"
            );
        }
        play.ok(&["rm", driver]);
    }
    let refused = play.run(&[
        "run",
        "--log-driver",
        "syslog",
        "--log-opt",
        "what=ever",
        image,
        "true",
    ]);
    assert!(
        refused
            .stderr
            .contains("unknown log opt 'what' for syslog log driver"),
        "{refused:#?}"
    );
    play.finish();
}

#[test]
fn kelson_is_not_held_back_by_a_driver() {
    is_not_held_back(Client::Kelson);
}

/// A destination that takes nothing: what does not fit into the buffer is dropped and counted, and the container goes on, unless
/// its user chose to wait.
fn is_not_held_back(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    let path = play.scratch().join("syslog");
    let server = UnixDatagram::bind(&path).unwrap();
    let address = format!("syslog-address=unixgram://{}", path.display());
    let syslog = ["--log-driver", "syslog", "--log-opt", &address];
    let small = [
        "--log-opt",
        "mode=non-blocking",
        "--log-opt",
        "max-buffer-size=64k",
    ];
    let many = "seq 1 100000";
    let start = |name: &str, options: &[&str]| {
        play.ok(&[
            &["run", "-d", "--name", name][..],
            &syslog,
            options,
            &[image, "sh", "-c", many],
        ]
        .concat());
    };
    start("free", &small);
    assert_eq!(play.ok(&["wait", "free"]), "0");
    assert_eq!(play.ok(&["logs", "free"]).lines().count(), 100_000);

    start("waits", &["--log-opt", "mode=blocking"]);
    let state = || play.inspect("waits", "/State/Running");
    // It fills what there is and stands still, with the process alive.
    let log = || play.run(&["logs", "--tail", "1", "waits"]).stdout;
    let mut last = String::new();
    eventually("a container that waits", SECONDS, || {
        let now = log();
        let still = !now.is_empty() && now == last;
        last = now;
        Ok(still.then_some(()))
    })
    .unwrap();
    assert_eq!(state(), true);
    assert!(last.trim().parse::<u32>().unwrap() < 100_000, "{last}");
    // As soon as somebody reads, it ends.
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 500];
    eventually("its end", SECONDS, || {
        while server.recv(&mut buffer).is_ok() {}
        Ok((state() == false).then_some(()))
    })
    .unwrap();
    assert_eq!(play.ok(&["logs", "--tail", "1", "waits"]), "100000");
    play.ok(&["rm", "free", "waits"]);
    play.finish();
}
