//! `kelson completion SHELL`, and the question its scripts ask at each key: `kelson __complete WORD... LAST`.
//!
//! The answer is a line for each candidate: the word, a tab, what it is. What is on the engine is looked up; an engine that is not
//! there is not started for it.

use serde_json::Value;

use crate::argv::{Arity, Command, Flag, Parsed, Request, Takes, parse};
use crate::commands::{ALL, NOUNS, find};
use crate::error::Failure;
use crate::output;
use crate::session::{self, PROGRAM, Session};

/// argv[1] of the question.
pub const QUESTION: &str = "__complete";

/// `kelson completion`.
pub static COMMAND: Command = Command {
    names: &["completion"],
    usage: "SHELL",
    about: "Print a script of completions for the shell: bash, zsh or fish",
    flags: &[],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(_: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let script = match parsed.args[0].as_str() {
        "bash" => include_str!("../../completions/kelson.bash"),
        "zsh" => include_str!("../../completions/kelson.zsh"),
        "fish" => include_str!("../../completions/kelson.fish"),
        shell => {
            let text = format!("no completions for {shell:?}: the shells are bash, zsh and fish");
            return Err(Failure::error(text, 1));
        }
    };
    output::out(script.as_bytes())?;
    Ok(0)
}

/// Answers the question. Whatever goes wrong is no candidate: a shell that completes shows no errors.
pub fn answer(words: &[String]) -> anyhow::Result<u8> {
    let (last, words) = words
        .split_last()
        .map_or(("", words), |(last, rest)| (last.as_str(), rest));
    let mut found = candidates(words, last);
    found.retain(|candidate| candidate.word.starts_with(last));
    let text: String = found
        .iter()
        .map(|candidate| format!("{}\t{}\n", candidate.word, candidate.about))
        .collect();
    output::out(text.as_bytes())?;
    Ok(0)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    word: String,
    about: String,
}

fn candidate(word: impl Into<String>, about: impl Into<String>) -> Candidate {
    Candidate {
        word: word.into(),
        about: about.into(),
    }
}

fn candidates(words: &[String], last: &str) -> Vec<Candidate> {
    match place(words, last) {
        Place::Command { noun } => commands(noun),
        Place::Flag(flags) => flags.iter().flat_map(|group| spellings(group)).collect(),
        Place::Word(word) => match session(words) {
            Some(session) => word.look_up(&session),
            None => word.look_up_nothing(),
        },
        Place::Nothing => Vec::new(),
    }
}

/// What the last word is.
#[derive(Debug)]
enum Place {
    /// The name of a command, or a part of it.
    Command { noun: Option<&'static str> },
    /// A flag, from these groups.
    Flag(&'static [&'static [Flag]]),
    /// The name of something.
    Word(Word),
    /// What the shell knows better, a file.
    Nothing,
}

static GLOBAL: &[&[Flag]] = &[session::GLOBALS];

fn place(words: &[String], last: &str) -> Place {
    let (rest, pending) = after_flags(&PROGRAM, words);
    if let Some(flag) = pending {
        return value_of("", flag);
    }
    let Some(first) = rest.first() else {
        return match last.starts_with('-') {
            true => Place::Flag(GLOBAL),
            false => Place::Command { noun: None },
        };
    };
    let Some((command, count)) = find(rest) else {
        let noun = NOUNS.iter().find(|(noun, _)| noun == first);
        return match noun {
            Some((noun, _)) if rest.len() == 1 => Place::Command { noun: Some(noun) },
            _ => Place::Nothing,
        };
    };
    let mut number = 0;
    let mut rest = &rest[count..];
    loop {
        let (left, pending) = after_flags(command, rest);
        if let Some(flag) = pending {
            return value_of(command.names[0], flag);
        }
        let Some((_, more)) = left.split_first() else {
            break;
        };
        number += 1;
        if command.first_argument_ends_flags {
            // The rest belongs to the container.
            return Place::Nothing;
        }
        rest = more;
    }
    match last.starts_with('-') {
        true => Place::Flag(command.flags),
        false => Word::of_argument(command.names[0], number).map_or(Place::Nothing, Place::Word),
    }
}

/// Leaves out flags and their values; with the flag whose value is yet to come.
fn after_flags<'w>(command: &Command, mut words: &'w [String]) -> (&'w [String], Option<&'static Flag>) {
    while let Some((word, rest)) = words.split_first() {
        let flag = if let Some(long) = word.strip_prefix("--") {
            match long.contains('=') {
                true => None,
                false => command.flag(long),
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            // Of `-it`, the last may take a value; a value that is there, as in `-p80:80`, follows its letter.
            let takes = |letter: char| {
                let flag = command.flags().find(|flag| flag.short == Some(letter))?;
                (flag.takes != Takes::Switch).then_some(flag)
            };
            letters
                .char_indices()
                .find_map(|(at, letter)| takes(letter).map(|flag| (at + letter.len_utf8(), flag)))
                .filter(|(end, _)| *end == letters.len())
                .map(|(_, flag)| flag)
        } else {
            break;
        };
        words = rest;
        if let Some(flag) = flag.filter(|flag| flag.takes != Takes::Switch) {
            match words.split_first() {
                Some((_, rest)) => words = rest,
                None => return (words, Some(flag)),
            }
        }
    }
    (words, None)
}

/// Commands below a noun, or at the top, each by its first name there.
fn commands(noun: Option<&str>) -> Vec<Candidate> {
    let prefix = noun.map(|noun| format!("{noun} ")).unwrap_or_default();
    let mut found: Vec<Candidate> = ALL
        .iter()
        .flat_map(|command| command.names.iter().map(move |name| (*name, *command)))
        .filter_map(|(name, command)| Some((name.strip_prefix(&prefix)?, command)))
        .filter(|(name, _)| !name.contains(' '))
        .map(|(name, command)| candidate(name, command.about.lines().next().unwrap_or_default()))
        .collect();
    if noun.is_none() {
        found.extend(NOUNS.iter().map(|(noun, about)| candidate(*noun, *about)));
    }
    found.sort_by(|one, other| one.word.cmp(&other.word));
    found
}

fn spellings(flags: &'static [Flag]) -> impl Iterator<Item = Candidate> {
    flags
        .iter()
        .filter(|flag| !flag.hidden)
        .map(|flag| candidate(format!("--{}", flag.long), flag.help))
}

/// What can stand where a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Containers,
    Running,
    Paused,
    Stopped,
    Images,
    Networks,
    Volumes,
    Contexts,
    /// A container, an image, a network or a volume.
    Anything,
    Shells,
    LogDrivers,
    Policies,
    Commands,
}

impl Word {
    /// Of a command's argument, counted from 0.
    fn of_argument(command: &str, number: usize) -> Option<Word> {
        let (noun, verb) = command.split_once(' ').unwrap_or(("", command));
        Some(match (noun, verb, number) {
            ("container", "attach" | "exec" | "top" | "port", 0) => Word::Running,
            ("container", "kill" | "stop" | "pause" | "stats", _) => Word::Running,
            ("container", "unpause", _) => Word::Paused,
            ("container", "start", _) => Word::Stopped,
            ("container", "run" | "create", 0) => Word::Images,
            ("container", "commit" | "diff" | "export" | "logs" | "rename", 0) => Word::Containers,
            ("container", "inspect" | "restart" | "rm" | "update" | "wait", _) => Word::Containers,
            ("image", "history" | "tag" | "push", 0) => Word::Images,
            ("image", "inspect" | "rm" | "save", _) => Word::Images,
            ("network", "connect" | "disconnect", 0) => Word::Networks,
            ("network", "connect" | "disconnect", 1) => Word::Containers,
            ("network", "inspect" | "rm", _) => Word::Networks,
            ("volume", "inspect" | "rm", _) => Word::Volumes,
            ("context", "export" | "update" | "use", 0) => Word::Contexts,
            ("context", "inspect" | "rm", _) => Word::Contexts,
            ("", "inspect", _) => Word::Anything,
            ("", "completion", 0) => Word::Shells,
            ("", "help", 0) => Word::Commands,
            _ => return None,
        })
    }

    fn look_up_nothing(self) -> Vec<Candidate> {
        let fixed: &[(&str, &str)] = match self {
            Word::Shells => &[("bash", ""), ("fish", ""), ("zsh", "")],
            Word::LogDrivers => &[
                ("fluentd", ""),
                ("gelf", ""),
                ("journald", ""),
                ("json-file", ""),
                ("local", ""),
                ("none", ""),
                ("syslog", ""),
            ],
            Word::Policies => &[
                ("always", "whenever it ends"),
                ("no", "never"),
                ("on-failure", "when it fails; on-failure:N at most N times"),
                ("unless-stopped", "whenever it ends, but for a stop"),
            ],
            Word::Commands => return commands(None),
            _ => &[],
        };
        fixed
            .iter()
            .map(|(word, about)| candidate(*word, *about))
            .collect()
    }

    fn look_up(self, session: &Session) -> Vec<Candidate> {
        match self {
            Word::Containers => containers(session, |_| true),
            Word::Running => containers(session, |state| state == "running"),
            Word::Paused => containers(session, |state| state == "paused"),
            Word::Stopped => containers(session, |state| matches!(state, "created" | "exited")),
            Word::Images => images(session),
            Word::Networks => listed(session, "/networks", "", "Name", "Driver"),
            Word::Volumes => listed(session, "/volumes", "/Volumes", "Name", "Driver"),
            Word::Contexts => contexts(session),
            Word::Anything => [Word::Containers, Word::Images, Word::Networks, Word::Volumes]
                .into_iter()
                .flat_map(|word| word.look_up(session))
                .collect(),
            _ => self.look_up_nothing(),
        }
    }
}

/// What a flag's value may be.
fn value_of(command: &str, flag: &Flag) -> Place {
    let of_container = matches!(command, "container run" | "container create");
    match flag.long {
        "network" | "net" if of_container => Place::Word(Word::Networks),
        "volumes-from" | "link" => Place::Word(Word::Containers),
        "log-driver" => Place::Word(Word::LogDrivers),
        "restart" => Place::Word(Word::Policies),
        "context" => Place::Word(Word::Contexts),
        _ => Place::Nothing,
    }
}

/// The engine that the words before name, asked and not started.
fn session(words: &[String]) -> Option<Session> {
    let Ok(Request::Run(globals)) = parse(&PROGRAM, "kelson", words) else {
        return None;
    };
    let mut session = Session::new(&globals, true).ok()?;
    session.client.never_start();
    Some(session)
}

fn ask(session: &Session, path: &str) -> Value {
    let answer = session
        .client
        .get(path)
        .send()
        .and_then(|response| response.json());
    answer.unwrap_or_default()
}

fn containers(session: &Session, wanted: impl Fn(&str) -> bool) -> Vec<Candidate> {
    let answer = ask(session, "/containers/json?all=1");
    let all = answer.as_array().into_iter().flatten();
    all.filter(|container| wanted(container["State"].as_str().unwrap_or_default()))
        .filter_map(|container| {
            let name = container["Names"][0].as_str()?.trim_start_matches('/');
            let image = container["Image"].as_str().unwrap_or_default();
            Some(candidate(name, image))
        })
        .collect()
}

fn images(session: &Session) -> Vec<Candidate> {
    let answer = ask(session, "/images/json");
    let all = answer.as_array().into_iter().flatten();
    all.flat_map(|image| {
        let id = image["Id"].as_str().unwrap_or_default();
        let id: String = id.trim_start_matches("sha256:").chars().take(12).collect();
        let tags = image["RepoTags"].as_array().cloned().unwrap_or_default();
        let tags = tags
            .into_iter()
            .filter_map(move |tag| Some(candidate(tag.as_str()?, &id)));
        tags.collect::<Vec<_>>()
    })
    .collect()
}

fn listed(session: &Session, path: &str, list: &str, name: &str, about: &str) -> Vec<Candidate> {
    let answer = ask(session, path);
    let all = answer
        .pointer(list)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    all.filter_map(|item| {
        let about = item[about].as_str().unwrap_or_default();
        Some(candidate(item[name].as_str()?, about))
    })
    .collect()
}

fn contexts(session: &Session) -> Vec<Candidate> {
    let Ok(store) = session.contexts() else {
        return Vec::new();
    };
    let stored = store.list().into_iter();
    let stored = stored.map(|context| candidate(&context.name, context.description()));
    [candidate("default", "the engine of the environment")]
        .into_iter()
        .chain(stored)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::find_exact;

    fn placed(line: &str) -> Place {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (last, words) = words.split_last().unwrap();
        place(words, last)
    }

    #[test]
    fn the_last_word_is_known_by_those_before_it() {
        for (line, wanted) in [
            ("", "Command { noun: None }"),
            ("-H tcp://x ", "Command { noun: None }"),
            ("-H ", "Nothing"),
            ("-c ", "Word(Contexts)"),
            ("container ", "Command { noun: Some(\"container\") }"),
            ("nonsense x ", "Nothing"),
            ("stop a ", "Word(Running)"),
            ("container rm -f a ", "Word(Containers)"),
            ("logs a ", "Nothing"),
            ("run -it --network=x -p 80:80 -e A=b ", "Word(Images)"),
            ("run -itp ", "Nothing"),
            ("run -p80:80 ", "Word(Images)"),
            ("run --network ", "Word(Networks)"),
            ("run nginx -", "Nothing"),
            ("exec web ", "Nothing"),
            ("--debug network disconnect -f net ", "Word(Containers)"),
        ] {
            assert_eq!(format!("{:?}", placed(line)), wanted, "{line}");
        }
        for (line, flag) in [("--deb", "--debug"), ("ps --", "--filter"), ("ps -a -", "--all")] {
            let Place::Flag(flags) = placed(line) else {
                panic!("no flags: {line}");
            };
            let mut all = flags.iter().flat_map(|group| spellings(group));
            assert!(all.any(|candidate| candidate.word == flag), "{line}");
        }
    }

    #[test]
    fn commands_are_listed_by_all_their_names() {
        let top: Vec<String> = commands(None).into_iter().map(|c| c.word).collect();
        for name in ["run", "rmi", "container", "completion", "inspect"] {
            assert!(top.iter().any(|word| word == name), "{name}");
        }
        assert!(top.is_sorted() && !top.iter().any(|word| word.contains(' ')));
        let below = commands(Some("image"));
        assert!(below.iter().any(|c| c.word == "ls") && !below.iter().any(|c| c.word == "stop"));
        // What arguments are said to be is said of commands that are there.
        for name in [
            "container exec",
            "image history",
            "network connect",
            "context use",
            "volume rm",
        ] {
            assert!(find_exact(name).is_some(), "{name}");
        }
    }
}
