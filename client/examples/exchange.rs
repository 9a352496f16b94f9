//! Frames of which every byte is known: `exchange produce STREAM`, `exchange consume STREAM FRAMES`.
//!
//! The consumer looks at each byte, and ends when it has seen as many frames as it was asked for. SIGTERM
//! ends both with a last line that says how far they came.
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
/// How a process ends that was asked to before it was done, as shells count: 128 and SIGTERM.
const ASKED_TO_END: i32 = 143;

fn main() -> Result<(), Report> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ending = Ending::new()?;
    match words[..] {
        ["produce", stream] => produce(stream, &ending),
        ["consume", stream, frames] => consume(stream, frames.parse()?, &ending),
        _ => {
            eprintln!("usage: exchange produce STREAM | exchange consume STREAM FRAMES");
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
    for number in (0_u64..).take_while(|_| !ending.is_asked()) {
        match producer.publish(&frame(number)) {
            Ok(_) | Err(ClaimError::NotAttached | ClaimError::LeaseEnded(_)) => {}
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
    let lost: u64 = consumer.stats().drops().map(|(_, count)| count).sum();
    println!("{seen} frames of {FRAME_BYTES} bytes were as they should be, {lost} were lost");
    if seen < wanted {
        eprintln!("asked to end before {wanted} frames");
        std::process::exit(ASKED_TO_END);
    }
    Ok(())
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

fn check(bytes: &[u8]) {
    let head: [u8; 8] = bytes[..8].try_into().expect("eight bytes");
    let number = u64::from_le_bytes(head);
    let expected = frame(number);
    assert_eq!(bytes.len(), expected.len(), "frame {number}");
    let wrong = bytes.iter().zip(&expected).position(|(is, was)| is != was);
    assert_eq!(wrong, None, "frame {number}: the first wrong byte");
}

/// What the regions are made of, as the kernel says.
fn pages() -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(".pool"));
    let size = lines.find_map(|line| line.strip_prefix("KernelPageSize:"));
    format!("pages of {}", size.unwrap_or("unknown size").trim())
}
