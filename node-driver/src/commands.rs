//! What the command line asks for, done; failures are printed here, once, with their causes.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::{
    Cli, ClientIdsArgs, Command, DiscoverArgs, LogArgs, RunArgs, SocketArgs, StatusArgs,
    SuperviseArgs, exit,
};
use crate::ask::{self, AskError};
use crate::config::{self, Budget, ConfigError, Loaded, StreamFlag, Surroundings};
use crate::log_filter::{self, ChangeError};
use crate::serve;
use crate::supervise;

/// Time between two looks of `status --watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(1);
/// A little more than the time between two reports of a producer.
const LOOK_AGAIN: Duration = Duration::from_millis(1200);

/// Does what was asked for and returns the exit code.
#[must_use]
pub fn run(cli: Cli) -> u8 {
    match cli.command {
        None if cli.run.check_config => check_config(&cli.run),
        None => serve(&cli.run),
        Some(Command::Status(args)) => answered(status(&args)),
        Some(Command::Discover(args)) => answered(discover(&args)),
        Some(Command::Log(args)) => answered(change_log(&args)),
        Some(Command::Supervise(args)) => supervised(args),
        #[cfg(feature = "kubernetes")]
        Some(Command::Csi(args)) => csi(&args),
        #[cfg(feature = "aeron")]
        Some(Command::MediaDriver(args)) => media_driver(&args),
        Some(Command::ClientIds(args)) => answered(client_ids(&args)),
        #[cfg(feature = "kubernetes")]
        Some(Command::Mount(args)) => match crate::mount::run(&args) {
            Ok(()) => exit::OK,
            Err(error) => fail(&error, exit::FAILED),
        },
    }
}

/// As JSON, one event a line, as the driver itself logs in a cluster.
#[cfg(any(feature = "kubernetes", feature = "aeron"))]
fn log_as_json(filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

#[cfg(feature = "kubernetes")]
fn csi(args: &crate::csi::args::CsiArgs) -> u8 {
    if let Err(error) = log_as_json(&args.logging.log) {
        return fail(&error, exit::INVALID);
    }
    match crate::csi::run(args) {
        Ok(()) => exit::OK,
        Err(error) => fail(&error, exit::FAILED),
    }
}

#[cfg(feature = "aeron")]
fn media_driver(args: &crate::args::MediaDriverArgs) -> u8 {
    if let Err(error) = log_as_json(&args.logging.log) {
        return fail(&error, exit::INVALID);
    }
    match crate::media_driver::run(args) {
        Ok(()) => exit::OK,
        Err(error) => fail(&error, exit::FAILED),
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
    let loaded = match load(args) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error, exit::INVALID),
    };
    match serve::serve(&loaded) {
        Ok(()) => exit::OK,
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// As JSON, one event a line, as the driver itself logs in a cluster.
fn supervised(args: SuperviseArgs) -> u8 {
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .init();
    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_default();
    match supervise::run(program, words.collect()) {
        Ok(status) => status,
        Err(error) => fail(&error, exit::FAILED),
    }
}

fn answered(result: Result<u8, QuestionError>) -> u8 {
    match result {
        Ok(code) => code,
        Err(error @ QuestionError::Config(_)) => fail(&error, exit::INVALID),
        Err(error) => fail(&error, exit::FAILED),
    }
}

/// Why a question to the running driver was not answered.
#[derive(Debug, thiserror::Error)]
enum QuestionError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the configuration has no socket: name one with --socket")]
    NoSocket,
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Log(#[from] ChangeError),
}

fn socket_path(args: &SocketArgs) -> Result<PathBuf, QuestionError> {
    if let Some(path) = &args.socket {
        return Ok(path.clone());
    }
    let settings = load_file(args.config.as_deref(), &[])?.settings;
    let socket = settings.socket.ok_or(QuestionError::NoSocket)?;
    Ok(socket.path)
}

fn status(args: &StatusArgs) -> Result<u8, QuestionError> {
    let path = socket_path(&args.socket)?;
    let timeout = Duration::from_millis(args.socket.timeout_ms);
    let mut earlier = Vec::new();
    let mut looks = 0;
    loop {
        let texts = ask::status(&path, timeout)?;
        looks += 1;
        if args.json {
            let lines = texts.iter().map(|text| format!("{text}\n"));
            print_all(&lines.collect::<String>())?;
        } else {
            let documents = ask::read_documents(&path, &texts)?;
            // A rate needs two reports of the producer, which come once per second.
            let waits_for_rate = documents.iter().any(|doc| doc.producer.is_some()) && looks == 1;
            if args.watch || !waits_for_rate {
                print_all(&ask::table(&documents, &earlier))?;
            }
            earlier = documents;
            if !args.watch && waits_for_rate {
                std::thread::sleep(LOOK_AGAIN);
                continue;
            }
        }
        if !args.watch {
            return Ok(exit::OK);
        }
        std::thread::sleep(WATCH_PERIOD);
    }
}

fn discover(args: &DiscoverArgs) -> Result<u8, QuestionError> {
    let path = socket_path(&args.socket)?;
    let timeout = Duration::from_millis(args.socket.timeout_ms);
    let results = ask::discover(&path, timeout, &args.name)?;
    if results.is_empty() {
        eprintln!(
            "there is no stream {:?}; `status` lists all streams",
            args.name
        );
        return Ok(exit::FAILED);
    }
    ask::print_discovery(&results)?;
    Ok(exit::OK)
}

fn client_ids(args: &ClientIdsArgs) -> Result<u8, QuestionError> {
    let path = args.volume.join("driver.sock");
    let timeout = Duration::from_millis(args.timeout_ms);
    match ask::client_ids(&path, timeout)? {
        Some(ids) => {
            print_all(&format!("{ids}\n"))?;
            Ok(exit::OK)
        }
        None => {
            eprintln!(
                "the volume {} has no client ids on Aeron: it was not asked for with `transport: aeron`, or shows no stream now",
                args.volume.display()
            );
            Ok(exit::FAILED)
        }
    }
}

fn change_log(args: &LogArgs) -> Result<u8, QuestionError> {
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => {
            load_file(args.config.as_deref(), &[])?
                .settings
                .driver
                .state_dir
        }
    };
    let timeout = Duration::from_millis(args.timeout_ms);
    log_filter::change(&state_dir, &args.filter, timeout)?;
    Ok(exit::OK)
}

fn print_all(text: &str) -> Result<(), AskError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Loads the configuration with this process's environment.
///
/// # Errors
/// [`ConfigError`].
pub fn load(args: &RunArgs) -> Result<Loaded, ConfigError> {
    load_file(args.config.as_deref(), &args.streams)
}

fn load_file(file: Option<&Path>, streams: &[StreamFlag]) -> Result<Loaded, ConfigError> {
    let variable = |name: &str| std::env::var(name).ok();
    let surroundings = Surroundings {
        variable: &variable,
        root: rustix::process::geteuid().is_root(),
    };
    config::load(file, streams, &surroundings)
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
