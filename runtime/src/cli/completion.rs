//! `completion`: scripts that complete commands and flags in a shell, made from the commands' own definitions.

use std::fmt::Write;

use clap::{CommandFactory, Parser};

use super::globals::Globals;
use super::{Outcome, print};
use crate::error::{Error, Kind, Result};

#[derive(Debug, Parser)]
#[command(
    name = "completion",
    about = "print a script that completes commands in a shell"
)]
pub(super) struct Args {
    /// bash, zsh or fish
    pub shell: String,
}

pub(super) fn run(args: &Args, program: &str) -> Outcome {
    script(&args.shell, program, super::commands())
        .and_then(|text| print(&text))
        .into()
}

fn script(shell: &str, program: &str, commands: Vec<clap::Command>) -> Result<String> {
    match shell {
        "bash" => Ok(bash(program, &commands)),
        // zsh runs bash's completions.
        "zsh" => Ok(format!(
            "autoload -U +X bashcompinit && bashcompinit\n{}",
            bash(program, &commands)
        )),
        "fish" => Ok(fish(program, &commands)),
        other => Err(Error::new(
            Kind::Invalid,
            format!("completion: {other:?} is not bash, zsh or fish"),
        )),
    }
}

fn flags(command: &clap::Command) -> Vec<String> {
    command
        .get_arguments()
        .filter(|a| !a.is_hide_set())
        .filter_map(|a| a.get_long())
        .map(|long| format!("--{long}"))
        .collect()
}

fn bash(program: &str, commands: &[clap::Command]) -> String {
    let names: Vec<&str> = commands.iter().map(clap::Command::get_name).collect();
    let function = format!("_{}", program.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
    let mut out = format!(
        "{function}() {{\n  local word=\"${{COMP_WORDS[COMP_CWORD]}}\" verb= w\n  \
         for w in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n    case \"$w\" in\n      {}) verb=\"$w\"; break;;\n    esac\n  done\n  \
         local words=\n  case \"$verb\" in\n    '') words='{} {}';;\n",
        names.join("|"),
        names.join(" "),
        flags(&Globals::command()).join(" ")
    );
    for command in commands {
        let _ = writeln!(
            out,
            "    {}) words='{}'; [[ $word == -* ]] || words=\"$({program} list -q 2>/dev/null)\";;",
            command.get_name(),
            flags(command).join(" ")
        );
    }
    let _ = writeln!(
        out,
        "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}}\ncomplete -o default -F {function} {program}"
    );
    out
}

fn fish(program: &str, commands: &[clap::Command]) -> String {
    let mut out = String::new();
    for flag in flags(&Globals::command()) {
        let _ = writeln!(
            out,
            "complete -c {program} -n __fish_use_subcommand -l {}",
            &flag[2..]
        );
    }
    for command in commands {
        let name = command.get_name();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(
            out,
            "complete -c {program} -f -n __fish_use_subcommand -a {name} -d '{}'",
            about.replace('\'', "\\'")
        );
        for flag in flags(command) {
            let _ = writeln!(
                out,
                "complete -c {program} -n '__fish_seen_subcommand_from {name}' -l {}",
                &flag[2..]
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_every_command() {
        for shell in ["bash", "zsh", "fish"] {
            let text = script(shell, "kelson-runtime", super::super::commands()).unwrap();
            for command in super::super::commands() {
                assert!(
                    text.contains(command.get_name()),
                    "{shell}: {}",
                    command.get_name()
                );
            }
            assert!(
                text.contains("pid-file") && text.contains("cgroup-manager"),
                "{shell}"
            );
        }
        assert!(script("tcsh", "x", Vec::new()).is_err());
    }
}
