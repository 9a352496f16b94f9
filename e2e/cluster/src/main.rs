//! `tensorpool-cluster`: a real Kubernetes on this machine. `cargo xtask cluster` builds and runs
//! it.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tensorpool_cluster::{Binaries, Program, Progress};

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            let mut error: Option<&dyn Error> = Some(error.as_ref());
            let mut lead = "error";
            while let Some(cause) = error {
                eprintln!("{lead}: {cause}");
                lead = "  because";
                error = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// A real Kubernetes on this machine, for tests.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the programs of a cluster into the cache, and do nothing else.
    Build {
        /// Only etcd, the API server and kubectl.
        #[arg(long)]
        control_plane: bool,
    },
}

fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    match arguments.action {
        Action::Build { control_plane } => {
            let programs = if control_plane {
                vec![Program::Etcd, Program::Kubectl, Program::KubeApiserver]
            } else {
                Program::ALL.to_vec()
            };
            let mut binaries = Binaries::from_environment()?;
            for program in &programs {
                binaries.ensure(*program, &Progress::stderr())?;
            }
            println!("{} programs are built", programs.len());
            Ok(ExitCode::SUCCESS)
        }
    }
}
