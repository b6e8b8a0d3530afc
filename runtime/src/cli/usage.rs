//! Help, and what is said about wrong arguments: in runc's words, as scripts and test suites know them.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::globals::Globals;

const COMMANDS: [(&str, &str); 22] = [
    ("checkpoint", "checkpoint a running container"),
    ("completion", "print a script that completes commands in a shell"),
    ("create", "create a container"),
    ("delete", "delete any resources held by the container"),
    (
        "events",
        "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
    ),
    ("exec", "execute new process inside the container"),
    ("features", "show the enabled features"),
    (
        "kill",
        "send a signal to the container's init process (default: SIGTERM)",
    ),
    ("info", "show what this machine and this build offer"),
    ("list", "list containers"),
    ("mounts", "add, remove or list mounts of a running container"),
    ("pause", "suspend all processes inside the container"),
    ("ps", "show the processes running inside a container"),
    ("restore", "restore a container from a previous checkpoint"),
    ("resume", "resume all processes that have been paused"),
    ("run", "create and run a container"),
    ("spec", "create a new specification file"),
    ("start", "execute the user defined process in a created container"),
    ("state", "output the state of a container"),
    ("update", "update container resource constraints"),
    ("help", "show this list"),
    ("version", "print the version"),
];

const TEMPLATE: &str = "\
NAME:
   {name} - {about}

USAGE:
   {usage}

{all-args}";

/// How many arguments a command takes besides its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Takes {
    least: usize,
    most: Option<usize>,
}

impl Takes {
    pub(super) const NONE: Self = Self::exactly(0);
    pub(super) const ID: Self = Self::exactly(1);

    pub(super) const fn exactly(n: usize) -> Self {
        Self {
            least: n,
            most: Some(n),
        }
    }

    pub(super) const fn between(least: usize, most: usize) -> Self {
        Self {
            least,
            most: Some(most),
        }
    }

    pub(super) const fn at_least(least: usize) -> Self {
        Self { least, most: None }
    }
}

/// Arguments that are wrong, or a wish for help.
pub(super) struct Usage {
    /// The command as clap knows it; of all commands only this one was built.
    pub command: clap::Command,
    /// None for the flags before the command.
    pub takes: Option<Takes>,
    /// What clap says.
    pub error: clap::Error,
}

/// The name by which the program was called.
pub(super) fn called(argv0: Option<&OsStr>) -> String {
    argv0.and_then(|name| Path::new(name).file_name()).map_or_else(
        || "kelson-runtime".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

impl Usage {
    /// Whether help was asked for.
    pub(super) fn is_help(&self) -> bool {
        self.error.kind() == ErrorKind::DisplayHelp
    }

    /// The help text of the command, or of the whole program.
    pub(super) fn help(self, program: &str) -> String {
        let Some(_) = self.takes else {
            return help(program);
        };
        let name = format!("{program} {}", self.command.get_name());
        render(self.command, &name)
    }

    /// One sentence on what is wrong.
    pub(super) fn sentence(&self, program: &str) -> String {
        let name = self.command.get_name();
        let given = match self.error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(s)) => s.as_str(),
            _ => "",
        };
        let count = |what: &str, n: usize| format!("{program}: {name:?} requires {what} {n} argument(s)");
        match (self.error.kind(), self.takes) {
            (ErrorKind::UnknownArgument, _) if given.starts_with('-') => {
                let flag = given
                    .strip_prefix('-')
                    .filter(|f| f.starts_with('-'))
                    .unwrap_or(given);
                format!("flag provided but not defined: {flag}")
            }
            (ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument, Some(takes))
                if takes.most == Some(takes.least) =>
            {
                count("exactly", takes.least)
            }
            (ErrorKind::MissingRequiredArgument, Some(takes)) => count("a minimum of", takes.least),
            (ErrorKind::UnknownArgument, Some(Takes { most: Some(most), .. })) => count("a maximum of", most),
            _ => first_line(&self.error),
        }
    }
}

/// clap's own sentence, without its heading and its advice.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn render(command: clap::Command, name: &str) -> String {
    let mut command = command
        .display_name(name.to_owned())
        .bin_name(name.to_owned())
        .help_template(TEMPLATE);
    command.render_long_help().to_string()
}

/// The program's help.
pub(super) fn help(program: &str) -> String {
    use clap::CommandFactory;
    let mut text = render(Globals::command(), program);
    text.push_str("\nCommands:\n");
    for (name, about) in COMMANDS {
        let _ = writeln!(text, "  {name:<12}{about}");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::{create, exec, kill, list};
    use super::*;

    fn usage<A: Parser + CommandFactory + std::fmt::Debug>(argv: &[&str], takes: Takes) -> String {
        Usage {
            command: A::command(),
            takes: Some(takes),
            error: A::try_parse_from(argv).unwrap_err(),
        }
        .sentence("runc")
    }

    #[test]
    fn sentences_are_runcs() {
        for (got, expected) in [
            (
                usage::<create::Args>(&["create", "--nope", "x"], Takes::ID),
                "flag provided but not defined: -nope",
            ),
            (
                usage::<create::Args>(&["create", "-x"], Takes::ID),
                "flag provided but not defined: -x",
            ),
            (
                usage::<create::Args>(&["create"], Takes::ID),
                "runc: \"create\" requires exactly 1 argument(s)",
            ),
            (
                usage::<create::Args>(&["create", "a", "b"], Takes::ID),
                "runc: \"create\" requires exactly 1 argument(s)",
            ),
            (
                usage::<list::Args>(&["list", "x"], Takes::NONE),
                "runc: \"list\" requires exactly 0 argument(s)",
            ),
            (
                usage::<kill::Args>(&["kill"], Takes::between(1, 2)),
                "runc: \"kill\" requires a minimum of 1 argument(s)",
            ),
            (
                usage::<kill::Args>(&["kill", "a", "b", "c"], Takes::between(1, 2)),
                "runc: \"kill\" requires a maximum of 2 argument(s)",
            ),
            (
                usage::<exec::Args>(&["exec"], Takes::at_least(1)),
                "runc: \"exec\" requires a minimum of 1 argument(s)",
            ),
        ] {
            assert_eq!(got, expected);
        }
        let bad = usage::<create::Args>(&["create", "--preserve-fds", "x", "a"], Takes::ID);
        assert!(
            bad.contains("'x'") && bad.contains("--preserve-fds") && !bad.contains('\n'),
            "{bad}"
        );
    }

    #[test]
    fn the_readme_has_every_command_and_flag() {
        let readme = include_str!("../../README.md");
        let rows = |name: &str| -> String {
            let row = |l: &&str| {
                l.split('|')
                    .nth(1)
                    .is_some_and(|cell| cell.contains(&format!("`{name}")))
            };
            readme.lines().filter(row).collect()
        };
        let in_table = |flags: String, command: &clap::Command| {
            let long = command
                .get_arguments()
                .filter(|a| !a.is_hide_set())
                .filter_map(clap::Arg::get_long);
            for flag in long {
                assert!(
                    flags.contains(&format!("`--{flag}")),
                    "{}: --{flag}",
                    command.get_name()
                );
            }
        };
        in_table(readme.to_owned(), &Globals::command());
        for command in super::super::commands() {
            let name = command.get_name();
            let mut flags = rows(name);
            assert!(!flags.is_empty(), "{name}");
            if name == "run" {
                flags += &rows("create");
            }
            in_table(flags, &command);
        }
    }

    #[test]
    fn help_begins_with_the_name() {
        let text = help("runc");
        assert!(
            text.starts_with("NAME:\n   runc - Open Container Initiative runtime\n"),
            "{text}"
        );
        assert!(text.contains("--cgroup-manager") && text.contains("\n  create "));
        for command in super::super::commands() {
            assert!(
                text.contains(&format!("\n  {} ", command.get_name())),
                "{}",
                command.get_name()
            );
        }
        let usage = Usage {
            command: create::Args::command(),
            takes: Some(Takes::ID),
            error: create::Args::try_parse_from(["create", "--help"]).unwrap_err(),
        };
        assert!(usage.is_help());
        let text = usage.help("runc");
        assert!(
            text.starts_with("NAME:\n   runc create - create a container\n"),
            "{text}"
        );
        assert!(text.contains("--pid-file"), "{text}");
    }
}
