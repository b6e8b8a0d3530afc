//! How a command line is read: docker's flag grammar over clap.
//!
//! A [`Command`] is a table: names, usage, flags with their help. Only the command that argv names
//! is handed to clap, so starting costs the same however many commands there are. What clap finds
//! wrong is said in docker's words, because scripts and people compare them.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};

use crate::error::{ENGINE, Failure};
use crate::session::Session;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=true`, `=false`.
    Switch,
    /// One value, the last one given counts; the name is shown in the help.
    Value(&'static str),
    /// A value each time it is given.
    List(&'static str),
}

/// Parses a value only to see whether it can be parsed.
pub type Check = fn(&str) -> Result<(), String>;

/// One flag of a command.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// The name after `--`.
    pub long: &'static str,
    /// The letter after `-`.
    pub short: Option<char>,
    /// What it takes.
    pub takes: Takes,
    /// One sentence.
    pub help: &'static str,
    /// The default as the help shows it.
    pub default: &'static str,
    /// Accepted, but not shown.
    pub hidden: bool,
    check: Option<Check>,
}

/// A flag that is on or off.
pub const fn switch(long: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        takes: Takes::Switch,
        help,
        default: "",
        hidden: false,
        check: Some(is_bool),
    }
}

/// A flag with one value of the named type.
pub const fn value(long: &'static str, kind: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        takes: Takes::Value(kind),
        help,
        default: "",
        hidden: false,
        check: None,
    }
}

/// A flag that may be given many times.
pub const fn list(long: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        takes: Takes::List("list"),
        help,
        default: "",
        hidden: false,
        check: None,
    }
}

/// A whole number.
pub const fn int(long: &'static str, help: &'static str) -> Flag {
    value(long, "int", help).checked(is_int)
}

impl Flag {
    /// Sets the letter.
    pub const fn short(mut self, letter: char) -> Flag {
        self.short = Some(letter);
        self
    }

    /// Sets the default shown in the help.
    pub const fn default(mut self, text: &'static str) -> Flag {
        self.default = text;
        self
    }

    /// Sets the parser whose error makes the command line wrong.
    pub const fn checked(mut self, check: Check) -> Flag {
        self.check = Some(check);
        self
    }

    /// Makes the shown type of a list something else than `list`.
    pub const fn typed(mut self, kind: &'static str) -> Flag {
        self.takes = Takes::List(kind);
        self
    }

    /// Leaves the flag out of the help.
    pub const fn hidden(mut self) -> Flag {
        self.hidden = true;
        self
    }

    /// `-m, --memory`, as error messages name the flag.
    fn label(&self) -> String {
        match self.short {
            Some(letter) => format!("-{letter}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }

    fn to_clap(self) -> Arg {
        let arg = Arg::new(self.long).long(self.long).action(ArgAction::Append);
        let arg = match self.short {
            Some(letter) => arg.short(letter),
            None => arg,
        };
        match self.takes {
            Takes::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            // As with docker, whatever follows is the value, even if it looks like a flag.
            Takes::Value(_) | Takes::List(_) => arg.num_args(1).allow_hyphen_values(true),
        }
        .value_parser(clap::builder::StringValueParser::new())
    }
}

/// How many arguments a command wants.
#[derive(Debug, Clone, Copy)]
pub enum Arity {
    /// None.
    None,
    /// This many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
    /// Up to this many.
    AtMost(usize),
    /// Between the two.
    Between(usize, usize),
}

/// A command: what the user types, what the help says, what runs.
#[derive(Debug)]
pub struct Command {
    /// Every path to it (`container ls`, `ps`), the canonical one first.
    pub names: &'static [&'static str],
    /// What follows the name in the usage line.
    pub usage: &'static str,
    /// One line.
    pub about: &'static str,
    /// Its flags, in groups that several commands may share.
    pub flags: &'static [&'static [Flag]],
    /// Its arguments.
    pub arity: Arity,
    /// The first argument ends the flags (`run`, `exec`): the rest belongs to the container.
    pub first_argument_ends_flags: bool,
    /// What it does; the result is the exit code.
    pub run: fn(&Session, &Parsed) -> anyhow::Result<u8>,
}

impl Command {
    /// Its flags, by long name.
    pub fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().copied().flatten()
    }

    /// The flag of a name.
    pub fn flag(&self, long: &str) -> Option<&'static Flag> {
        self.flags().find(|flag| flag.long == long)
    }
}

/// A command line that parsed.
#[derive(Debug)]
pub struct Parsed {
    /// The command.
    pub command: &'static Command,
    /// What the user typed to name it (`kelson container ls` or `kelson ps`).
    pub typed: String,
    /// The arguments that are not flags.
    pub args: Vec<String>,
    matches: ArgMatches,
}

impl Parsed {
    /// The last value of a switch; `false` if it was not given.
    pub fn on(&self, long: &str) -> bool {
        self.switch(long).unwrap_or(false)
    }

    /// The last value of a switch, if it was given.
    pub fn switch(&self, long: &str) -> Option<bool> {
        self.text(long).map(|text| parse_bool(text).unwrap_or(false))
    }

    /// The last value of a flag.
    pub fn text(&self, long: &str) -> Option<&str> {
        self.list(long).last()
    }

    /// Every value of a flag, in order.
    pub fn list(&self, long: &str) -> impl Iterator<Item = &str> {
        self.matches
            .get_many::<String>(long)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// Whether the flag was given at all.
    pub fn given(&self, long: &str) -> bool {
        self.matches.contains_id(long)
    }

    /// A number that [`int`] has checked.
    pub fn int(&self, long: &str) -> Option<i64> {
        self.text(long).and_then(|text| text.parse().ok())
    }

    /// `invalid argument "x" for "--flag" flag: why`, as a failure of this command line.
    pub fn invalid(&self, long: &str, value: &str, why: &str) -> anyhow::Error {
        let label = self
            .command
            .flag(long)
            .map_or_else(|| format!("--{long}"), Flag::label);
        usage_failure(
            self.command,
            &self.typed,
            &format!("invalid argument {value:?} for {label:?} flag: {why}"),
        )
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Run the command.
    Run(Box<Parsed>),
    /// Show its help; the switch says whether the old `-h` was used.
    Help { deprecated: bool },
}

/// Reads the arguments after the command's name.
pub fn parse(command: &'static Command, typed: &str, args: &[String]) -> anyhow::Result<Request> {
    let matches = match build(command).try_get_matches_from(args.iter().map(OsString::from)) {
        Ok(matches) => matches,
        Err(error) => {
            let text = describe(command, &error, args);
            if text == UNKNOWN_H {
                return Ok(Request::Help { deprecated: true });
            }
            return Err(usage_failure(command, typed, &text));
        }
    };
    let positional = matches
        .get_many::<String>(ARGS)
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    let parsed = Parsed {
        command,
        typed: typed.to_owned(),
        args: positional,
        matches,
    };
    for flag in command.flags() {
        let Some(check) = flag.check else { continue };
        for text in parsed.list(flag.long) {
            check(text).map_err(|why| parsed.invalid(flag.long, text, &why))?;
        }
    }
    if parsed.on(HELP) {
        return Ok(Request::Help { deprecated: false });
    }
    check_arity(&parsed)?;
    Ok(Request::Run(Box::new(parsed)))
}

const ARGS: &str = "*arguments";
const HELP: &str = "help";
const UNKNOWN_H: &str = "unknown shorthand flag: 'h' in -h";

fn build(command: &'static Command) -> clap::Command {
    let mut clap = clap::Command::new("kelson")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true);
    for flag in command.flags() {
        clap = clap.arg(flag.to_clap());
    }
    if command.flag(HELP).is_none() {
        clap = clap.arg(switch(HELP, "Print usage").to_clap());
    }
    clap.arg(
        Arg::new(ARGS)
            .num_args(0..)
            .action(ArgAction::Append)
            .trailing_var_arg(command.first_argument_ends_flags)
            .value_parser(clap::builder::StringValueParser::new()),
    )
}

/// What clap found, in docker's words.
fn describe(command: &Command, error: &clap::Error, args: &[String]) -> String {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => {
            text.split([' ', '=', '<', '[']).next().unwrap_or(text).to_owned()
        }
        _ => String::new(),
    };
    let letter = flag
        .strip_prefix('-')
        .filter(|rest| !rest.starts_with('-'))
        .and_then(|rest| rest.chars().next());
    match error.kind() {
        ErrorKind::UnknownArgument => match letter {
            Some(letter) => format!("unknown shorthand flag: '{letter}' in -{}", cluster(args, letter)),
            None => format!("unknown flag: {flag}"),
        },
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            let long = flag.trim_start_matches('-');
            match (args.last(), command.flag(long).and_then(|flag| flag.short)) {
                (Some(last), Some(short)) if !last.starts_with("--") => {
                    format!("flag needs an argument: '{short}' in -{}", cluster(args, short))
                }
                _ => format!("flag needs an argument: {flag}"),
            }
        }
        _ => error.to_string().trim().trim_start_matches("error: ").to_owned(),
    }
}

/// The rest of the cluster of short flags in which a letter stands: `it` of `-dit` for `i`.
fn cluster(args: &[String], letter: char) -> String {
    args.iter()
        .filter_map(|arg| arg.strip_prefix('-').filter(|rest| !rest.starts_with('-')))
        .find_map(|rest| rest.find(letter).map(|at| rest[at..].to_owned()))
        .unwrap_or_else(|| letter.to_string())
}

fn usage_line(command: &Command, typed: &str) -> String {
    let space = if command.usage.is_empty() { "" } else { " " };
    format!("Usage:  {typed}{space}{}", command.usage)
}

/// A command line that makes no sense: docker shows the usage and exits with 125.
pub fn usage_failure(command: &Command, typed: &str, text: &str) -> anyhow::Error {
    let usage = usage_line(command, typed);
    Failure::error(
        format!("{text}\n\n{usage}\n\nRun '{typed} --help' for more information"),
        ENGINE,
    )
}

fn check_arity(parsed: &Parsed) -> anyhow::Result<()> {
    let got = parsed.args.len();
    let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
    let (wrong, wants, verb) = match parsed.command.arity {
        Arity::None => (got > 0, "accepts no arguments".to_owned(), "Run"),
        Arity::Exactly(n) => (got != n, format!("requires {n} {}", plural(n)), "Run"),
        Arity::AtLeast(n) => (got < n, format!("requires at least {n} {}", plural(n)), "See"),
        Arity::AtMost(n) => (got > n, format!("requires at most {n} {}", plural(n)), "See"),
        Arity::Between(low, high) => (
            got < low || got > high,
            format!("requires at least {low} and at most {high} {}", plural(high)),
            "See",
        ),
    };
    if !wrong {
        return Ok(());
    }
    let typed = &parsed.typed;
    let usage = usage_line(parsed.command, typed);
    Err(Failure::error(
        format!("kelson: '{typed}' {wants}\n\n{usage}\n\n{verb} '{typed} --help' for more information"),
        1,
    ))
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn is_bool(text: &str) -> Result<(), String> {
    parse_bool(text)
        .map(drop)
        .ok_or_else(|| format!("strconv.ParseBool: parsing {text:?}: invalid syntax"))
}

fn is_int(text: &str) -> Result<(), String> {
    text.parse::<i64>().map(drop).map_err(|error| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {text:?}: {why}")
    })
}

#[cfg(test)]
mod tests;
