//! `stats`: what containers use, once or as a live table.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kelson_api::{ContainerSummary, Filters};
use serde_json::Value;

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::client::Client;
use crate::commands::formats;
use crate::error::Failure;
use crate::format::stats::{LISTING, TABLE, Usage, row, with_charts};
use crate::output;
use crate::session::Session;
use crate::tty;

/// How often the table is drawn.
const REDRAW: Duration = Duration::from_millis(500);
/// How long the first table waits for the first figures, of which the engine needs two samples.
const FIRST: Duration = Duration::from_secs(3);

const FLAGS: &[Flag] = &[
    switch("all", "Show all containers (default shows just running)").short('a'),
    formats::LIST,
    switch(
        "no-stream",
        "Disable streaming stats and only pull the first result",
    ),
    switch("no-trunc", "Do not truncate output"),
];

/// `kelson stats`.
pub static COMMAND: Command = Command {
    names: &["container stats", "stats"],
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Display a live stream of container(s) resource usage statistics",
    flags: &[FLAGS],
    arity: Arity::AtLeast(0),
    first_argument_ends_flags: false,
    run,
};

/// What is known of one container.
#[derive(Debug, Default)]
struct Entry {
    usage: Option<Usage>,
    /// Processor percentages, the newest last.
    history: Vec<f64>,
    /// The stream ended, or never began.
    ended: bool,
    error: Option<String>,
}

/// What the threads that read share with the one that draws.
#[derive(Debug, Default)]
struct Board {
    /// By the name that was asked for, in order of arrival.
    entries: Mutex<(Vec<String>, HashMap<String, Entry>)>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, (Vec<String>, HashMap<String, Entry>)> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a container; false if it is there already.
    fn add(&self, name: &str) -> bool {
        let (order, entries) = &mut *self.lock();
        if entries.contains_key(name) {
            return false;
        }
        order.push(name.to_owned());
        entries.insert(name.to_owned(), Entry::default());
        true
    }

    fn remove(&self, name: &str) {
        let (order, entries) = &mut *self.lock();
        order.retain(|known| known != name);
        entries.remove(name);
        self.changed.notify_all();
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().1.get_mut(name) {
            change(entry);
        }
        self.changed.notify_all();
    }

    /// Waits until every container has figures or an error, or the deadline passes.
    fn await_first(&self) {
        let deadline = Instant::now() + FIRST;
        let mut entries = self.lock();
        while entries
            .1
            .values()
            .any(|entry| entry.usage.is_none() && !entry.ended)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(entries, left);
            entries = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let stream = !parsed.on("no-stream");
    let format = formats::of_list(session, parsed, "statsFormat", TABLE, None);
    let named = !parsed.args.is_empty();
    let board = Arc::new(Board::default());
    // Before the list, so that none is missed between the two.
    if stream && !named {
        follow_events(session.client.sibling()?, &board, parsed.on("all"))?;
    }
    let names = if named {
        parsed.args.clone()
    } else {
        listed(&session.client, parsed.on("all"))?
    };
    for name in &names {
        collect(session.client.sibling()?, &board, name.clone(), stream);
    }
    board.await_first();
    let errors: Vec<String> = {
        let (order, entries) = &*board.lock();
        order
            .iter()
            .filter_map(|name| entries[name].error.clone())
            .collect()
    };
    if named && !errors.is_empty() {
        return Err(Failure::error(errors.join("\n"), 1));
    }
    let charts = stream && format == TABLE && tty::stdout_is_terminal();
    let view = View {
        board: &board,
        format: &format,
        truncate: !parsed.on("no-trunc"),
        charts,
    };
    if !stream {
        output::out(view.text()?.as_bytes())?;
        return Ok(0);
    }
    loop {
        let text = view.text()?;
        // Each line is overwritten where it stands: clearing the screen first would flicker.
        let drawn = text.replace('\n', "\x1b[K\n");
        output::out(format!("\x1b[H{drawn}\x1b[J").as_bytes())?;
        if named && board.lock().1.values().all(|entry| entry.ended) {
            return Ok(0);
        }
        thread::sleep(REDRAW);
    }
}

struct View<'a> {
    board: &'a Board,
    format: &'a str,
    truncate: bool,
    charts: bool,
}

impl View<'_> {
    fn text(&self) -> anyhow::Result<String> {
        let (order, entries) = &*self.board.lock();
        let shown: Vec<(&String, &Entry)> = order
            .iter()
            .filter_map(|name| Some((name, entries.get(name)?)))
            .filter(|(_, entry)| entry.error.is_none())
            .collect();
        let rows: Vec<Value> = shown
            .iter()
            .map(|(name, entry)| row(name, entry.usage.as_ref(), self.truncate))
            .collect();
        let text = LISTING.show(self.format, &rows)?;
        if !self.charts {
            return Ok(text);
        }
        let histories: Vec<&[f64]> = shown.iter().map(|(_, entry)| &entry.history[..]).collect();
        let columns = tty::size().map_or(80, |size| usize::from(size.columns));
        Ok(with_charts(&text, &histories, columns))
    }
}

fn listed(client: &Client, all: bool) -> anyhow::Result<Vec<String>> {
    let containers: Vec<ContainerSummary> = client.get("/containers/json").flag("all", all).send()?.json()?;
    Ok(containers.into_iter().map(|container| container.id).collect())
}

/// Reads one container's figures on a thread of its own until they end.
fn collect(client: Client, board: &Arc<Board>, name: String, stream: bool) {
    if !board.add(&name) {
        return;
    }
    let board = Arc::clone(board);
    thread::spawn(move || {
        let read = read(&client, &board, &name, stream);
        board.change(&name, |entry| {
            entry.ended = true;
            match read {
                // A container that is gone is no error of ours once it has been shown.
                Err(error) if entry.usage.is_none() => entry.error = Some(format!("{error:#}")),
                _ if stream => entry.usage = None,
                _ => {}
            }
        });
    });
}

fn read(client: &Client, board: &Board, name: &str, stream: bool) -> anyhow::Result<()> {
    let get = client.get(path(name, "/stats"));
    let answer = get.query("stream", if stream { "1" } else { "0" }).send()?;
    for sample in answer.objects() {
        let usage = Usage::read(&sample?);
        board.change(name, |entry| {
            entry.history.push(usage.cpu);
            entry.usage = Some(usage);
        });
    }
    Ok(())
}

/// Adds containers that start, and removes those that end.
fn follow_events(client: Client, board: &Arc<Board>, all: bool) -> anyhow::Result<()> {
    let mut filters = Filters::default();
    filters.add("type", "container");
    let kinds: &[&str] = if all {
        &["create", "start", "die", "destroy"]
    } else {
        &["start", "die"]
    };
    for kind in kinds {
        filters.add("event", kind);
    }
    let answer = client.get("/events").query("filters", filters.encode()).send()?;
    let board = Arc::clone(board);
    let client = client.sibling()?;
    thread::spawn(move || {
        for event in answer.objects() {
            let Ok(event) = event else { return };
            let id = event["Actor"]["ID"].as_str().unwrap_or_default().to_owned();
            match event["Action"].as_str() {
                Some("create" | "start") => {
                    // A stream that ended with the container before does not go on by itself.
                    if board.lock().1.get(&id).is_some_and(|entry| entry.ended) {
                        board.remove(&id);
                    }
                    if let Ok(client) = client.sibling() {
                        collect(client, &board, id, true);
                    }
                }
                Some("destroy") => board.remove(&id),
                Some("die") if !all => board.remove(&id),
                _ => {}
            }
        }
    });
    Ok(())
}
