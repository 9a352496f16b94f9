//! What the command line asks for, done; failures are printed here, once, with their causes.

use std::error::Error;
use std::path::Path;

use crate::args::{Cli, Command, RunArgs, exit};
use crate::config::{self, Budget, ConfigError, Loaded, Surroundings};

/// Does what was asked for and returns the exit code.
#[must_use]
pub fn run(cli: Cli) -> u8 {
    match cli.command {
        None if cli.run.check_config => check_config(&cli.run),
        None => serve(&cli.run),
        Some(Command::Status(_) | Command::Discover(_) | Command::Log(_)) => exit::FAILED,
    }
}

fn check_config(args: &RunArgs) -> u8 {
    let loaded = match load(args) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error, exit::INVALID),
    };
    print!("{}", config::effective(&loaded.settings));
    for warning in &loaded.warnings {
        println!("# warning: {warning}");
    }
    match Budget::measure(&loaded.settings) {
        Ok(budget) => {
            for line in budget.to_string().lines() {
                println!("# memory: {line}");
            }
            if budget.fits() {
                exit::OK
            } else {
                exit::NO_MEMORY
            }
        }
        Err(error) => fail(&error, exit::FAILED),
    }
}

fn serve(args: &RunArgs) -> u8 {
    match load(args) {
        Ok(_) => exit::OK,
        Err(error) => fail(&error, exit::INVALID),
    }
}

/// Loads the configuration with this process's environment.
///
/// # Errors
/// [`ConfigError`].
pub fn load(args: &RunArgs) -> Result<Loaded, ConfigError> {
    let variable = |name: &str| std::env::var(name).ok();
    let surroundings = Surroundings {
        variable: &variable,
        root: rustix::process::geteuid().is_root(),
    };
    config::load(
        args.config.as_deref().map(Path::new),
        &args.streams,
        &surroundings,
    )
}

/// Prints an error with all its causes.
fn fail(error: &dyn Error, code: u8) -> u8 {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    code
}
