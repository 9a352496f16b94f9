//! `cargo xtask`: set-up, tests, demo, benchmarks and checks of this repository.
//!
//! It is compiled before anything else, so it uses the standard library only. What needs more
//! (the demo's processes, the benchmark) is the package `tensorpool-e2e`, which this program
//! builds and then becomes.

use std::env;
use std::process::ExitCode;

use workspace::Workspace;

mod become_e2e;
mod ci;
mod cluster;
mod codegen;
mod command;
mod crdgen;
mod e2e;
mod gates;
mod hugepages;
mod junit;
mod setup;
mod spec;
mod workspace;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup                 install what the build and the tests need (quiet when all is there)
  ci [--strict] [GATE…] run what CI runs; with names, only these gates; `ci --list` names them
  demo [--frames N] [--images DIR] [--rate HZ]
                        real images through a driver, a producer and three consumers
  bench [--quick]       measure against the references, write target/bench.json
  spec [--list]         count the requirements that code and tests cover
  cluster <command>     a real Kubernetes on this machine: up, kubectl, exec, load, down
                        (`cargo xtask cluster --help`)
  e2e [--only SUITE]    images, charts and pods on a real Kubernetes; one summary line at the end
  codegen [--check]     make (or compare) what is generated: the chart's CRDs and the API
                        reference, the golden vectors of the independent codec
";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let workspace = Workspace::find();
    let outcome = match command.as_str() {
        "setup" => setup::run(&workspace).map(|tools| println!("{}", tools.summary())),
        "ci" => ci::run(&workspace, &rest),
        "demo" => become_e2e::demo(&workspace, &rest),
        "bench" => become_e2e::bench(&workspace, &rest),
        "cluster" => cluster::run(&workspace, &rest),
        "e2e" => e2e::run(&workspace, &rest),
        hugepages::WATCH => hugepages::give_back_at_the_end(&rest),
        "spec" => spec::run(&workspace, &rest),
        "codegen" => generate(&workspace, rest.iter().any(|flag| flag == "--check")),
        "" | "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("there is no command `{other}`\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that is generated, what is quick first.
fn generate(workspace: &Workspace, check: bool) -> Result<(), String> {
    let files = crdgen::run(workspace, &workspace.root.join("target"), check)?;
    let verb = if check { "are as in the tree" } else { "made" };
    println!("{files} files of the Kubernetes API {verb}");
    println!("{}", codegen::run(check)?);
    Ok(())
}
