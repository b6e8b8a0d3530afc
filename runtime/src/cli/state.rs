//! `state`: the specification's state document.

use clap::Parser;

use super::{Context, Outcome, json, print};
use crate::error::Result;

#[derive(Debug, Parser)]
#[command(name = "state", about = "output the state of a container")]
pub(super) struct Args {
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    state(context, &args.id).into()
}

fn state(context: &Context, id: &str) -> Result<()> {
    let entry = context.store.open(id)?;
    let record = entry.read()?;
    let status = entry.status(&record);
    print(&(json(&record.view(status), true)? + "\n"))
}
