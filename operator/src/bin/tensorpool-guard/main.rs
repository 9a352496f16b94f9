//! `tensorpool-guard`: what the chart's hooks ask the cluster.
//!
//! `uninstall` says whether the drivers may go: kubelet cannot end a pod whose volumes nobody unmounts.
//! `release-streams` lets streams go that no operator holds any more.
//! `expect-refusal` is the witness of `helm test`: a pod without permission must not get its stream.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kube::Client;

mod refusal;
mod release;
mod uninstall;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Asks the cluster for the hooks of Tensorpool's chart.
#[derive(Debug, Parser)]
#[command(name = "tensorpool-guard", version)]
struct Arguments {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// May the drivers go? No while pods have volumes of theirs.
    Uninstall {
        /// Delete these pods, and wait for their end.
        #[arg(long)]
        force: bool,
        /// How long to wait for their end, in seconds.
        #[arg(long, default_value_t = 300)]
        limit_s: u64,
        /// What a person does who wants these pods deleted; part of the refusal.
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "set uninstall.force=true with helm upgrade"
        )]
        how_to_force: String,
    },
    /// Let streams go that wait for their nodes: no operator holds them any more.
    ReleaseStreams,
    /// Is the pod refused that may not have its stream?
    ExpectRefusal {
        /// The pod's namespace.
        #[arg(long)]
        namespace: String,
        /// Its labels, as `key=value`.
        #[arg(long)]
        selector: String,
        /// How long to wait for the refusal, in seconds.
        #[arg(long, default_value_t = 180)]
        limit_s: u64,
    },
}

fn main() -> ExitCode {
    let question = Arguments::parse().question;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(answer(question)),
        Err(error) => Err(error.into()),
    };
    match answer {
        Ok(words) => {
            println!("{words}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn answer(question: Question) -> Result<String, Box<dyn std::error::Error>> {
    let client = Client::try_default().await?;
    match question {
        Question::Uninstall {
            force,
            limit_s,
            how_to_force,
        } => {
            let limit = Duration::from_secs(limit_s);
            Ok(uninstall::run(client, force, limit, how_to_force).await?)
        }
        Question::ReleaseStreams => Ok(release::run(client).await?),
        Question::ExpectRefusal {
            namespace,
            selector,
            limit_s,
        } => {
            let limit = Duration::from_secs(limit_s);
            Ok(refusal::expect(client, &namespace, &selector, limit).await?)
        }
    }
}
