//! `kill`: a signal to the container's first process, or to all.

use clap::Parser;

use super::{Context, Outcome, select};
use crate::container::lifecycle;
use crate::error::{Error, Kind, Result};
use crate::fault;

/// glibc keeps the two below for itself, so this is what programs and shells call the first.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

#[derive(Debug, Parser)]
#[command(
    name = "kill",
    about = "kill sends the specified signal (default: SIGTERM) to the container's init process"
)]
pub(super) struct Args {
    /// Signal all processes of the container; one that has stopped is no error
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// The container-id is a regular expression: signal every container whose id matches
    #[arg(short, long)]
    pub regex: bool,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    kill(context, args).into()
}

fn kill(context: &Context, args: &Args) -> Result<()> {
    let mut signal = parse_signal(&args.signal)?;
    if fault::is_planted("signal") {
        signal = 9;
    }
    if !args.regex {
        return lifecycle::kill(&context.store, &args.id, signal, args.all);
    }
    select::each(&context.store, &args.id, |id| {
        lifecycle::kill(&context.store, id, signal, args.all)
    })
}

/// `9`, `KILL`, `SIGKILL`, `RTMIN+3`, `SIGRTMAX-1`, in any case.
fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::new(Kind::Invalid, format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=SIGRTMAX).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = realtime(name) {
        return number.ok_or_else(unknown);
    }
    // Names that Linux has twice.
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        other => other,
    };
    format!("SIG{name}")
        .parse::<nix::sys::signal::Signal>()
        .map(|s| s as i32)
        .map_err(|_| unknown())
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`; the outer `None` means that it is no such name.
fn realtime(name: &str) -> Option<Option<i32>> {
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest
            .strip_prefix(sign)
            .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|n| n.parse::<i32>().ok()),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').map(|n| n.saturating_add(SIGRTMIN))
    } else {
        let rest = name.strip_prefix("RTMAX")?;
        offset(rest, '-').map(|n| SIGRTMAX - n)
    };
    Some(number.filter(|n| (SIGRTMIN..=SIGRTMAX).contains(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for text in ["9", "KILL", "SIGKILL", "kill", "sigkill"] {
            assert_eq!(parse_signal(text).unwrap(), 9, "{text}");
        }
        for (text, number) in [
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("sigrtmax", 64),
            ("RTMAX-30", 34),
            ("40", 40),
            ("0", 0),
            ("SIGCLD", 17),
            ("POLL", 29),
            ("iot", 6),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in [
            "", "SIG", "99", "65", "-1", "SIGNOPE", "RTMIN+31", "RTMAX-31", "RTMIN-1", "RTMIN+", "RTMIN++1",
        ] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
