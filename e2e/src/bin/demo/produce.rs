//! The producer: sends the pictures, each frame scrolled by its number.

use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use tensorpool_client::{Producer, TensorSpec};
use tensorpool_wire::Dtype;

use crate::arguments::Arguments;
use crate::connect;
use crate::pictures::Pictures;
use crate::talk::{Line, Order, look, orders, wait_for};

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    frames: u64,
    bytes: u64,
    lost: u64,
}

impl Sent {
    fn line(self, word: &str) -> Line {
        Line::new(word)
            .with("frames", self.frames)
            .with("bytes", self.bytes)
            .with("lost", self.lost)
    }
}

/// Sends until `--frames` are sent or the supervisor says stop, then keeps the lease until the
/// supervisor closes our input: the consumers read the last frames meanwhile.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let pictures = Pictures::load(&arguments.images)?;
    let orders = orders();
    let mut producer = connect::producer()?;
    Line::new("ready").say()?;
    if wait_for(&orders, Order::Go) == Order::Leave {
        return Ok(true);
    }
    let sent = send(arguments, &pictures, &mut producer, &orders)?;
    sent.line("done").say()?;
    wait_for(&orders, Order::Leave);
    Ok(true)
}

fn send(
    arguments: &Arguments,
    pictures: &Pictures,
    producer: &mut Producer,
    orders: &Receiver<Order>,
) -> Result<Sent, String> {
    let mut sent = Sent::default();
    let mut bytes = Vec::with_capacity(pictures.largest());
    let period = (arguments.rate > 0).then(|| Duration::from_secs(1) / arguments.rate);
    let mut next_frame = Instant::now();
    let mut next_report = next_frame + Duration::from_secs(1);
    loop {
        let enough = arguments.frames.is_some_and(|frames| sent.frames >= frames);
        if enough || matches!(look(orders), Some(Order::Stop | Order::Leave)) {
            return Ok(sent);
        }
        // The frame's number decides what it shows, and is known before it is drawn.
        let frame = pictures.frame(sent.frames);
        frame.write(&mut bytes);
        if arguments.damage == Some(sent.frames)
            && let Some(byte) = bytes.first_mut()
        {
            *byte = !*byte;
        }
        let tensor = TensorSpec::new(Dtype::Uint8, &frame.shape())
            .map_err(|error| format!("a picture is no tensor: {error}"))?;
        match producer.publish_tensor(&tensor, &bytes) {
            Ok(seq) if seq.get() == sent.frames => {}
            Ok(seq) => {
                return Err(format!(
                    "frame {} was given number {}",
                    sent.frames,
                    seq.get()
                ));
            }
            Err(error) => return Err(connect::words(&error)),
        }
        sent.frames += 1;
        sent.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        let now = Instant::now();
        if now >= next_report {
            sent.line("live").say()?;
            next_report = now + Duration::from_secs(1);
        }
        if let Some(period) = period {
            next_frame += period;
            thread::sleep(next_frame.saturating_duration_since(now));
        }
    }
}
