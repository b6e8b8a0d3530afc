//! Docker's compose on our socket: an application of three services comes up, is scaled, looked into, and goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

use crate::support::command::{LIMIT, run};
use crate::support::daemon::socket;
use crate::support::images::Image;
use crate::support::net::{get, loopback};
use crate::support::{Client, Playground};

const SECONDS: Duration = Duration::from_secs(20);

const APPLICATION: &str = "\
version: '3.8'
services:
  db:
    image: IMAGE
    command: sh -c 'trap exit TERM; while :; do cat /data/row | nc -l -p 5432 & wait; done'
    volumes: ['data:/data']
    networks: [back]
  api:
    image: IMAGE
    command: sh -c 'trap exit TERM; echo ready; while :; do nc db 5432 | nc -l -p 80 & wait; done'
    networks:
      back: {}
      front: {aliases: [backend]}
    depends_on: [db]
  web:
    image: IMAGE
    command: sh -c 'trap exit TERM; httpd -h /etc & echo listening; wait; sleep 3600 & wait'
    ports: ['8080:80']
    networks: [front]
    depends_on: [api]
networks:
  front: {}
  back: {internal: true}
volumes:
  data: {}
";

/// Compose v2 if `KELSON_COMPOSE` names it, or Debian's.
fn compose_program() -> PathBuf {
    match std::env::var_os("KELSON_COMPOSE") {
        Some(path) => path.into(),
        None => crate::support::programs::peer("docker-compose"),
    }
}

/// An application of one project.
struct Application<'a> {
    play: &'a Playground,
    file: PathBuf,
}

impl Application<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(compose_program());
        let scratch: &Path = self.play.scratch();
        command
            .env("DOCKER_HOST", format!("unix://{}", socket(scratch).display()))
            .env("DOCKER_CONFIG", scratch.join("client"))
            .env_remove("DOCKER_CONTEXT")
            .args(["--project-name", "app", "--file"])
            .arg(&self.file)
            .args(arguments);
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments), LIMIT).ok()
    }
}

#[test]
fn compose_brings_an_application_up_and_takes_it_down() {
    let play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    // The cgroup of all containers goes with the one that made it.
    play.ok(&[
        "run",
        "-d",
        "--name",
        "keeper",
        "--network",
        "none",
        image,
        "sleep",
        "3600",
    ]);
    let before = play.inventory();
    let file = play.scratch().join("compose.yaml");
    fs::write(&file, APPLICATION.replace("IMAGE", image)).unwrap();
    let app = Application { play: &play, file };

    app.ok(&["up", "-d"]);
    play.ok(&[
        "run",
        "--rm",
        "-v",
        "app_data:/data",
        image,
        "sh",
        "-c",
        "echo a row > /data/row",
    ]);
    let listed = play.ok(&[
        "ps",
        "--filter",
        "label=com.docker.compose.project=app",
        "--format",
        "{{.Names}}",
    ]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    eventually("the page", SECONDS, || get(loopback(8080), "/hostname").map(Some)).unwrap();

    // By the service's name and by its alias, and through it to a network that web is not on.
    let ask = |name: &str| {
        eventually(&format!("a row by {name}"), SECONDS, || {
            let mut exec = app.command(&["exec", "-T", "web", "nc", "-w", "3", name, "80"]);
            let outcome = run(&mut exec, LIMIT);
            anyhow::ensure!(outcome.stdout == "a row\n", "{outcome:?}");
            Ok(Some(()))
        })
        .unwrap();
    };
    ask("api");
    ask("backend");
    let found = run(
        &mut app.command(&["exec", "-T", "web", "nc", "-w", "1", "db", "5432"]),
        LIMIT,
    );
    assert_ne!(found.code, 0, "web sees the database: {found:?}");

    app.ok(&["up", "-d", "--scale", "api=3"]);
    let names = app.ok(&["exec", "-T", "web", "busybox", "nslookup", "api"]);
    assert_eq!(names.matches("Name:").count(), 3, "{names}");
    let logs = app.ok(&["logs", "web"]);
    assert!(logs.contains("listening"), "{logs}");
    app.ok(&["up", "-d", "--scale", "api=1"]);
    app.ok(&["restart", "-t", "1", "api"]);
    ask("api");

    app.ok(&["down", "--volumes", "-t", "1"]);
    play.nothing_left_since(&before);
    play.ok(&["rm", "-f", "keeper"]);
    play.finish();
}
