//! The kelson command: docker's command line for a kelsond, or for any engine that speaks its API.
//!
//! A command line names a [`argv::Command`]; only that one is parsed and run. What goes wrong comes
//! back here as an error and is shown once.

mod argv;
mod autostart;
mod client;
mod commands;
mod contexts;
mod error;
mod format;
mod output;
#[cfg(test)]
mod properties;
mod session;
mod stream;
mod tty;

use std::process::ExitCode;

use argv::{Parsed, Request};
use commands::completion;
use error::Failure;
use format::help;
use session::{PROGRAM, Session};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let result = match &args[..] {
        [launch, engine] if launch == autostart::LAUNCH => Err(autostart::become_engine(engine)),
        [question, words @ ..] if question == completion::QUESTION => completion::answer(words),
        _ => run(&args),
    };
    match result {
        Ok(code) => code.into(),
        Err(error) => report(&error),
    }
}

/// Shows an error and turns it into the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<output::ReaderGone>()) {
        return ExitCode::SUCCESS;
    }
    let (text, code) = match error.downcast_ref::<Failure>() {
        Some(failure) => (failure.text.clone(), failure.code),
        None => (format!("{error:#}"), 1),
    };
    if !text.is_empty() {
        output::note(&text);
    }
    code.into()
}

fn run(args: &[String]) -> anyhow::Result<u8> {
    let globals = match argv::parse(&PROGRAM, "kelson", args)? {
        Request::Run(parsed) => parsed,
        Request::Help { .. } => return show(&help::program(session::globals(), tty::help_columns())),
    };
    if globals.on("version") {
        return show(&format!("Kelson version {}\n", env!("CARGO_PKG_VERSION")));
    }
    let words = &globals.args;
    match words.first().map(String::as_str) {
        None => return show(&help::program(session::globals(), tty::help_columns())),
        Some("help") => return help_of(&words[1..]),
        Some(_) => {}
    }
    let Some((command, count)) = commands::find(words) else {
        return no_command(words);
    };
    let typed = format!("kelson {}", words[..count].join(" "));
    match argv::parse(command, &typed, &words[count..])? {
        Request::Run(parsed) => execute(&globals, &parsed),
        Request::Help { deprecated } => {
            if deprecated {
                output::line("Flag shorthand -h has been deprecated, use --help")?;
            }
            show(&help::command(command, &typed, tty::help_columns()))
        }
    }
}

fn execute(globals: &Parsed, parsed: &Parsed) -> anyhow::Result<u8> {
    let about_contexts = parsed.command.names[0].starts_with("context ");
    let session = Session::new(globals, about_contexts)?;
    (parsed.command.run)(&session, parsed)
}

fn show(text: &str) -> anyhow::Result<u8> {
    output::out(text.as_bytes())?;
    Ok(0)
}

/// `kelson help [COMMAND]`.
fn help_of(words: &[String]) -> anyhow::Result<u8> {
    match (commands::find(words), words.first()) {
        (Some((command, count)), _) => {
            let typed = format!("kelson {}", words[..count].join(" "));
            show(&help::command(command, &typed, tty::help_columns()))
        }
        (None, Some(first)) => match commands::NOUNS.iter().find(|(noun, _)| noun == first) {
            Some((noun, about)) if words.len() == 1 => show(&help::noun(noun, about)),
            _ => Err(Failure::error(
                format!("unknown help topic: {}", words.join(" ")),
                1,
            )),
        },
        (None, None) => show(&help::program(session::globals(), tty::help_columns())),
    }
}

/// Words that name no command: a noun's help, or an error.
fn no_command(words: &[String]) -> anyhow::Result<u8> {
    let first = words.first().map_or("", String::as_str);
    let second = words.get(1).map(String::as_str);
    match commands::NOUNS.iter().find(|(noun, _)| *noun == first) {
        Some((noun, about)) => match second {
            None => {
                // Nothing was asked for: docker gives the help as an answer, not as output.
                output::err(help::noun(noun, about).as_bytes())?;
                Ok(0)
            }
            Some("--help" | "-h") => show(&help::noun(noun, about)),
            Some(verb) if verb.starts_with('-') => {
                let what = match verb.strip_prefix("--") {
                    Some(long) => format!("unknown flag: --{}", long.split('=').next().unwrap_or(long)),
                    None => format!(
                        "unknown shorthand flag: '{}' in {verb}",
                        &verb[1..].chars().take(1).collect::<String>()
                    ),
                };
                let hint = format!(
                    "Usage:  kelson {noun} COMMAND\n\nRun 'kelson {noun} --help' for more information"
                );
                Err(Failure::error(format!("{what}\n\n{hint}"), error::ENGINE))
            }
            Some(verb) => Err(Failure::error(
                format!(
                    "kelson: unknown command: kelson {noun} {verb}\n\nUsage:  kelson {noun}\n\nRun 'kelson {noun} --help' for more information"
                ),
                1,
            )),
        },
        None => Err(Failure::error(
            format!("kelson: unknown command: kelson {first}\n\nRun 'kelson --help' for more information"),
            1,
        )),
    }
}
