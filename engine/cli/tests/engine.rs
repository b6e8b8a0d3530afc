//! The command against a scripted engine: what it asks, in which order, what it shows, how it ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fake;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use fake::{Asked, Engine, command, json, upgrade};

const DEADLINE: Duration = Duration::from_secs(20);

fn shown(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Answers with JSON in chunks of a few bytes.
fn chunked(stream: &mut UnixStream, body: &str) {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    for piece in body.as_bytes().chunks(7) {
        stream
            .write_all(format!("{:x}\r\n", piece.len()).as_bytes())
            .unwrap();
        stream.write_all(piece).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
}

/// An engine with one container `c1` that writes to both streams and exits with `code`.
fn one_run(code: i32, pulls: bool) -> Engine {
    let (started, start) = mpsc::channel::<()>();
    let start = std::sync::Mutex::new(start);
    let missing = std::sync::atomic::AtomicBool::new(pulls);
    Engine::start(move |asked: &Asked, stream: &mut UnixStream| {
        let line = asked.line.as_str();
        if line.starts_with("POST /containers/create") {
            if missing.load(std::sync::atomic::Ordering::SeqCst) {
                json(stream, 404, r#"{"message":"No such image: x:latest"}"#);
            } else {
                json(stream, 201, r#"{"Id":"c1","Warnings":["be warned"]}"#);
            }
        } else if line.starts_with("POST /images/create") {
            missing.store(false, std::sync::atomic::Ordering::SeqCst);
            chunked(
                stream,
                "{\"status\":\"Pulling from library/x\",\"id\":\"latest\"}\n{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"a\"}\n{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"a\"}\n{\"status\":\"Digest: sha256:1\"}\n",
            );
        } else if line.starts_with("POST /containers/c1/attach") {
            upgrade(stream, &[]);
            start.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            for (id, bytes) in [(1_u8, &b"out\n"[..]), (2, b"err\n")] {
                stream.write_all(&[id, 0, 0, 0, 0, 0, 0, 4]).unwrap();
                stream.write_all(bytes).unwrap();
            }
        } else if line.starts_with("POST /containers/c1/wait") {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .unwrap();
            let body = format!("{{\"StatusCode\":{code}}}\n");
            stream
                .write_all(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes())
                .unwrap();
        } else if line.starts_with("POST /containers/c1/start") {
            json(stream, 204, "");
            started.send(()).unwrap();
        } else {
            json(stream, 500, r#"{"message":"unexpected"}"#);
        }
    })
}

#[test]
fn run_listens_before_it_starts() {
    let engine = one_run(42, false);
    let output = engine.kelson(&["run", "--rm", "--name", "web", "-e", "A=b", "x", "sh", "-c", "y"]);
    let expected = (42, "out\n".to_owned(), "WARNING: be warned\nerr\n".to_owned());
    assert_eq!(shown(&output), expected);
    assert_eq!(
        engine.lines(),
        [
            "GET /_ping",
            "POST /containers/create?name=web",
            "POST /containers/c1/attach?stream=1&stdout=1&stderr=1",
            "POST /containers/c1/wait?condition=removed",
            "POST /containers/c1/start",
        ]
    );
    let body = engine.body("POST /containers/create");
    assert_eq!(body["Cmd"], serde_json::json!(["sh", "-c", "y"]));
    assert_eq!(body["Env"], serde_json::json!(["A=b"]));
    assert_eq!(body["HostConfig"]["AutoRemove"], true);
}

#[test]
fn run_pulls_what_is_missing() {
    let engine = one_run(0, true);
    let (code, out, err) = shown(&engine.kelson(&["run", "x"]));
    assert_eq!((code, out.as_str()), (0, "out\n"));
    assert_eq!(
        err,
        "Unable to find image 'x:latest' locally\nlatest: Pulling from library/x\na: Pull complete\nDigest: sha256:1\nWARNING: be warned\nerr\n"
    );
    assert!(
        engine
            .lines()
            .contains(&"POST /images/create?fromImage=x&tag=latest".to_owned())
    );
}

#[test]
fn run_ends_as_the_error_says() {
    for (body, expected) in [
        (
            r#"{"message":"exec: \"x\": not there","kind":"command_not_found"}"#,
            127,
        ),
        (r#"{"message":"exec: \"x\": permission denied"}"#, 126),
        (r#"{"message":"port is already allocated"}"#, 125),
    ] {
        let engine = Engine::start(move |asked, stream| {
            if asked.line.starts_with("POST /containers/create") {
                json(stream, 201, r#"{"Id":"c1","Warnings":[]}"#);
            } else {
                json(stream, 400, body);
            }
        });
        let (code, out, err) = shown(&engine.kelson(&["run", "-d", "x"]));
        assert_eq!((code, out.as_str()), (expected, ""));
        assert!(err.starts_with("kelson: Error response from daemon: "), "{err}");
        assert!(
            err.ends_with("\n\nRun 'kelson run --help' for more information\n"),
            "{err}"
        );
        assert_eq!(err.matches("Error response").count(), 1);
    }
}

#[test]
fn a_taken_id_file_is_refused_before_anything_is_asked() {
    let engine = Engine::start(|_, stream| json(stream, 500, "{}"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("id");
    std::fs::write(&path, "x").unwrap();
    let (code, _, err) = shown(&engine.kelson(&["run", "--cidfile", path.to_str().unwrap(), "x"]));
    assert_eq!(code, 125);
    assert!(err.starts_with("kelson: container ID file found"), "{err}");
    assert!(engine.lines().is_empty());
}

#[test]
fn an_id_file_is_written_and_does_not_outlive_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("id");
    let failing = Engine::start(|_, stream| json(stream, 409, r#"{"message":"Conflict"}"#));
    assert_eq!(
        shown(&failing.kelson(&["create", "--cidfile", path.to_str().unwrap(), "x"])).0,
        1
    );
    assert!(!path.exists());
    let engine = one_run(0, false);
    let (code, out, _) = shown(&engine.kelson(&["create", "--cidfile", path.to_str().unwrap(), "x"]));
    assert_eq!((code, out.as_str()), (0, "c1\n"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "c1");
}

#[test]
fn lists_are_tables_lines_or_templates() {
    let engine = Engine::start(|_, stream| {
        chunked(
            stream,
            r#"[{"Id":"94231e33166f46c0ff90361e99565af2a9fa9157a2ec5678a088ff3f933bab8a","Names":["/ex"],"Image":"busybox","ImageID":"sha256:1","Command":"sh -c 'exit 3'","Created":1,"Ports":null,"Labels":{},"State":"exited","Status":"Exited (3) 5 seconds ago","HostConfig":{},"NetworkSettings":null,"Mounts":[]}]"#,
        );
    });
    assert_eq!(shown(&engine.kelson(&["ps", "-aq"])).1, "94231e33166f\n");
    assert_eq!(
        shown(&engine.kelson(&["container", "ls", "-a", "--format", "{{.Names}}: {{.Status}}"])).1,
        "ex: Exited (3) 5 seconds ago\n"
    );
    let table = shown(&engine.kelson(&["ps", "-a", "--format", "table {{.ID}}\t{{.Status}}\t{{.Names}}"])).1;
    assert_eq!(
        table,
        "CONTAINER ID   STATUS                     NAMES\n94231e33166f   Exited (3) 5 seconds ago   ex\n"
    );
    let (code, _, err) = shown(&engine.kelson(&["ps", "--format", "{{.Foo}}"]));
    assert_eq!(code, 1);
    assert_eq!(
        err,
        "failed to execute template: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext\n"
    );
    shown(&engine.kelson(&["ps", "-f", "name=a", "-f", "name=b", "-n", "3"]));
    let last = engine.lines().pop().unwrap();
    assert_eq!(
        last,
        "GET /containers/json?limit=3&filters=%7B%22name%22%3A%5B%22a%22%2C%22b%22%5D%7D"
    );
}

#[test]
fn inspect_shows_what_is_there_and_fails_for_what_is_not() {
    let engine = Engine::start(|asked, stream| match asked.line.as_str() {
        "GET /containers/web/json" => json(stream, 200, r#"{"Z":1,"A":{"b":[]}}"#),
        _ => json(stream, 404, r#"{"message":"no"}"#),
    });
    let output = engine.kelson(&["inspect", "web", "nosuch"]);
    assert_eq!(
        shown(&output),
        (
            1,
            "[\n    {\n        \"Z\": 1,\n        \"A\": {\n            \"b\": []\n        }\n    }\n]\n"
                .to_owned(),
            "Error: No such object: nosuch\n".to_owned()
        )
    );
    assert_eq!(
        shown(&engine.kelson(&["inspect", "-f", "{{.Z}}", "web"])).1,
        "1\n"
    );
}

#[test]
fn exec_copies_input_and_returns_the_code() {
    let engine = Engine::start(|asked, stream| match asked.line.as_str() {
        "POST /containers/web/exec" => json(stream, 201, r#"{"Id":"e1"}"#),
        "POST /exec/e1/start" => {
            upgrade(stream, &[]);
            let mut input = Vec::new();
            // The half-closed connection still carries the answer.
            stream.read_to_end(&mut input).unwrap();
            let length = u8::try_from(input.len()).unwrap();
            stream.write_all(&[1, 0, 0, 0, 0, 0, 0, length]).unwrap();
            stream.write_all(&input).unwrap();
        }
        "GET /exec/e1/json" => json(stream, 200, r#"{"ExitCode":9,"Running":false}"#),
        _ => json(stream, 500, r#"{"message":"unexpected"}"#),
    });
    let output = engine.kelson_with(&["exec", "-i", "web", "cat", "-n"], "hello");
    assert_eq!(shown(&output), (9, "hello".to_owned(), String::new()));
    let body = engine.body("POST /containers/web/exec");
    assert_eq!(body["Cmd"], serde_json::json!(["cat", "-n"]));
    assert_eq!(body["AttachStdin"], true);
}

#[test]
fn load_sends_the_archive_in_chunks() {
    let engine = Engine::start(|_, stream| json(stream, 200, "{\"stream\":\"Loaded image: x:1\\n\"}\n"));
    let archive = "0123456789".repeat(20_000);
    let output = engine.kelson_with(&["load"], &archive);
    assert_eq!(
        shown(&output),
        (0, "Loaded image: x:1\n".to_owned(), String::new())
    );
    assert_eq!(engine.lines().pop().unwrap(), "POST /images/load?quiet=1");
}

#[test]
fn an_error_inside_a_stream_is_an_error() {
    let engine = Engine::start(|_, stream| {
        chunked(
            stream,
            "{\"status\":\"x\"}\n{\"errorDetail\":{\"message\":\"manifest unknown\"},\"error\":\"manifest unknown\"}\n",
        );
    });
    let (code, out, err) = shown(&engine.kelson(&["pull", "localhost:1/x:2"]));
    assert_eq!((code, out.as_str()), (1, "x\n"));
    assert_eq!(err, "Error response from daemon: manifest unknown\n");
    let (code, _, err) = shown(&engine.kelson(&["run", "--pull", "always", "localhost:1/x:2"]));
    assert_eq!(code, 125);
    assert!(
        err.contains("kelson: Error response from daemon: manifest unknown\n"),
        "{err}"
    );
}

#[test]
fn a_reader_that_goes_away_is_a_success() {
    let engine = Engine::start(|asked, stream| {
        if asked.line.ends_with("/json") {
            json(stream, 200, r#"{"Id":"c1","Config":{"Tty":true}}"#);
            return;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        // Until the client has gone.
        while stream.write_all(&[b'y'; 4096]).is_ok() {}
    });
    let mut child = command(&["-H", &engine.host, "logs", "-f", "c1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(shown(&output), (0, String::new(), String::new()));
}

#[test]
fn several_errors_are_each_shown_once() {
    let engine = Engine::start(|asked, stream| {
        let name = asked.line.split('/').nth(2).unwrap();
        json(
            stream,
            404,
            &format!(r#"{{"message":"No such container: {name}"}}"#),
        );
    });
    let expected = "Error response from daemon: No such container: a\nError response from daemon: No such container: b\n";
    assert_eq!(
        shown(&engine.kelson(&["stop", "a", "b"])),
        (1, String::new(), expected.to_owned())
    );
    // What is gone already is what -f wants.
    assert_eq!(shown(&engine.kelson(&["rm", "-f", "a?x"])).0, 0);
}

#[test]
fn without_an_engine_the_address_is_named() {
    let output = command(&["-H", "unix:///nonexistent.sock", "ps"])
        .output()
        .unwrap();
    let expected =
        "Cannot connect to the Kelson daemon at unix:///nonexistent.sock. Is the kelsond running?\n";
    assert_eq!(shown(&output), (1, String::new(), expected.to_owned()));
    let output = command(&["ps"])
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(shown(&output).2.contains("tcp://127.0.0.1:1"));
}

#[test]
fn an_old_engine_is_spoken_to_in_its_version() {
    let engine = Engine::start(|_, stream| json(stream, 200, r#"{"Version":"20.10"}"#));
    let (_, out, _) = shown(&engine.kelson(&["version", "-f", "{{.Client.ApiVersion}} {{.Server.Version}}"]));
    assert_eq!(out, "1.41 20.10\n");
}

/// Captured from docker 28.2.2 without a terminal, with its name replaced by ours.
#[test]
fn help_is_laid_out_as_dockers() {
    for (verb, expected) in [
        ("exec", include_str!("data/help-exec.txt")),
        ("logs", include_str!("data/help-logs.txt")),
        ("ps", include_str!("data/help-ps.txt")),
        ("rm", include_str!("data/help-rm.txt")),
    ] {
        let (code, out, err) = shown(&command(&[verb, "--help"]).output().unwrap());
        assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));
    }
}

#[test]
fn credentials_are_kept_and_sent_with_the_pull() {
    let seen = Arc::new(Mutex::new(String::new()));
    let fields = Arc::clone(&seen);
    let engine = Engine::start(move |asked, stream| {
        fields.lock().unwrap().clone_from(&asked.fields);
        match asked.line.as_str() {
            "POST /auth" => json(stream, 501, r#"{"message":"not here"}"#),
            _ => json(stream, 200, "{\"status\":\"done\"}\n"),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let config = ["--config", dir.path().to_str().unwrap()];
    let login = ["login", "-u", "me", "--password-stdin", "registry.test:5000"];
    let (code, out, err) = shown(&engine.kelson_with(&[&config[..], &login].concat(), "secret\n"));
    assert_eq!(
        (code, out.as_str()),
        (0, "Credentials for registry.test:5000 stored\n")
    );
    assert!(
        err.contains("cannot check credentials") && err.contains("unencrypted"),
        "{err}"
    );
    let pull = ["pull", "registry.test:5000/x:1"];
    assert_eq!(shown(&engine.kelson(&[&config[..], &pull].concat())).0, 0);
    let fields = seen.lock().unwrap().clone();
    // {"username":"me","password":"secret","serveraddress":"registry.test:5000"}
    assert!(
        fields.contains("x-registry-auth: eyj1c2vybmftzsi6im1liiw"),
        "{fields}"
    );
    let (_, out, _) = shown(&engine.kelson(&[&config[..], &["logout", "registry.test:5000"]].concat()));
    assert_eq!(out, "Removing login credentials for registry.test:5000\n");
}

const SAMPLE: &str = r#"{"id":"0123456789abcdef","name":"/web","cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},"precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},"memory_stats":{"usage":2097152,"limit":1073741824},"pids_stats":{"current":3}}"#;

#[test]
fn stats_once_and_as_a_stream_that_ends() {
    let engine = Engine::start(|asked, stream| match asked.line.as_str() {
        "GET /containers/web/stats?stream=0" | "GET /containers/web/stats?stream=1" => {
            json(stream, 200, SAMPLE)
        }
        "GET /containers/0123456789abcdef/stats?stream=0" => json(stream, 200, SAMPLE),
        "GET /containers/json" => json(stream, 200, r#"[{"Id":"0123456789abcdef"}]"#),
        _ => json(stream, 404, r#"{"message":"No such container: x"}"#),
    });
    let table = "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O   BLOCK I/O   PIDS\n0123456789ab   web       40.00%    2MiB / 1GiB         0.20%     0B / 0B   0B / 0B     3\n";
    for args in [
        &["stats", "--no-stream", "web"][..],
        &["container", "stats", "--no-stream"],
    ] {
        assert_eq!(shown(&engine.kelson(args)), (0, table.to_owned(), String::new()));
    }
    let (code, out, _) = shown(&engine.kelson(&["stats", "--format", "{{.ID}}", "web"]));
    assert!(
        code == 0 && out.starts_with("\x1b[H") && out.ends_with("\x1b[J"),
        "{out:?}"
    );
    assert_eq!(
        shown(&engine.kelson(&["stats", "--no-stream", "x"])),
        (
            1,
            String::new(),
            "Error response from daemon: No such container: x\n".to_owned()
        )
    );
}

#[test]
fn update_sends_what_was_given_and_nothing_else() {
    let engine = Engine::start(|_, stream| json(stream, 200, r#"{"Warnings":["w"]}"#));
    let output = engine.kelson(&[
        "update",
        "--memory",
        "64m",
        "--cpus=.5",
        "--restart",
        "on-failure:3",
        "a",
        "b",
    ]);
    assert_eq!(shown(&output), (0, "a\nb\nw\nw\n".to_owned(), String::new()));
    assert_eq!(
        engine.body("POST /containers/b/update"),
        serde_json::json!({"Memory": 67_108_864, "NanoCpus": 500_000_000, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}})
    );
    let (code, _, error) = shown(&engine.kelson(&["update", "a"]));
    assert_eq!(
        (code, error.as_str()),
        (1, "you must provide one or more flags when using this command\n")
    );
    assert_eq!(shown(&engine.kelson(&["update", "-m", "x", "a"])).0, 125);
}

#[test]
fn system_prune_asks_and_prunes_in_order() {
    let engine = Engine::start(|asked, stream| {
        let line = asked.line.split('?').next().unwrap_or_default();
        match line {
            "POST /containers/prune" => json(
                stream,
                200,
                r#"{"ContainersDeleted":["c"],"SpaceReclaimed":1000}"#,
            ),
            "POST /networks/prune" => json(stream, 501, r#"{"message":"not yet"}"#),
            "POST /volumes/prune" => json(stream, 200, r#"{"VolumesDeleted":null,"SpaceReclaimed":0}"#),
            _ => json(
                stream,
                200,
                r#"{"ImagesDeleted":[{"Untagged":"x:1"},{"Deleted":"sha256:1"}],"SpaceReclaimed":500}"#,
            ),
        }
    });
    let (code, out, _) = shown(&engine.kelson_with(&["system", "prune"], "n\n"));
    assert!(
        code == 0 && out.contains("WARNING! This will remove:\n  - all stopped containers\n"),
        "{out}"
    );
    assert!(engine.lines().is_empty());
    let output = engine.kelson(&["system", "prune", "-f", "--volumes"]);
    let text = "Deleted Containers:\nc\n\nDeleted Images:\nuntagged: x:1\ndeleted: sha256:1\n\nTotal reclaimed space: 1.5kB\n";
    assert_eq!(shown(&output), (0, text.to_owned(), String::new()));
}

/// A `ssh` that shows what it was told and is its own other end.
fn fake_ssh(dir: &std::path::Path, host: &str) {
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" > {0}/told\nexec {1} -H {host} system dial-stdio\n",
        dir.display(),
        env!("CARGO_BIN_EXE_kelson")
    );
    std::fs::write(dir.join("ssh"), script).unwrap();
    std::fs::set_permissions(
        dir.join("ssh"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
}

#[test]
fn an_engine_behind_ssh_answers_attaches_and_is_a_context() {
    let engine = one_run(3, false);
    let dir = tempfile::tempdir().unwrap();
    fake_ssh(dir.path(), &engine.host);
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let run = |args: &[&str]| {
        let mut command = command(args);
        let output = command
            .env("PATH", &path)
            .env("DOCKER_CONFIG", dir.path())
            .output();
        shown(&output.unwrap())
    };
    let (code, out, error) = run(&["-H", "ssh://me@host:2222", "run", "x"]);
    assert_eq!((code, out.as_str()), (3, "out\n"), "{error}");
    let told = std::fs::read_to_string(dir.path().join("told")).unwrap();
    let wanted = "-l\nme\n-p\n2222\n-o\nConnectTimeout=30\n-T\n--\nhost\nkelson system dial-stdio\n";
    assert_eq!(told, wanted);

    assert_eq!(
        run(&["context", "create", "far", "--docker", "host=ssh://host"]).0,
        0
    );
    assert_eq!(run(&["context", "use", "far"]).1, "far\n");
    assert_eq!(run(&["context", "show"]).1, "far\n");
    let lines = run(&[
        "context",
        "ls",
        "--format",
        "{{.Name}} {{.Current}} {{.DockerEndpoint}}",
    ])
    .1;
    assert_eq!(
        lines,
        "default false unix:///run/kelson/kelson.sock\nfar true ssh://host\n"
    );
    assert!(run(&["context", "ls"]).1.starts_with("NAME      DESCRIPTION  "));
    assert_eq!(
        run(&["context", "rm", "far"]).2,
        "context \"far\" is in use, set -f flag to force remove\n"
    );
    let tar = dir.path().join("far.tar").display().to_string();
    assert_eq!(run(&["context", "export", "far", &tar]).0, 0);
    assert_eq!(run(&["context", "import", "near", &tar]).1, "near\n");
    assert_eq!(
        run(&["context", "inspect", "near", "-f", "{{.Endpoints.docker.Host}}"]).1,
        "ssh://host\n"
    );
    assert_eq!(run(&["context", "rm", "-f", "far"]).1, "far\n");
    assert_eq!(run(&["context", "show"]).1, "default\n");
    // A context that is not there is an error, and no reason to refuse the command that leaves it.
    let (code, _, error) = run(&["--context", "far", "ps"]);
    let wanted =
        "Failed to initialize: unable to resolve kelson endpoint: context \"far\": context not found\n";
    assert_eq!((code, error.as_str()), (1, wanted));
    assert_eq!(run(&["--context", "far", "context", "use", "default"]).0, 0);
}
