//! `features`: what this build can do, as features.md of the specification has it.

use clap::Parser;

use super::{Outcome, json, print};
use crate::error::Result;
use crate::features;

#[derive(Debug, Parser)]
#[command(name = "features", about = "show the enabled features")]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Outcome {
    show().into()
}

fn show() -> Result<()> {
    print(&(json(&features::document(), true)? + "\n"))
}
