//! `tensorpool-demo`: real images through a driver, a producer and three consumers, each its own
//! process.
//!
//! The producer sends a directory's pictures over and over, each frame scrolled by its sequence
//! number, so that no two frames are alike and every byte of every frame is known to whoever has
//! the pictures. One consumer follows the ring, one Aeron's descriptors; both compare every byte.
//! A third writes every Nth frame back as PNG and compares what it wrote. Exits with 1 when a byte
//! differed or a consumer saw nothing.

use std::process::ExitCode;

use arguments::{Arguments, Role};

mod arguments;
mod connect;
mod consume;
mod pictures;
mod produce;
mod supervise;
mod talk;

fn main() -> ExitCode {
    let outcome =
        Arguments::parse(std::env::args().skip(1)).and_then(|arguments| match arguments.role {
            _ if arguments.help => {
                println!("{}", arguments::USAGE);
                Ok(true)
            }
            Role::Supervisor => supervise::run(&arguments),
            Role::Producer => produce::run(&arguments),
            Role::Ring => consume::run(&arguments, consume::Kind::Ring),
            Role::Descriptors => consume::run(&arguments, consume::Kind::Descriptors),
            Role::Writer => consume::run(&arguments, consume::Kind::Writer),
        });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
