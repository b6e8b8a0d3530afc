//! Help texts, laid out as docker's are.

use crate::argv::{Command, Flag, Takes};
use crate::commands;

/// Columns the wrapping leaves free, so that a word that nearly fits is not broken off.
const SLOP: usize = 5;
/// Below this many columns of text, wrapping starts over on a line of its own.
const NARROW: usize = 24;

/// The help of one command, wrapped for a terminal of `columns`.
pub fn command(command: &Command, typed: &str, columns: usize) -> String {
    let space = if command.usage.is_empty() { "" } else { " " };
    let mut text = format!("Usage:  {typed}{space}{}\n\n{}\n", command.usage, command.about);
    if command.names.len() > 1 {
        let names: Vec<String> = command
            .names
            .iter()
            .map(|name| format!("kelson {name}"))
            .collect();
        text += &format!("\nAliases:\n  {}\n", names.join(", "));
    }
    if command.flags().any(|flag| !flag.hidden) {
        text += &format!(
            "\nOptions:\n{}",
            flags(command.flags().copied().collect(), columns)
        );
    }
    text
}

/// The help of a noun (`kelson container`).
pub fn noun(noun: &str, about: &str) -> String {
    let prefix = format!("{noun} ");
    let mut verbs: Vec<(&str, &str)> = commands::ALL
        .iter()
        .filter_map(|command| Some((command.names[0].strip_prefix(&prefix)?, summary(command.about))))
        .collect();
    verbs.sort_unstable();
    format!(
        "Usage:  kelson {noun} COMMAND\n\n{about}\n\nCommands:\n{}\nRun 'kelson {noun} COMMAND --help' for more information on a command.\n",
        listing(&verbs)
    )
}

/// The help of the whole program.
pub fn program(globals: &[Flag], columns: usize) -> String {
    let mut common = Vec::new();
    for name in commands::COMMON {
        if let Some(command) = commands::find_exact(name) {
            common.push((*name, summary(command.about)));
        }
    }
    let mut rest: Vec<(&str, &str)> = commands::ALL
        .iter()
        .flat_map(|command| {
            command
                .names
                .iter()
                .map(move |name| (*name, summary(command.about)))
        })
        .filter(|(name, _)| !name.contains(' ') && !commands::COMMON.contains(name))
        .collect();
    rest.sort_unstable();
    format!(
        "Usage:  kelson [OPTIONS] COMMAND\n\nRuns containers, from the command line down to pid 1\n\nCommon Commands:\n{}\nManagement Commands:\n{}\nCommands:\n{}\nGlobal Options:\n{}\nRun 'kelson COMMAND --help' for more information on a command.\n",
        listing(&common),
        listing(commands::NOUNS),
        listing(&rest),
        flags(globals.to_vec(), columns),
    )
}

/// The first sentence.
fn summary(about: &str) -> &str {
    about
        .split(". ")
        .next()
        .and_then(|text| text.split(".\n").next())
        .unwrap_or(about)
}

fn listing(entries: &[(&str, &str)]) -> String {
    entries
        .iter()
        .map(|(name, about)| format!("  {name:<11} {about}\n"))
        .collect()
}

/// The table of flags: names and types in one column, wrapped help in the other.
fn flags(mut flags: Vec<Flag>, columns: usize) -> String {
    flags.retain(|flag| !flag.hidden);
    flags.sort_by_key(|flag| flag.long);
    let left: Vec<String> = flags.iter().map(left_column).collect();
    let indent = left.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for (flag, left) in flags.iter().zip(left) {
        let mut help = flag.help.to_owned();
        if !flag.default.is_empty() {
            help += &format!(" (default {})", flag.default);
        }
        text += &format!("{left:<indent$}{}\n", wrap(&help, indent, columns));
    }
    text
}

fn left_column(flag: &Flag) -> String {
    let letter = flag
        .short
        .map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    match flag.takes {
        Takes::Switch => format!("  {letter}--{}", flag.long),
        Takes::Value(kind) | Takes::List(kind) => format!("  {letter}--{} {kind}", flag.long),
    }
}

/// Breaks `text` so that with `indent` columns before it, it fits into `columns`. Line breaks of the
/// text itself are kept.
fn wrap(text: &str, mut indent: usize, columns: usize) -> String {
    let mut wrapped = String::new();
    let mut width = columns.saturating_sub(indent);
    if width < NARROW {
        indent = 16;
        width = columns.saturating_sub(indent);
        wrapped += &newline(indent);
    }
    if width < NARROW {
        return wrapped + &text.replace('\n', &newline(indent));
    }
    let mut rest = text;
    let mut first = true;
    while first || !rest.is_empty() {
        if !first {
            wrapped += &newline(indent);
        }
        first = false;
        let (line, after) = split_line(rest, width - SLOP);
        wrapped += &line.replace('\n', &newline(indent));
        rest = after;
    }
    wrapped
}

fn newline(indent: usize) -> String {
    format!("\n{}", " ".repeat(indent))
}

/// The part of `text` for one line of `width` columns, and what is left of it.
fn split_line(text: &str, width: usize) -> (&str, &str) {
    if width + SLOP > text.len() {
        return (text, "");
    }
    let head = &text[..width];
    let Some(blank) = head.rfind([' ', '\t', '\n']).filter(|at| *at > 0) else {
        return (text, "");
    };
    let cut = head
        .rfind('\n')
        .filter(|at| *at > 0 && *at < blank)
        .unwrap_or(blank);
    (&text[..cut], &text[cut + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_at_words_and_keeps_a_nearly_fitting_line() {
        assert_eq!(
            wrap("Add a custom host-to-IP mapping (host:ip)", 39, 79),
            format!("Add a custom host-to-IP mapping{}(host:ip)", newline(39))
        );
        assert_eq!(wrap("Overwrite it", 39, 79), "Overwrite it");
        assert_eq!(
            wrap("Keep STDIN open even if not attached", 39, 79),
            "Keep STDIN open even if not attached"
        );
    }
}
