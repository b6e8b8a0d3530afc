use super::*;
use crate::argv::{Request, parse};

fn request(line: &[&str]) -> Result<ContainerCreateRequest, String> {
    let args: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
    match parse(&crate::commands::container::run::COMMAND, "kelson run", &args) {
        Ok(Request::Run(parsed)) => build(&parsed).map_err(|error| error.to_string()),
        Ok(Request::Help { .. }) => Err("help".into()),
        Err(error) => Err(error.to_string().lines().next().unwrap_or_default().into()),
    }
}

#[test]
fn the_usual_line() {
    let request = request(&[
        "-dp",
        "8080:80",
        "--name",
        "web",
        "-e",
        "A=b",
        "-v",
        "vol:/data:ro",
        "-m",
        "64m",
        "--restart",
        "on-failure:3",
        "--add-host=h=[::1]",
        "nginx",
        "sh",
        "-c",
        "x",
    ])
    .unwrap();
    let host = request.host_config.unwrap();
    assert_eq!(request.config.image, "nginx");
    assert_eq!(request.config.cmd.unwrap().0, ["sh", "-c", "x"]);
    assert_eq!(request.config.env.unwrap(), ["A=b"]);
    assert!(request.config.attach_stdout && !request.config.attach_stdin);
    assert_eq!(host.memory, 64 << 20);
    assert_eq!(host.binds.unwrap(), ["vol:/data:ro"]);
    assert_eq!(host.extra_hosts.unwrap(), ["h:::1"]);
    assert_eq!(host.network_mode, "default");
    assert_eq!(
        (
            host.restart_policy.name.as_str(),
            host.restart_policy.maximum_retry_count
        ),
        ("on-failure", 3)
    );
    assert_eq!(
        host.port_bindings.unwrap()["80/tcp"].as_ref().unwrap()[0].host_port,
        "8080"
    );
    assert!(request.config.exposed_ports.unwrap().contains_key("80/tcp"));
}

#[test]
fn streams() {
    let config = request(&["-i", "x"]).unwrap().config;
    assert!(config.attach_stdin && config.open_stdin && config.stdin_once);
    let config = request(&["-a", "STDOUT", "x"]).unwrap().config;
    assert!(config.attach_stdout && !config.attach_stderr && !config.attach_stdin);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let why = |line: &[&str]| request(line).unwrap_err();
    assert_eq!(
        why(&["--rm", "--restart", "always", "x"]),
        "conflicting options: cannot specify both --restart and --rm"
    );
    assert_eq!(why(&["-p", "abc", "x"]), "invalid containerPort: abc");
    assert_eq!(
        why(&["--restart", "on-failure:x", "x"]),
        "invalid restart policy format: maximum retry count must be an integer"
    );
    assert_eq!(why(&["--pid", "x", "x"]), "--pid: invalid PID mode");
    assert_eq!(
        why(&["--no-healthcheck", "--health-cmd", "x", "x"]),
        "--no-healthcheck conflicts with --health-* options"
    );
    assert_eq!(
        why(&["-m", "x", "x"]),
        "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'"
    );
    assert_eq!(
        why(&["-e", "", "x"]),
        "invalid argument \"\" for \"-e, --env\" flag: invalid environment variable: "
    );
    assert_eq!(
        why(&["--mount", "type=foo", "x"]),
        "invalid argument \"type=foo\" for \"--mount\" flag: target is required"
    );
    assert!(why(&["--env-file", "/nonexistent", "x"]).contains("no such file or directory"));
}

#[test]
fn an_empty_entrypoint_is_said() {
    assert_eq!(
        request(&["--entrypoint", "", "x"])
            .unwrap()
            .config
            .entrypoint
            .unwrap()
            .0,
        [""]
    );
}
