//! The argument lists that engines send, read without clap: building its structures costs a tenth of a whole start.
//!
//! Nothing is decided here. A list that is not plainly right (an unknown or repeated flag, a missing value, an odd word)
//! is left to clap, which then explains it; and a test lets both read the same lists and compares what they made of them.

use std::ffi::OsString;

use super::{create, delete, exec, kill, run, start, state};

/// Where the value of a flag goes.
pub(super) enum Slot<'s, 'a> {
    /// A flag without a value.
    Switch(&'s mut bool),
    /// A flag with one.
    Value(&'s mut Option<&'a str>),
    /// A flag with one, any number of times.
    Values(&'s mut Vec<String>),
}

/// Long name, short name, and place.
pub(super) type Flag<'s, 'a> = (&'static str, &'static str, Slot<'s, 'a>);

/// Reads flags up to the first word that is none; gives that and all behind it.
pub(super) fn flags<'a>(argv: &'a [OsString], known: &mut [Flag<'_, 'a>]) -> Option<&'a [OsString]> {
    let mut rest = argv;
    while let Some((word, behind)) = rest.split_first() {
        let word = word.to_str()?;
        if !word.starts_with('-') {
            break;
        }
        rest = behind;
        let (name, attached) = match word.strip_prefix("--").and_then(|w| w.split_once('=')) {
            Some((name, value)) => (name, Some(value)),
            None => (word.strip_prefix("--").unwrap_or(word), None),
        };
        let short = word.strip_prefix('-').filter(|s| s.len() == 1);
        let (_, _, slot) = known.iter_mut().find(|(long, own, _)| {
            if short.is_some() {
                short == Some(own)
            } else {
                *long == name
            }
        })?;
        let mut value = || match attached {
            Some(value) => Some(value).filter(|v| !v.is_empty()),
            None => {
                let (value, behind) = rest.split_first()?;
                rest = behind;
                value.to_str().filter(|v| !v.is_empty() && !v.starts_with('-'))
            }
        };
        match slot {
            Slot::Switch(on) if !**on && attached.is_none() => **on = true,
            Slot::Value(place @ None) => **place = Some(value()?),
            Slot::Values(list) => list.push(value()?.to_owned()),
            _ => return None,
        }
    }
    Some(rest)
}

/// Exactly these words, none of which looks like a flag.
fn plain<const N: usize>(words: &[OsString]) -> Option<[&str; N]> {
    let words: Option<Vec<&str>> = words.iter().map(|w| w.to_str()).collect();
    let words: [&str; N] = words?.try_into().ok()?;
    words
        .iter()
        .all(|w| !w.is_empty() && !w.starts_with('-'))
        .then_some(words)
}

/// Arguments that can be read this way; the first word is the command.
pub(super) trait Quick: Sized {
    /// `None` where clap is to decide.
    fn quick(argv: &[OsString]) -> Option<Self>;
}

impl Quick for start::Args {
    fn quick(argv: &[OsString]) -> Option<Self> {
        let [id] = plain(&argv[1..])?;
        Some(Self { id: id.to_owned() })
    }
}

impl Quick for state::Args {
    fn quick(argv: &[OsString]) -> Option<Self> {
        let [id] = plain(&argv[1..])?;
        Some(Self { id: id.to_owned() })
    }
}

impl Quick for delete::Args {
    fn quick(argv: &[OsString]) -> Option<Self> {
        let mut force = false;
        let [id] = plain(flags(
            &argv[1..],
            &mut [("force", "f", Slot::Switch(&mut force))],
        )?)?;
        Some(Self {
            force,
            regex: false,
            id: id.to_owned(),
        })
    }
}

impl Quick for kill::Args {
    fn quick(argv: &[OsString]) -> Option<Self> {
        let mut all = false;
        let [id, signal] = plain(flags(&argv[1..], &mut [("all", "a", Slot::Switch(&mut all))])?)?;
        Some(Self {
            all,
            regex: false,
            id: id.to_owned(),
            signal: signal.to_owned(),
        })
    }
}

#[derive(Default)]
struct Made<'a> {
    bundle: Option<&'a str>,
    console_socket: Option<&'a str>,
    pid_file: Option<&'a str>,
    no_pivot: bool,
    no_new_keyring: bool,
}

impl<'a> Made<'a> {
    fn flags(&mut self) -> [Flag<'_, 'a>; 5] {
        [
            ("bundle", "b", Slot::Value(&mut self.bundle)),
            ("console-socket", "", Slot::Value(&mut self.console_socket)),
            ("pid-file", "", Slot::Value(&mut self.pid_file)),
            ("no-pivot", "", Slot::Switch(&mut self.no_pivot)),
            ("no-new-keyring", "", Slot::Switch(&mut self.no_new_keyring)),
        ]
    }

    fn common(self, id: &str) -> create::Common {
        create::Common {
            bundle: self.bundle.unwrap_or(".").into(),
            console_socket: self.console_socket.map(Into::into),
            pidfd_socket: None,
            config: None,
            pid_file: self.pid_file.map(Into::into),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: 0,
            id: id.to_owned(),
        }
    }
}

impl Quick for create::Args {
    fn quick(argv: &[OsString]) -> Option<Self> {
        let mut made = Made::default();
        let [id] = plain(flags(&argv[1..], &mut made.flags())?)?;
        Some(Self {
            common: made.common(id),
        })
    }
}

impl Quick for run::Args {
    fn quick(argv: &[OsString]) -> Option<Self> {
        let (mut made, mut detach, mut keep) = (Made::default(), false, false);
        let [a, b, c, d, e] = made.flags();
        let own = ("detach", "d", Slot::Switch(&mut detach));
        let mut known = [a, b, c, d, e, own, ("keep", "", Slot::Switch(&mut keep))];
        let [id] = plain(flags(&argv[1..], &mut known)?)?;
        Some(Self {
            common: made.common(id),
            detach,
            keep,
            no_subreaper: false,
        })
    }
}

impl Quick for exec::Args {
    fn quick(argv: &[OsString]) -> Option<Self> {
        let mut args = Self::default();
        let (mut console, mut cwd, mut user, mut process, mut pid_file) = (None, None, None, None, None);
        let words = flags(
            &argv[1..],
            &mut [
                ("console-socket", "", Slot::Value(&mut console)),
                ("cwd", "", Slot::Value(&mut cwd)),
                ("env", "e", Slot::Values(&mut args.env)),
                ("tty", "t", Slot::Switch(&mut args.tty)),
                ("user", "u", Slot::Value(&mut user)),
                ("process", "p", Slot::Value(&mut process)),
                ("detach", "d", Slot::Switch(&mut args.detach)),
                ("pid-file", "", Slot::Value(&mut pid_file)),
            ],
        )?;
        let (id, program) = words.split_first()?;
        let [id] = plain(std::slice::from_ref(id))?;
        // Behind the program's name every word is its own, whatever it looks like.
        if let Some(first) = program.first() {
            plain::<1>(std::slice::from_ref(first))?;
        }
        id.clone_into(&mut args.id);
        args.args = program
            .iter()
            .map(|w| w.to_str().map(str::to_owned))
            .collect::<Option<_>>()?;
        args.console_socket = console.map(Into::into);
        args.cwd = cwd.map(str::to_owned);
        args.user = user.map(str::to_owned);
        args.process = process.map(Into::into);
        args.pid_file = pid_file.map(Into::into);
        Some(args)
    }
}

#[cfg(test)]
mod tests {
    use super::super::globals::Globals;
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    /// Gives whether the quick way took it.
    fn compare<A: Quick + Parser + std::fmt::Debug>(argv: &[OsString]) -> bool {
        let Some(quick) = A::quick(argv) else { return false };
        let slow = A::try_parse_from(argv).unwrap_or_else(|e| panic!("{argv:?}: quick took it: {e}"));
        assert_eq!(format!("{quick:?}"), format!("{slow:?}"), "{argv:?}");
        true
    }

    fn compare_all(argv: &[OsString]) {
        compare::<start::Args>(argv);
        compare::<state::Args>(argv);
        compare::<delete::Args>(argv);
        compare::<kill::Args>(argv);
        compare::<create::Args>(argv);
        compare::<run::Args>(argv);
        compare::<exec::Args>(argv);
        compare::<Globals>(argv);
    }

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn what_engines_send_goes_the_quick_way() {
        assert!(compare::<create::Args>(&words(
            "create --bundle /b --pid-file /p --console-socket /c id"
        )));
        assert!(compare::<run::Args>(&words("run -b /b --no-new-keyring id")));
        assert!(compare::<exec::Args>(&words(
            "exec --process /p --detach --pid-file /f id"
        )));
        assert!(compare::<exec::Args>(&words(
            "exec -t -e A=1 --env B=2 --user 1:2 --cwd / id sh -c ls --x -y"
        )));
        assert!(compare::<delete::Args>(&words("delete --force id")));
        assert!(compare::<kill::Args>(&words("kill --all id 9")));
        assert!(compare::<state::Args>(&words("state id")));
        assert!(compare::<start::Args>(&words("start id")));
        assert!(compare::<Globals>(&words(
            "kelson-runtime --root /r --log /l --log-format json --systemd-cgroup create --bundle x y"
        )));
    }

    proptest! {
        #[test]
        fn the_quick_way_and_claps_agree(list in proptest::collection::vec(prop_oneof![
            Just("id"), Just("sh"), Just("-"), Just("--"), Just(""), Just("="), Just("--=x"), Just("-x"), Just("a=b"),
            Just("--force"), Just("-f"), Just("--all"), Just("-a"), Just("-b"), Just("--bundle"), Just("--bundle=/b"),
            Just("--bundle="), Just("-b=x"), Just("-bx"), Just("--pid-file"), Just("/p"), Just("--no-pivot"),
            Just("--no-pivot=true"), Just("--detach"), Just("-d"), Just("-td"), Just("--keep"), Just("-t"), Just("--tty"),
            Just("--user"), Just("-u"), Just("1:2"), Just("--env"), Just("-e"), Just("A=1"), Just("--cwd"), Just("--root"),
            Just("--root=/r"), Just("--log-format"), Just("json"), Just("--debug"), Just("--systemd-cgroup"), Just("9"),
            Just("--help"), Just("-h"), Just("--version"), Just("--rootless"), Just("create"), Just("--preserve-fds=1"),
        ], 0..7)) {
            let argv: Vec<OsString> = std::iter::once("x").chain(list).map(OsString::from).collect();
            compare_all(&argv);
        }
    }
}
