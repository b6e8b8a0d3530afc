//! The table of commands. Each is a file of its own with its flags, its help and what it does.

pub mod completion;
pub mod container;
pub mod context;
pub mod filters;
pub mod formats;
pub mod image;
pub mod inspecting;
pub mod manifest;
pub mod network;
pub mod prompt;
pub mod registry;
pub mod system;
pub mod volume;

use crate::argv::Command;

/// Every command.
pub static ALL: &[&Command] = &[
    &completion::COMMAND,
    &container::attach::COMMAND,
    &container::commit::COMMAND,
    &container::cp::COMMAND,
    &container::create::COMMAND,
    &container::diff::COMMAND,
    &container::exec::COMMAND,
    &container::export::COMMAND,
    &container::inspect::COMMAND,
    &container::kill::COMMAND,
    &container::logs::COMMAND,
    &container::ls::COMMAND,
    &container::pause::COMMAND,
    &container::pause::UNPAUSE,
    &container::port::COMMAND,
    &container::prune::COMMAND,
    &container::rename::COMMAND,
    &container::restart::COMMAND,
    &container::rm::COMMAND,
    &container::run::COMMAND,
    &container::start::COMMAND,
    &container::stats::COMMAND,
    &container::stop::COMMAND,
    &container::top::COMMAND,
    &container::update::COMMAND,
    &container::wait::COMMAND,
    &context::create::CREATE,
    &context::create::UPDATE,
    &context::transfer::EXPORT,
    &context::transfer::IMPORT,
    &context::ls::INSPECT,
    &context::ls::LS,
    &context::ls::SHOW,
    &context::choose::RM,
    &context::choose::USE,
    &image::history::COMMAND,
    &image::import::COMMAND,
    &image::inspect::COMMAND,
    &image::load::COMMAND,
    &image::ls::COMMAND,
    &image::prune::COMMAND,
    &image::pull::COMMAND,
    &image::push::COMMAND,
    &image::rm::COMMAND,
    &image::save::COMMAND,
    &image::tag::COMMAND,
    &network::connect::COMMAND,
    &network::create::COMMAND,
    &network::disconnect::COMMAND,
    &manifest::inspect::COMMAND,
    &network::inspect::COMMAND,
    &network::ls::COMMAND,
    &network::prune::COMMAND,
    &network::rm::COMMAND,
    &registry::login::COMMAND,
    &registry::logout::COMMAND,
    &registry::search::COMMAND,
    &system::check::COMMAND,
    &system::df::COMMAND,
    &system::dial_stdio::COMMAND,
    &system::events::COMMAND,
    &system::info::COMMAND,
    &system::inspect::COMMAND,
    &system::prune::COMMAND,
    &system::version::COMMAND,
    &volume::create::COMMAND,
    &volume::inspect::COMMAND,
    &volume::ls::COMMAND,
    &volume::prune::COMMAND,
    &volume::rm::COMMAND,
];

/// The commands the help names first.
pub const COMMON: &[&str] = &[
    "run", "exec", "ps", "pull", "push", "images", "login", "logout", "version", "info",
];

/// The nouns, with what they are about.
pub const NOUNS: &[(&str, &str)] = &[
    ("container", "Manage containers"),
    ("context", "Manage contexts"),
    ("image", "Manage images"),
    ("manifest", "Look at manifests and manifest lists at registries"),
    ("network", "Manage networks"),
    ("system", "Manage Kelson"),
    ("volume", "Manage volumes"),
];

/// The command with exactly this path.
pub fn find_exact(path: &str) -> Option<&'static Command> {
    ALL.iter().copied().find(|command| command.names.contains(&path))
}

/// The command that the words begin with, and how many words name it.
pub fn find(words: &[String]) -> Option<(&'static Command, usize)> {
    let two = words
        .get(..2)
        .and_then(|pair| find_exact(&pair.join(" ")))
        .map(|command| (command, 2));
    two.or_else(|| Some((find_exact(words.first()?)?, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = ALL
            .iter()
            .flat_map(|command| command.names.iter().copied())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_flag_has_help_and_a_name_of_its_own() {
        for command in ALL {
            let mut longs: Vec<&str> = command.flags().map(|flag| flag.long).collect();
            let mut shorts: Vec<char> = command.flags().filter_map(|flag| flag.short).collect();
            let (long_count, short_count) = (longs.len(), shorts.len());
            longs.sort_unstable();
            longs.dedup();
            shorts.sort_unstable();
            shorts.dedup();
            assert_eq!(
                (longs.len(), shorts.len()),
                (long_count, short_count),
                "{:?}",
                command.names
            );
            assert!(
                command.flags().all(|flag| !flag.help.is_empty()),
                "{:?}",
                command.names
            );
        }
    }

    /// Flags that docker has on Linux and that mean something only elsewhere, or to a program we have no use for.
    fn without_meaning_here(command: &str, flag: &str) -> bool {
        match command {
            // Windows.
            "run" | "create" => matches!(
                flag,
                "cpu-count" | "cpu-percent" | "io-maxbandwidth" | "io-maxiops"
            ),
            // Experimental in docker; the engine has no checkpoints yet.
            "start" => flag.starts_with("checkpoint"),
            // Volumes of a swarm's cluster.
            "volume create" => !matches!(flag, "driver-d" | "label" | "opt-o"),
            "volume ls" => flag == "cluster",
            "volume update" => true,
            _ => false,
        }
    }

    #[test]
    fn every_flag_of_docker_28_is_there_with_its_letter() {
        for line in include_str!("../../tests/data/docker-28.2-flags.txt").lines() {
            let (name, flags) = line.split_once(':').unwrap();
            let command = find_exact(name);
            for flag in flags
                .split_whitespace()
                .filter(|flag| !without_meaning_here(name, flag))
            {
                let (long, letter) = match flag.rsplit_once('-') {
                    Some((long, letter)) if letter.len() == 1 => (long, letter.chars().next()),
                    _ => (flag, None),
                };
                let found = command.and_then(|command| command.flag(long));
                let found = found.unwrap_or_else(|| panic!("docker {name} has --{long}"));
                assert!(
                    !found.hidden && (letter.is_none() || found.short == letter),
                    "{name} {flag}"
                );
            }
            assert!(
                command.is_some() || name == "volume update",
                "docker has the command {name}"
            );
        }
    }

    #[test]
    fn both_forms_are_found() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in [
            "ps -a",
            "container ls -a",
            "container ps",
            "images",
            "image ls",
            "rmi x",
            "image rm x",
        ] {
            assert!(find(&words(line)).is_some(), "{line}");
        }
        assert!(find(&words("container")).is_none() && find(&words("ls")).is_none());
    }
}
