//! `pause` and `resume`.

use clap::Parser;

use super::{Context, Outcome};
use crate::container::lifecycle;

#[derive(Debug, Parser)]
#[command(name = "pause", about = "pause suspends all processes inside the container")]
pub(super) struct Pause {
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

#[derive(Debug, Parser)]
#[command(
    name = "resume",
    about = "resumes all processes that have been previously paused"
)]
pub(super) struct Resume {
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

pub(super) fn pause(context: &Context, args: &Pause) -> Outcome {
    lifecycle::pause(&context.store, &args.id).into()
}

pub(super) fn resume(context: &Context, args: &Resume) -> Outcome {
    lifecycle::resume(&context.store, &args.id).into()
}
