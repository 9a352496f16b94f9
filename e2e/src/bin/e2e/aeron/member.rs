//! A member of the media driver's directory that attaches with a client id which it names.
//!
//! `tensorpool-e2e member STREAM CLIENT` runs it in the cluster's namespaces, where the directory has the
//! path that the media driver gives to its clients.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::NamedTempFile;
use tensorpool_client::{ClientId, ClientOptions, Consumer};

use crate::world::World;

/// The word that makes this program a member.
const WORD: &str = "member";
const DIRECTORY: &str = "/run/tensorpool/aeron/media";
/// For the driver's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the driver says to an attach as a consumer of this stream, with this client id.
pub(super) fn attaches(world: &World, stream: &str, client: u32) -> Result<String, String> {
    // Whoever builds meanwhile replaces the file of this program.
    let program = NamedTempFile::new().map_err(|error| error.to_string())?;
    let copied = fs::copy("/proc/self/exe", program.path());
    copied.map_err(|error| error.to_string())?;
    // Nobody may have it open for writing when it runs.
    let program = program.into_temp_path();
    let words = [WORD, stream, &client.to_string()];
    world.inside(&program.display().to_string(), &words)
}

/// Whether this process is one; what it is told goes to standard output.
pub(crate) fn is_one() -> bool {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [word, stream, client] = &words[..] else {
        return false;
    };
    let (WORD, Ok(stream), Ok(client)) = (word.as_str(), stream.parse(), client.parse()) else {
        return false;
    };
    println!("{}", answer(stream, ClientId(client)));
    true
}

fn answer(stream: u32, client: ClientId) -> String {
    let options = ClientOptions {
        aeron_dir: Some(PathBuf::from(DIRECTORY)),
        ..ClientOptions::default()
    };
    let built = Consumer::builder(stream)
        .client_options(options)
        .client_id(client)
        .timeout(PATIENCE)
        .build();
    match built {
        Ok(consumer) => format!("attached to stream {}", consumer.stream()),
        Err(error) => {
            let causes = std::iter::successors(error.source(), |&cause| cause.source());
            causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
        }
    }
}
