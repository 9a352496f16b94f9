//! Frames of which every byte is known: `exchange produce STREAM`, `exchange consume STREAM FRAMES`,
//! `exchange watch STREAM`.
//!
//! A consumer looks at each byte, and ends when it has seen as many frames as it was asked for; one that
//! watches goes on, and says twice a second how far it is and what each change of epoch cost. SIGTERM ends
//! all of them with a last line that says how far they came.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;
use tensorpool_client::{ClaimError, Consumer, PollError, Producer, Report};

/// Bytes of a frame: no power of two, and no multiple of the pattern's period.
const FRAME_BYTES: usize = 16_001;
/// Time between two frames: 500 a second.
const PERIOD: Duration = Duration::from_millis(2);
/// The stream, the driver and the other pod may need their time at first.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two lines of a consumer that watches.
const TOLD_EVERY: Duration = Duration::from_millis(500);
/// How a process ends that was asked to before it was done, as shells count: 128 and SIGTERM.
const ASKED_TO_END: i32 = 143;

fn main() -> Result<(), Report> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ending = Ending::new()?;
    match words[..] {
        ["produce", stream] => produce(stream, &ending),
        ["consume", stream, frames] => consume(stream, frames.parse()?, &ending),
        ["watch", stream] => watch(stream, &ending),
        _ => {
            eprintln!("usage: exchange produce STREAM | consume STREAM FRAMES | watch STREAM");
            std::process::exit(2)
        }
    }
}

/// What SIGTERM and Ctrl-C do: while nothing is attached they end the process at once, afterwards they
/// only ask. Pid 1 of a pod has to say so itself: the kernel ends it by neither.
struct Ending {
    is_idle: Arc<AtomicBool>,
    is_asked: Arc<AtomicBool>,
}

impl Ending {
    fn new() -> Result<Self, Report> {
        let (is_idle, is_asked) = (Arc::new(true.into()), Arc::default());
        for &signal in TERM_SIGNALS {
            flag::register_conditional_shutdown(signal, ASKED_TO_END, Arc::clone(&is_idle))?;
            flag::register(signal, Arc::clone(&is_asked))?;
        }
        Ok(Self { is_idle, is_asked })
    }

    fn begin_work(&self) {
        self.is_idle.store(false, Ordering::Relaxed);
    }

    fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }
}

fn produce(stream: &str, ending: &Ending) -> Result<(), Report> {
    let mut producer = Producer::builder(stream)
        .timeout(PATIENCE)
        .patient()
        .build()?;
    ending.begin_work();
    println!("attached to {stream}");
    let mut number = 0;
    while !ending.is_asked() {
        match producer.publish(&frame(number)) {
            // Only frames that were published have a number: those that are missing were lost.
            Ok(_) => number += 1,
            Err(ClaimError::NotAttached | ClaimError::LeaseEnded(_)) => {}
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(PERIOD);
    }
    println!("{} frames were published", producer.stats().published);
    Ok(())
}

fn consume(stream: &str, wanted: u64, ending: &Ending) -> Result<(), Report> {
    let mut consumer = Consumer::builder(stream)
        .timeout(PATIENCE)
        .patient()
        .build()?;
    ending.begin_work();
    println!("attached to {stream}, {}", pages());
    let (mut seen, mut last) = (0, Instant::now());
    while seen < wanted && !ending.is_asked() {
        match consumer.wait(Duration::from_secs(1)) {
            Ok(Some(arrived)) => {
                // Overwritten while it was read: counted as lost by the consumer.
                let Ok(bytes) = arrived.to_vec() else {
                    continue;
                };
                check(&bytes);
                (seen, last) = (seen + 1, Instant::now());
            }
            Ok(None) if last.elapsed() > PATIENCE => panic!("no frame for {PATIENCE:?}"),
            // The client attaches again by itself.
            Ok(None) | Err(PollError::LeaseEnded(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let lost = lost(&consumer);
    println!("{seen} frames of {FRAME_BYTES} bytes were as they should be, {lost} were lost");
    if seen < wanted {
        eprintln!("asked to end before {wanted} frames");
        std::process::exit(ASKED_TO_END);
    }
    Ok(())
}

fn watch(stream: &str, ending: &Ending) -> Result<(), Report> {
    let builder = Consumer::builder(stream).timeout(PATIENCE);
    let mut consumer = builder.patient().build()?;
    ending.begin_work();
    println!("attached to {stream}, {}", pages());
    let mut sight = Sight::default();
    let mut told = Instant::now();
    while !ending.is_asked() {
        match consumer.wait(TOLD_EVERY) {
            Ok(Some(arrived)) => {
                let (epoch, bytes) = (arrived.epoch().get(), arrived.to_vec());
                if let Ok(bytes) = bytes {
                    sight.look(epoch, check(&bytes), lost(&consumer));
                }
            }
            Ok(None) => {}
            Err(PollError::LeaseEnded(end)) => {
                println!("{end}");
                sight.lease_ended = true;
            }
            Err(error) => return Err(error.into()),
        }
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            sight.tell(lost(&consumer));
        }
    }
    sight.tell(lost(&consumer));
    Ok(())
}

/// What a consumer that watches has seen. Only frames that were published have numbers, one after the
/// other, so those that are missing were lost; those of a time without a lease were nobody's to lose.
#[derive(Default)]
struct Sight {
    seen: u64,
    missing: u64,
    /// Of these, published while there was no lease.
    between_leases: u64,
    lease_ended: bool,
    before: Option<Before>,
    longest: Duration,
}

/// The frame before.
struct Before {
    number: u64,
    epoch: u64,
    lost: u64,
    at: Instant,
}

impl Sight {
    fn look(&mut self, epoch: u64, number: u64, lost: u64) {
        self.seen += 1;
        if let Some(before) = &self.before {
            let pause = before.at.elapsed();
            self.longest = self.longest.max(pause);
            let missing = number.checked_sub(before.number + 1);
            assert!(
                before.epoch != epoch || missing.is_some(),
                "frame {number} came after frame {}",
                before.number
            );
            let cost = match missing {
                Some(missing) => format!("{missing} frames missing"),
                None => "another producer".to_owned(),
            };
            // Another producer begins anew: its first frames are missing by their numbers, and how many
            // the one before still published only the client can know.
            let counted = lost - before.lost;
            let missing = missing.unwrap_or_else(|| number.max(counted));
            self.missing += missing;
            if self.lease_ended {
                self.between_leases += missing.saturating_sub(counted);
            }
            if before.epoch != epoch {
                let (pause, former) = (pause.as_millis(), before.epoch);
                println!("epoch {epoch} after epoch {former}: resumed after {pause} ms, {cost}");
            }
        }
        self.lease_ended = false;
        let at = Instant::now();
        self.before = Some(Before {
            number,
            epoch,
            lost,
            at,
        });
    }

    fn tell(&mut self, lost: u64) {
        let (epoch, next, waits) = match &self.before {
            Some(before) => (before.epoch, before.number + 1, before.at.elapsed()),
            None => Default::default(),
        };
        let pause = self.longest.max(waits).as_millis();
        let (seen, missing, between) = (self.seen, self.missing, self.between_leases);
        println!(
            "next {next}, seen {seen}, lost {lost}, missing {missing}, between leases {between}, epoch {epoch}, longest pause {pause} ms"
        );
        self.longest = Duration::ZERO;
    }
}

/// Frames that the client counted as lost.
fn lost(consumer: &Consumer) -> u64 {
    consumer.stats().drops().map(|(_, count)| count).sum()
}

/// The number, and bytes that follow from it and from their place.
fn frame(number: u64) -> Vec<u8> {
    let head = number.to_le_bytes();
    let body = (head.len()..FRAME_BYTES).map(|place| pattern(number, place));
    head.into_iter().chain(body).collect()
}

fn pattern(number: u64, place: usize) -> u8 {
    let word =
        (number ^ u64::try_from(place).expect("64 bits")).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word.to_be_bytes()[0]
}

/// Returns the frame's number.
fn check(bytes: &[u8]) -> u64 {
    let head: [u8; 8] = bytes[..8].try_into().expect("eight bytes");
    let number = u64::from_le_bytes(head);
    let expected = frame(number);
    assert_eq!(bytes.len(), expected.len(), "frame {number}");
    let wrong = bytes.iter().zip(&expected).position(|(is, was)| is != was);
    assert_eq!(wrong, None, "frame {number}: the first wrong byte");
    number
}

/// What the regions are made of, as the kernel says.
fn pages() -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(".pool"));
    let size = lines.find_map(|line| line.strip_prefix("KernelPageSize:"));
    format!("pages of {}", size.unwrap_or("unknown size").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_producer_costs_is_missing() {
        let mut sight = Sight::default();
        sight.look(7, 10, 0);
        // The last frame of the one before was lost: only the client knows.
        sight.look(8, 0, 1);
        assert_eq!((sight.missing, sight.between_leases), (1, 0));
        sight.look(8, 5, 5);
        assert_eq!((sight.missing, sight.between_leases), (5, 0));
        // The first two of the next one are missing, and nobody counted them.
        sight.look(9, 2, 5);
        assert_eq!((sight.missing, sight.between_leases), (7, 0));
        // The same while there was no lease.
        sight.lease_ended = true;
        sight.look(10, 1, 5);
        assert_eq!((sight.missing, sight.between_leases), (8, 1));
    }
}
