//! `start`.

use clap::Parser;

use super::{Context, Outcome};
use crate::container::lifecycle;

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
    lifecycle::start(&context.store, &args.id).into()
}
