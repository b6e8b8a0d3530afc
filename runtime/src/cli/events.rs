//! `events`: figures at an interval, and the kills for lack of memory, one JSON object to a line.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Parser;
use kelson_cgroups::{Cgroup, OomWatch};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Context, Outcome, json, print};
use crate::container::Status;
use crate::container::events::Event;
use crate::error::{Doing, Error, Kind, Result};

#[derive(Debug, Parser)]
#[command(
    name = "events",
    about = "display container events such as OOM notifications, cpu, memory, and IO usage statistics"
)]
pub(super) struct Args {
    /// Time between two figures, as 5s or 100ms
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub interval: String,
    /// Show the figures once and stop
    #[arg(long)]
    pub stats: bool,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    events(context, args).into()
}

fn events(context: &Context, args: &Args) -> Result<()> {
    let interval = parse_duration(&args.interval)
        .ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!("--interval: {:?} is not a time such as 5s", args.interval),
            )
        })
        .and_then(|d| match d {
            Duration::ZERO => Err(Error::new(
                Kind::Invalid,
                "--interval: duration interval must be greater than 0",
            )),
            d => Ok(d),
        })?;
    let entry = context.store.open(&args.id)?;
    let record = entry.read()?;
    if matches!(entry.status(&record), Status::Stopped | Status::Creating) {
        return Err(Error::new(
            Kind::Conflict,
            format!("container with id {} is not running", args.id),
        ));
    }
    if args.stats {
        return show(&record.id, &record.cgroup);
    }
    let watch = match record.cgroup.oom_watch() {
        Ok(watch) => Some(watch),
        Err(e) if e.kind() == kelson_cgroups::Kind::Unsupported => {
            context.log.warn(&format!("events: {e}"));
            None
        }
        Err(e) => return Err(e.into()),
    };
    follow(&record.id, &record.cgroup, watch, interval)
}

fn show(id: &str, cgroup: &Cgroup) -> Result<()> {
    let event = Event::stats(id, cgroup.stats()?, cgroup.is_unified());
    print(&(json(&event, false)? + "\n"))
}

/// Until the cgroup ends.
fn follow(id: &str, cgroup: &Cgroup, mut watch: Option<OomWatch>, interval: Duration) -> Result<()> {
    let mut next = Instant::now() + interval;
    loop {
        let heard = wait(&mut watch, next)?;
        for _ in 0..heard.ooms {
            print(&(json(&Event::oom(id), false)? + "\n"))?;
        }
        if heard.ended {
            return Ok(());
        }
        if Instant::now() >= next {
            match show(id, cgroup) {
                Err(_) if !cgroup.exists() => return Ok(()),
                other => other?,
            }
            next += interval;
        }
    }
}

/// What was heard by the time of the next figures at the latest.
fn wait(watch: &mut Option<OomWatch>, until: Instant) -> Result<kelson_cgroups::Heard> {
    let left = until.saturating_duration_since(Instant::now());
    // Rounded up, or the last millisecond would be spent asking.
    let timeout = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
    let mut fds: Vec<PollFd<'_>> = watch
        .iter()
        .map(|w| PollFd::new(w.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(e) => return Err(e).doing(|| "wait for events"),
    }
    match watch {
        Some(watch) => Ok(watch.heard()?),
        None => Ok(kelson_cgroups::Heard::default()),
    }
}

/// Go's durations: numbers, with or without a fraction, each with a unit: `1m30s`, `1.5h`, `100ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = Duration::ZERO;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        sum = sum.checked_add(part)?;
        rest = tail;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, ms) in [
            ("5s", 5000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0.25s", 250),
            ("+2s", 2000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "s", "-5s", "5 s", "5sec", "1.2.3s", ".s", "1e400h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_wait_ends_at_its_time_without_a_watch() {
        let until = Instant::now() + Duration::from_millis(5);
        let heard = wait(&mut None, until).unwrap();
        assert_eq!(heard, kelson_cgroups::Heard::default());
        assert!(Instant::now() >= until);
    }

    proptest::proptest! {
        #[test]
        fn no_duration_panics(text in "[-+0-9.nuµmsh ]{0,20}") { let _ = parse_duration(&text); }
    }
}
