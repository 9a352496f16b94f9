//! The node driver's binary. See `tensorpool-node-driver --help`.

use std::process::ExitCode;

use clap::Parser;
use tensorpool_node_driver::{args::Cli, commands};

fn main() -> ExitCode {
    commands::run(Cli::parse()).into()
}
