//! The three consumers. All compare every byte that they take; the writer also writes pictures.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tensorpool_client::{Consumer, Frame, FrameError, PollError};

use crate::arguments::Arguments;
use crate::connect;
use crate::pictures::{PIXEL_BYTES, Pictures};
use crate::talk::{Line, Order, look, orders, wait_for};

/// Which consumer this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Learns of frames from the ring, compares and counts.
    Ring,
    /// Learns of frames from Aeron's descriptors, compares and counts.
    Descriptors,
    /// Writes every Nth frame as PNG and reads it back.
    Writer,
}

/// How long to wait for one more frame after the producer has stopped.
const LAST_WAIT: Duration = Duration::from_millis(200);

struct Seen {
    frames: u64,
    verified: u64,
    differing: u64,
    overwritten: u64,
    saved: u64,
    colours: [u64; PIXEL_BYTES],
    pixels: u64,
    latency: Histogram<u64>,
}

/// Whether no byte differed.
pub(crate) fn run(arguments: &Arguments, kind: Kind) -> Result<bool, String> {
    let pictures = Pictures::load(&arguments.images)?;
    if kind == Kind::Writer {
        make_empty(&arguments.output)?;
    }
    let orders = orders();
    let mut consumer = connect::consumer(kind)?;
    Line::new("ready").say()?;
    let mut seen = Seen {
        frames: 0,
        verified: 0,
        differing: 0,
        overwritten: 0,
        saved: 0,
        colours: [0; PIXEL_BYTES],
        pixels: 0,
        latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)
            .map_err(|error| format!("no histogram: {error}"))?,
    };
    follow(
        arguments,
        kind,
        &pictures,
        &mut consumer,
        &orders,
        &mut seen,
    )?;
    line("done", &seen, &consumer).say()?;
    wait_for(&orders, Order::Leave);
    Ok(true)
}

fn follow(
    arguments: &Arguments,
    kind: Kind,
    pictures: &Pictures,
    consumer: &mut Consumer,
    orders: &Receiver<Order>,
    seen: &mut Seen,
) -> Result<(), String> {
    let mut buffer = Vec::with_capacity(pictures.largest());
    let mut next_report = Instant::now() + Duration::from_secs(1);
    let mut ending = false;
    loop {
        match look(orders) {
            Some(Order::End) => ending = true,
            Some(Order::Leave) => return Ok(()),
            Some(Order::Go | Order::Stop) | None => {}
        }
        let limit = if ending {
            LAST_WAIT
        } else {
            Duration::from_millis(50)
        };
        match consumer.wait(limit) {
            Ok(Some(frame)) => {
                let wanted =
                    kind != Kind::Writer || frame.seq().get().is_multiple_of(arguments.every);
                if wanted && look_at(&frame, pictures, &mut buffer, seen)? && kind == Kind::Writer {
                    save(&arguments.output, &frame, &buffer, seen)?;
                }
            }
            Ok(None) if ending => return Ok(()),
            Ok(None) => {}
            Err(PollError::LeaseEnded(end)) => {
                eprintln!("the lease ended: {}", connect::words(&end));
            }
            Err(error) => return Err(connect::words(&error)),
        }
        if Instant::now() >= next_report {
            line("live", seen, consumer).say()?;
            next_report += Duration::from_secs(1);
        }
    }
}

/// Copies the frame and compares it; `false` if the producer overwrote it meanwhile.
fn look_at(
    frame: &Frame<'_>,
    pictures: &Pictures,
    buffer: &mut Vec<u8>,
    seen: &mut Seen,
) -> Result<bool, String> {
    let now = monotonic_ns();
    let length = usize::try_from(frame.len_bytes()).map_err(|error| error.to_string())?;
    buffer.resize(length, 0);
    match frame.copy_to(buffer) {
        Ok(()) => {}
        Err(FrameError::Copy(_) | FrameError::Ended) => {
            seen.overwritten += 1;
            return Ok(false);
        }
        Err(error @ FrameError::ForkedChild) => return Err(connect::words(&error)),
    }
    if let Some(captured) = frame.timestamp_ns() {
        seen.latency
            .saturating_record(now.saturating_sub(captured.get()).max(1));
    }
    let expected = pictures.frame(frame.seq().get());
    let mut differing = expected.differing(buffer);
    if frame.shape() != expected.shape() {
        eprintln!("frame {} has shape {:?}", frame.seq().get(), frame.shape());
        differing = differing.max(1);
    }
    seen.frames += 1;
    seen.verified += u64::from(frame.len_bytes());
    seen.differing += differing;
    for pixel in buffer.chunks_exact(PIXEL_BYTES) {
        for (sum, value) in seen.colours.iter_mut().zip(pixel) {
            *sum += u64::from(*value);
        }
        seen.pixels += 1;
    }
    Ok(true)
}

fn save(directory: &Path, frame: &Frame<'_>, bytes: &[u8], seen: &mut Seen) -> Result<(), String> {
    let [height, width, _] = frame.shape() else {
        return Err(format!(
            "a picture has three dimensions, not {:?}",
            frame.shape()
        ));
    };
    let file: PathBuf = directory.join(format!("frame-{:08}.png", frame.seq().get()));
    let failed = |error: image::ImageError| format!("{}: {error}", file.display());
    image::save_buffer(&file, bytes, *width, *height, image::ColorType::Rgb8).map_err(failed)?;
    let read = image::open(&file).map_err(failed)?.to_rgb8();
    let pairs = read.as_raw().iter().zip(bytes);
    let differing = pairs.filter(|(read, sent)| read != sent).count();
    let missing = read.as_raw().len().abs_diff(bytes.len());
    seen.differing += u64::try_from(differing + missing).unwrap_or(u64::MAX);
    seen.saved += 1;
    Ok(())
}

fn line(word: &str, seen: &Seen, consumer: &Consumer) -> Line {
    let at = |quantile| seen.latency.value_at_quantile(quantile);
    let mean = |sum: u64| sum / seen.pixels.max(1);
    let [red, green, blue] = seen.colours;
    let mut line = Line::new(word)
        .with("frames", seen.frames)
        .with("verified", seen.verified)
        .with("differing", seen.differing)
        .with("saved", seen.saved)
        .with("p50_ns", at(0.5))
        .with("p99_ns", at(0.99))
        .with("p999_ns", at(0.999))
        .with("red", mean(red))
        .with("green", mean(green))
        .with("blue", mean(blue));
    let mut lost = seen.overwritten;
    for (reason, count) in consumer.stats().drops() {
        if count > 0 {
            lost += count;
            line = line.with(&format!("drop_{}", reason.label()), count);
        }
    }
    if seen.overwritten > 0 {
        line = line.with("drop_overwritten_while_copying", seen.overwritten);
    }
    line.with("lost", lost)
}

/// The clock of capture times.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn make_empty(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory)
        .map_err(|error| format!("could not create {}: {error}", directory.display()))?;
    let old = fs::read_dir(directory).map_err(|error| error.to_string())?;
    for entry in old.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("frame-") && name.ends_with(".png") {
            fs::remove_file(entry.path()).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
