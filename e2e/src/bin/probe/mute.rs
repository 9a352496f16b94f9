//! Asks and never reads.

use std::path::Path;
use std::time::{Duration, Instant};

use tensorpool_wire::LogicalStream;

use crate::Failure;
use crate::line::{Line, discovery};

/// Between two requests: fewer a second than are cut off for their number.
const PERIOD: Duration = Duration::from_micros(1_500);
/// Requests after which we say that we are alive.
const ALIVE_EVERY: u32 = 100;
/// After this the driver should have cut us off.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(socket: &Path) -> Result<(), Failure> {
    let mut line = Line::connect(socket)?;
    let stream = line.stream()?;
    let lease = line.lease(stream)?;
    let began = Instant::now();
    let mut asked = 0_u32;
    while line.send(LogicalStream::Discovery, discovery())? {
        asked += 1;
        if asked.is_multiple_of(ALIVE_EVERY) {
            line.send(LogicalStream::Control, lease.keepalive()?)?;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{asked} requests, and the connection stands").into());
        }
        std::thread::sleep(PERIOD);
    }
    let took = began.elapsed().as_millis();
    println!(
        "{asked} requests in {took} ms and nothing read: cut off, then told `{}`",
        line.last_words()?
    );
    Ok(())
}
