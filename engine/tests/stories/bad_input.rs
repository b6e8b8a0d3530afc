//! Issue's "Bad input": each is refused with docker's meaning and code, and leaves the machine as it was.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use crate::support::images::Image;
use crate::support::programs::Engine;
use crate::support::{Client, Playground};

#[test]
fn kelson_refuses_bad_runs() {
    refuses_bad_runs(Client::Kelson);
}

#[test]
fn docker_refuses_bad_runs() {
    refuses_bad_runs(Client::Docker);
}

/// What is typed, the exit code, and words that the message must have (any case; alternatives by `|`).
struct Case {
    name: &'static str,
    arguments: Vec<String>,
    code: i32,
    words: &'static [&'static str],
}

fn case(name: &'static str, arguments: &[&str], code: i32, words: &'static [&'static str]) -> Case {
    Case {
        name,
        arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
        code,
        words,
    }
}

fn refuses_bad_runs(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    play.ok(&["run", "-d", "--name", "taken", image, "sleep", "3600"]);
    let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let in_use = format!("{}:80", port.local_addr().unwrap().port());
    let absent = play.scratch().join("absent");
    let mount = format!("type=bind,source={},target=/data", absent.display());
    let unknown = "127.0.0.1:5000/test/unknown:1";
    let cases = [
        case(
            "unknown image",
            &["run", "--rm", unknown],
            125,
            &["unknown", "not found|manifest unknown"],
        ),
        case(
            "port in use",
            &["run", "--rm", "-p", &in_use, image, "true"],
            125,
            &["already in use|already allocated"],
        ),
        case(
            "taken name",
            &["run", "--name", "taken", image, "true"],
            125,
            &["taken", "already in use"],
        ),
        case(
            "missing command",
            &["run", "--rm", image, "no-such"],
            127,
            &["no-such", "not found"],
        ),
        case(
            "directory as command",
            &["run", "--rm", image, "/etc"],
            126,
            &["/etc", "permission denied|is a directory"],
        ),
        case(
            "no permission",
            &["run", "--rm", image, "/etc/passwd"],
            126,
            &["/etc/passwd", "permission denied"],
        ),
        case(
            "missing bind source",
            &["run", "--rm", "--mount", &mount, image, "true"],
            125,
            &["absent", "not exist|no such file"],
        ),
        case(
            "unreachable registry",
            &["run", "--rm", "127.0.0.1:1/x/y:1"],
            125,
            &["127.0.0.1:1", "connection refused"],
        ),
        case(
            "invalid reference",
            &["run", "--rm", "Upper/Case"],
            125,
            &["invalid reference|must be lowercase"],
        ),
        case(
            "unknown network",
            &["run", "--rm", "--network", "no-net", image, "true"],
            125,
            &["no-net", "not found"],
        ),
        case(
            "exec of nothing",
            &["exec", "taken", "no-such"],
            127,
            &["no-such", "not found|no such file"],
        ),
        case(
            "exec nowhere",
            &["exec", "nobody", "true"],
            1,
            &["no such container", "nobody"],
        ),
        case(
            "remove nothing",
            &["rm", "nobody"],
            1,
            &["no such container", "nobody"],
        ),
        case("remove a running one", &["rm", "taken"], 1, &["running"]),
        case(
            "image in use",
            &["rmi", image],
            1,
            &["in use|is using|using its|used by"],
        ),
    ];
    let before = play.inventory();
    for case in &cases {
        if case.name == "exec of nothing" && Engine::chosen() == Engine::Dockerd {
            // dockerd before 25 answered 126.
            continue;
        }
        let arguments: Vec<&str> = case.arguments.iter().map(String::as_str).collect();
        let outcome = play.run(&arguments);
        assert_eq!(outcome.code, case.code, "{}: {outcome:#?}", case.name);
        check_words(case, &format!("{}{}", outcome.stdout, outcome.stderr));
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play.nothing_left_since(&before)));
        assert!(result.is_ok(), "{}: something is left", case.name);
    }
    drop(port);
    play.ok(&["rm", "-f", "taken"]);
    play.finish();
}

#[track_caller]
fn check_words(case: &Case, message: &str) {
    let lower = message.to_lowercase();
    for word in case.words {
        assert!(
            word.split('|').any(|one| lower.contains(one)),
            "{}: {word} is not in {message}",
            case.name
        );
    }
    assert!(!lower.contains("panicked"), "{}: {message}", case.name);
}

#[test]
fn kelson_refuses_a_truncated_layer() {
    refuses_a_damaged_layer(Client::Kelson, |bytes| bytes.truncate(bytes.len() / 2));
}

#[test]
fn docker_refuses_a_truncated_layer() {
    refuses_a_damaged_layer(Client::Docker, |bytes| bytes.truncate(bytes.len() / 2));
}

#[test]
fn kelson_refuses_a_tampered_layer() {
    refuses_a_damaged_layer(Client::Kelson, |bytes| flip_one_bit(bytes));
}

#[test]
fn docker_refuses_a_tampered_layer() {
    refuses_a_damaged_layer(Client::Docker, |bytes| flip_one_bit(bytes));
}

/// Among the last bytes: the gzip trailer's length field, which unpackers may not even look at.
fn flip_one_bit(bytes: &mut [u8]) {
    *bytes.last_mut().unwrap() ^= 1;
}

fn refuses_a_damaged_layer(client: Client, damage: impl Fn(&mut Vec<u8>)) {
    let play = Playground::new(client, &[Image::Busybox]);
    let before = play.inventory();
    play.registry.damage_largest_blob(damage);
    let outcome = play.run(&["pull", Image::Busybox.reference()]);
    assert_eq!(outcome.code, 1, "{outcome:#?}");
    let lower = outcome.stderr.to_lowercase();
    let clear = [
        "bytes",
        "digest",
        "size",
        "eof",
        "checksum",
        "truncated",
        "length",
        "corrupt",
        "filesystem layer verification",
    ];
    assert!(clear.iter().any(|word| lower.contains(word)), "{outcome:#?}");
    assert!(!play.ok(&["images"]).contains("busybox"));
    play.nothing_left_since(&before);
    play.finish();
}

#[test]
fn a_damaged_archive_loads_nothing() {
    let play = Playground::new(Client::Docker, &[]);
    let before = play.inventory();
    let archive = play.scratch().join("archive.tar");
    fs::write(&archive, b"this is no archive").unwrap();
    let outcome = play.run(&["load", "--input", archive.to_str().unwrap()]);
    assert_eq!(outcome.code, 1, "{outcome:#?}");
    assert!(!outcome.stderr.is_empty());
    play.nothing_left_since(&before);
    play.finish();
}
