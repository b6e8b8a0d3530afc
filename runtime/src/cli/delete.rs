//! `delete`.

use clap::Parser;

use super::{Context, Outcome, select};
use crate::container::lifecycle;
use crate::error::Kind;

#[derive(Debug, Parser)]
#[command(
    name = "delete",
    about = "delete any resources held by the container often used with detached container"
)]
pub(super) struct Args {
    /// Kill the container if it is still running; one that does not exist is no error
    #[arg(short, long)]
    pub force: bool,
    /// The container-id is a regular expression: delete every container whose id matches
    #[arg(short, long)]
    pub regex: bool,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    let delete = |id: &str| lifecycle::delete(&context.store, id, args.force, &context.log);
    if !args.regex {
        return delete(&args.id).into();
    }
    match select::each(&context.store, &args.id, delete) {
        Err(e) if args.force && e.kind() == Kind::NotFound => Outcome::Code(0),
        other => other.into(),
    }
}
