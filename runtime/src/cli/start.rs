//! `start`.

use std::os::fd::AsFd;

use clap::Parser;

use super::{Context, Outcome};
use crate::container::exec::open_init;
use crate::container::{Status, lifecycle};
use crate::error::Result;
use crate::notify::Proxy;

#[derive(Debug, Parser)]
#[command(
    name = "start",
    about = "executes the user defined process in a created container"
)]
pub(super) struct Args {
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    start(context, &args.id).into()
}

fn start(context: &Context, id: &str) -> Result<()> {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()) else {
        return lifecycle::start(&context.store, id);
    };
    let entry = context.store.open(id)?;
    let record = entry.read()?;
    // Without the directory it was created by somebody whom no service manager was waiting for.
    let dir = entry.notify_dir();
    let Some(dir) = dir.filter(|_| entry.status(&record) == Status::Created) else {
        return lifecycle::start(&context.store, id);
    };
    let proxy = Proxy::new(&dir, &manager)?;
    let init = open_init(&record)?;
    lifecycle::start(&context.store, id)?;
    proxy.wait(init.as_fd(), record.pid.cast_unsigned())
}
