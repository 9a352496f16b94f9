//! `tensorpool-operator`.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use kube::Config;
use tensorpool_crds::{DEFAULT_CLASS, PageSize, Quantity, TensorPoolClassSpec};
use tensorpool_operator::{DefaultClass, Settings, Stop, run};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::EnvFilter;

/// Compiles streams, classes, quotas and priorities into policy for each node.
#[derive(Debug, Parser)]
#[command(name = "tensorpool-operator", version)]
struct Arguments {
    /// Namespace of the operator's lease and of the drivers' leases.
    #[arg(long, env = "POD_NAMESPACE", default_value = "tensorpool-system")]
    namespace: String,
    /// Name among candidates: that of the pod.
    #[arg(long, env = "POD_NAME")]
    identity: String,
    /// Where /metrics, /livez and /readyz are served.
    #[arg(long, env = "TENSORPOOL_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Memory per node of the class `default`, which is made while there is none. Without it, none is
    /// made. Example: 8Gi.
    #[arg(long, env = "TENSORPOOL_DEFAULT_CLASS_SIZE")]
    default_class_size: Option<String>,
    /// Page size of that class: 4Ki, 2Mi or 1Gi.
    #[arg(long, env = "TENSORPOOL_DEFAULT_CLASS_PAGE_SIZE", default_value = "2Mi", value_parser = page_size)]
    default_class_page_size: PageSize,
    /// What is logged, such as `info` or `tensorpool_operator=debug`.
    #[arg(long, env = "TENSORPOOL_LOG", default_value = "info")]
    log: EnvFilter,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(arguments.log.clone().to_string())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(operate(arguments)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = error.as_ref(), "the operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn operate(arguments: Arguments) -> Result<(), Box<dyn std::error::Error + 'static>> {
    let default_class = arguments.default_class_size.map(|size| DefaultClass {
        name: DEFAULT_CLASS.to_owned(),
        spec: TensorPoolClassSpec::new(arguments.default_class_page_size, Quantity::new(size)),
    });
    let settings = Settings {
        namespace: arguments.namespace,
        identity: arguments.identity,
        listen: arguments.listen,
        default_class,
    };
    let stop = Stop::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let raise = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
        raise.raise();
    });
    run(Config::infer().await?, settings, stop).await?;
    Ok(())
}

fn page_size(text: &str) -> Result<PageSize, String> {
    let sizes = [PageSize::Base, PageSize::Huge2Mi, PageSize::Huge1Gi];
    let found = sizes.into_iter().find(|size| size.name() == text);
    found.ok_or_else(|| format!("`{text}` is no page size; there are 4Ki, 2Mi and 1Gi"))
}
