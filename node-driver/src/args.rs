//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::StreamFlag;

/// Exit codes, in one place for `--help`, the code and the tests.
pub mod exit {
    /// All went well.
    pub const OK: u8 = 0;
    /// The driver failed while it ran, or a question got no answer.
    pub const FAILED: u8 = 1;
    /// The command line or the configuration is not valid.
    pub const INVALID: u8 = 2;
    /// `--check-config`: valid, but the mount has too little memory.
    pub const NO_MEMORY: u8 = 3;
    /// Another driver has the state directory or the base directory.
    pub const LOCKED: u8 = 4;
}

/// What was asked for.
#[derive(Debug, Parser)]
#[command(
    name = "tensorpool-node-driver",
    version,
    about = "Owns the shared memory of tensor streams on this machine and lets producers and consumers attach.",
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags of the driver itself.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// TOML configuration; without it one stream `default` (id 10000, 64 slots of 256 KiB) is served
    #[arg(short, long, value_name = "FILE", env = "TENSORPOOL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Serve this stream too, such as camera=10000:1MiB or camera=10000:1MiBx64 (64 slots)
    #[arg(long = "stream", value_name = "NAME=ID:STRIDE[xSLOTS]", value_parser = parse_stream)]
    pub streams: Vec<StreamFlag>,
    /// Print the effective configuration and the memory it needs, then exit
    #[arg(long)]
    pub check_config: bool,
}

/// The other things that this binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the running driver what it does: streams, epochs, clients, rates, drops, memory
    Status(StatusArgs),
    /// Ask the running driver where the stream of this name is
    Discover(DiscoverArgs),
    /// Change what the running driver logs, until it ends
    Log(LogArgs),
    /// Run a program, such as the driver, and start it again within a second whenever it dies
    Supervise(SuperviseArgs),
    /// Serve kubelet as the CSI driver of this node: mount into pods what the driver has prepared
    #[cfg(feature = "kubernetes")]
    Csi(crate::csi::args::CsiArgs),
    /// Run the Aeron media driver of a node, whose directory the driver and pods on Aeron share
    #[cfg(feature = "aeron")]
    MediaDriver(MediaDriverArgs),
    /// Print the client ids that a pod's volume may use on Aeron, as FIRST-LAST
    ClientIds(ClientIdsArgs),
    /// Make a node's directories and mount the memory that streams lie in, then exit
    #[cfg(feature = "kubernetes")]
    Mount(crate::mount::MountArgs),
}

/// Which driver to ask.
#[derive(Clone, Debug, Args)]
pub struct SocketArgs {
    /// The driver's socket file; default: TENSORPOOL_SOCKET, else socket.path of the configuration
    #[arg(long, value_name = "PATH", env = "TENSORPOOL_SOCKET")]
    pub socket: Option<PathBuf>,
    /// The driver's configuration, to find its socket; default: the built-in one
    #[arg(short, long, value_name = "FILE", env = "TENSORPOOL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Time to wait for an answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub timeout_ms: u64,
}

/// `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Which driver.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Repeat every second until interrupted; rates are those of the last second
    #[arg(long)]
    pub watch: bool,
    /// Print the driver's answer as it is: one JSON document per stream
    #[arg(long)]
    pub json: bool,
}

/// `discover`.
#[derive(Clone, Debug, Args)]
pub struct DiscoverArgs {
    /// The stream's name as configured; case counts
    pub name: String,
    /// Which driver.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `media-driver`.
#[cfg(feature = "aeron")]
#[derive(Clone, Debug, Args)]
pub struct MediaDriverArgs {
    /// Its directory, which is made anew; the one above belongs to this user
    #[arg(
        long,
        value_name = "DIR",
        env = "TENSORPOOL_MEDIA_DRIVER_DIR",
        default_value = "/run/tensorpool/aeron/media"
    )]
    pub dir: PathBuf,
    /// What it says.
    #[command(flatten)]
    pub logging: LoggingArgs,
}

/// What a process says that has no configuration.
#[cfg(any(feature = "aeron", feature = "kubernetes"))]
#[derive(Clone, Debug, Args)]
pub struct LoggingArgs {
    /// What to log: a level (error, warn, info, debug, trace), or target=level, separated by commas
    #[arg(
        long,
        value_name = "FILTER",
        env = "TENSORPOOL_LOG",
        default_value = "info"
    )]
    pub log: String,
}

/// `client-ids`.
#[derive(Clone, Debug, Args)]
pub struct ClientIdsArgs {
    /// Where the pod has its volume with `transport: aeron`
    #[arg(
        long,
        value_name = "DIR",
        env = "TENSORPOOL_VOLUME",
        default_value = "/run/tensorpool"
    )]
    pub volume: PathBuf,
    /// Time to wait for an answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub timeout_ms: u64,
}

/// `log`.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// A level (error, warn, info, debug, trace), or target=level, separated by commas
    pub filter: String,
    /// The driver's state directory; default: driver.state_dir of the configuration
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The driver's configuration, to find its state directory; default: the built-in one
    #[arg(short, long, value_name = "FILE", env = "TENSORPOOL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Time to wait until the driver has taken it, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub timeout_ms: u64,
}

/// `supervise`.
#[derive(Clone, Debug, Args)]
pub struct SuperviseArgs {
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

const LONG_ABOUT: &str = "Owns the shared memory of tensor streams on this machine and lets producers and consumers attach.

Without any option it serves one stream on the local socket, and on Aeron with a media driver of its own, so that a first producer and consumer can be tried at once. A configuration file names the streams that an installation needs; every key of it can be overridden by an environment variable: upper case, dots become underscores (shm.base_dir is SHM_BASE_DIR).";

const AFTER_HELP: &str = "Examples:
  tensorpool-node-driver                                      try it: one stream, small memory
  tensorpool-node-driver --stream camera=10000:1MiB           one stream of your own
  tensorpool-node-driver --config driver.toml --check-config  is the file right, does it fit?
  tensorpool-node-driver --config driver.toml                 run it
  tensorpool-node-driver status --watch                       what is going on?
  tensorpool-node-driver discover camera                      where is the stream?
  tensorpool-node-driver log debug                            say more, from now on

Signals: SIGTERM and SIGINT end the driver as shutdown.mode says, a second one at once.
Exit codes: 0 all went well; 1 failed while running, or no answer; 2 command line or configuration not valid; 3 --check-config: valid, but too little memory; 4 another driver runs with this state or base directory.";

fn parse_stream(text: &str) -> Result<StreamFlag, String> {
    const FORM: &str =
        "write it as NAME=ID:STRIDE or NAME=ID:STRIDExSLOTS, such as camera=10000:1MiB";
    let (name, rest) = text.split_once('=').ok_or(FORM)?;
    let (id, memory) = rest.split_once(':').ok_or(FORM)?;
    let (stride, slots) = memory.split_once('x').unwrap_or((memory, "64"));
    if name.is_empty() {
        return Err(FORM.into());
    }
    Ok(StreamFlag {
        name: name.to_owned(),
        stream_id: id
            .parse()
            .map_err(|_| format!("{id:?} is not a stream id; {FORM}"))?,
        stride_bytes: parse_bytes(stride)
            .ok_or_else(|| format!("{stride:?} is not a size in bytes; {FORM}"))?,
        header_nslots: slots
            .parse()
            .map_err(|_| format!("{slots:?} is not a number of slots; {FORM}"))?,
    })
}

fn parse_bytes(text: &str) -> Option<u32> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    u32::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_stream_flag_is_read_with_and_without_slots() {
        let camera = |stride_bytes, header_nslots| StreamFlag {
            name: "camera".into(),
            stream_id: 10_000,
            stride_bytes,
            header_nslots,
        };
        assert_eq!(parse_stream("camera=10000:1MiB"), Ok(camera(1 << 20, 64)));
        assert_eq!(
            parse_stream("camera=10000:64KiBx1024"),
            Ok(camera(64 << 10, 1024))
        );
        assert_eq!(parse_stream("camera=10000:4096x2"), Ok(camera(4096, 2)));
    }

    #[test]
    fn a_wrong_stream_flag_says_what_is_wrong_in_it() {
        let error = |text| parse_stream(text).unwrap_err();
        assert!(error("camera").starts_with("write it as NAME=ID:STRIDE"));
        assert!(error("camera=ten:1MiB").starts_with("\"ten\" is not a stream id"));
        assert!(error("camera=1:1MB").starts_with("\"1MB\" is not a size in bytes"));
        assert!(error("camera=1:8GiB").starts_with("\"8GiB\" is not a size in bytes"));
        assert!(error("camera=1:1MiBxmany").starts_with("\"many\" is not a number of slots"));
    }
}
