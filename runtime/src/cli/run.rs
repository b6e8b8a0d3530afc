//! `run`: create, start, and unless detached wait and delete.

use std::os::fd::AsFd;

use clap::Parser;

use super::create::{Common, failed, protect, relay};
use super::{Context, Outcome};
use crate::container::launch::{Console, Plan, plan};
use crate::container::{foreground, lifecycle};
use crate::error::Result;
use crate::terminal;

#[derive(Debug, Parser)]
#[command(name = "run", about = "create and run a container")]
pub(super) struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Detach from the container's process
    #[arg(short, long)]
    pub detach: bool,
    /// Do not delete the container after it exits
    #[arg(long)]
    pub keep: bool,
    /// Accepted for runc's sake: no process is ever reparented to this runtime
    #[arg(long)]
    pub no_subreaper: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    match run_container(context, args) {
        Ok(code) => Outcome::Code(code),
        Err(e) => failed("run", e),
    }
}

fn run_container(context: &Context, args: &Args) -> Result<u8> {
    protect()?;
    let options = args.common.options(context);
    let (console, receiver) = if args.detach || options.console_socket.is_some() {
        (Console::Detached, None)
    } else {
        relay()?
    };
    let plan: Plan = plan(&context.store, &context.log, &options, console)?;
    let signals = if args.detach {
        None
    } else {
        Some(foreground::Signals::take()?)
    };
    let ready = lifecycle::prepare(&context.store, &plan, &options, false)?;
    let master = match &receiver {
        Some(socket) if plan.process.terminal => Some(terminal::receive(socket.as_fd())?),
        _ => None,
    };
    let mut running = ready.run()?;
    let notify = running.notify.take();
    let Some(signals) = signals else {
        if let Some(notify) = notify {
            let init = &running.init;
            let told = notify.wait(init.pidfd.as_fd(), init.pid.as_raw().cast_unsigned());
            // The container runs, whether its manager is still there or not.
            told.unwrap_or_else(|e| context.log.warn(&e.to_string()));
        }
        return Ok(0);
    };
    let init = &running.init;
    let code = foreground::wait(init.pid, &init.pidfd, &signals, master, notify, &context.log)?;
    if !args.keep {
        let mut entry = context.store.open(&options.id)?;
        entry.lock()?;
        lifecycle::destroy(&entry, &running.record, &context.log)?;
    }
    Ok(code)
}
