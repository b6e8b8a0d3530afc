use super::*;

static RUN: Command = Command {
    names: &["container run", "run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "",
    flags: &[&[
        switch("detach", "").short('d'),
        switch("interactive", "").short('i'),
        switch("tty", "").short('t'),
        switch("sig-proxy", ""),
        list("publish", "").short('p'),
        list("env", "").short('e'),
        value("name", "string", ""),
        value("hostname", "string", "").short('h'),
        int("cpu-shares", "").short('c'),
        list("cap-add", ""),
    ]],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: true,
    run: |_, _| Ok(0),
};

static STOP: Command = Command {
    names: &["container stop", "stop"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "",
    flags: &[&[int("timeout", "").short('t')]],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run: |_, _| Ok(0),
};

fn read(command: &'static Command, line: &str) -> Result<Box<Parsed>, String> {
    let args: Vec<String> = line
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(Into::into)
        .collect();
    let typed = format!("kelson {}", command.names[command.names.len() - 1]);
    match parse(command, &typed, &args) {
        Ok(Request::Run(parsed)) => Ok(parsed),
        Ok(Request::Help { deprecated }) => Err(format!("help {deprecated}")),
        Err(error) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

#[test]
fn clusters_take_the_value_of_their_last_letter() {
    let parsed = read(&RUN, "-dp 1234:6379 redis").unwrap();
    assert!(parsed.on("detach"));
    assert_eq!(parsed.list("publish").collect::<Vec<_>>(), ["1234:6379"]);
    assert_eq!(parsed.args, ["redis"]);
    let parsed = read(&RUN, "-itp80:80 -p=81:81 x").unwrap();
    assert!(parsed.on("interactive") && parsed.on("tty"));
    assert_eq!(parsed.list("publish").collect::<Vec<_>>(), ["80:80", "81:81"]);
}

#[test]
fn flags_end_at_the_image() {
    let parsed = read(&RUN, "-d image ls -la --name x -- -p").unwrap();
    assert_eq!(parsed.args, ["image", "ls", "-la", "--name", "x", "--", "-p"]);
    assert!(parsed.text("name").is_none());
    let parsed = read(&RUN, "-d -- image -x").unwrap();
    assert_eq!(parsed.args, ["image", "-x"]);
}

#[test]
fn flags_and_arguments_mix_elsewhere() {
    let parsed = read(&STOP, "a -t 1 b").unwrap();
    assert_eq!(parsed.args, ["a", "b"]);
    assert_eq!(parsed.int("timeout"), Some(1));
    assert_eq!(read(&STOP, "a -t -1").unwrap().int("timeout"), Some(-1));
}

#[test]
fn switches_take_a_value_only_after_an_equals_sign() {
    let parsed = read(&RUN, "--tty=false -i=0 -d=true x").unwrap();
    assert!(!parsed.on("tty") && !parsed.on("interactive") && parsed.on("detach"));
    assert_eq!(parsed.switch("sig-proxy"), None);
    assert_eq!(read(&RUN, "-d -d false").unwrap().args, ["false"]);
    assert_eq!(
        read(&RUN, "-t=maybe x").unwrap_err(),
        "invalid argument \"maybe\" for \"-t, --tty\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
    );
}

#[test]
fn errors_are_dockers() {
    assert_eq!(
        read(&RUN, "-name x busybox").unwrap_err(),
        "unknown shorthand flag: 'n' in -name"
    );
    assert_eq!(
        read(&RUN, "-itx busybox").unwrap_err(),
        "unknown shorthand flag: 'x' in -x"
    );
    assert_eq!(read(&RUN, "--foo busybox").unwrap_err(), "unknown flag: --foo");
    assert_eq!(read(&RUN, "--foo=1 busybox").unwrap_err(), "unknown flag: --foo");
    assert_eq!(
        read(&RUN, "--name").unwrap_err(),
        "flag needs an argument: --name"
    );
    assert_eq!(
        read(&RUN, "-d -p").unwrap_err(),
        "flag needs an argument: 'p' in -p"
    );
    assert_eq!(
        read(&RUN, "").unwrap_err(),
        "kelson: 'kelson run' requires at least 1 argument"
    );
    assert_eq!(
        read(&RUN, "--cap-add busybox").unwrap_err(),
        "kelson: 'kelson run' requires at least 1 argument"
    );
    assert_eq!(
        read(&RUN, "-c x busybox").unwrap_err(),
        "invalid argument \"x\" for \"-c, --cpu-shares\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"
    );
}

#[test]
fn help_is_asked_for_by_name() {
    assert_eq!(read(&RUN, "--help").unwrap_err(), "help false");
    assert_eq!(read(&STOP, "-h").unwrap_err(), "help true");
    assert_eq!(read(&RUN, "-h web x").unwrap().text("hostname"), Some("web"));
}

#[test]
fn empty_values_are_values() {
    assert_eq!(read(&RUN, "--name= x").unwrap().text("name"), Some(""));
}
