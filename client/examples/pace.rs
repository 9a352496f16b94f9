//! How long frames take between two processes: `pace ask CORE` beside `pace answer CORE`.
//!
//! Each runs on a core of its own and both take the same orders, one a line, from standard input; between
//! two orders they block there. Streams: `there` and `back` for frames of 64 bytes, `bulk` for frames of
//! 1 MiB. Every byte that arrives is compared.
//!
//! - `trips N`: N frames there, one by one, and one back for each; `ask` says the nanoseconds of each.
//! - `bulk N`: N large frames, 8 of them at most written and not yet compared; `ask` says for each frame
//!   the nanoseconds from the answer to the one before.
//! - `lost`: the frames that did not arrive since the beginning.
//! - `anew`: leaves all three streams and attaches again, with other buffers: which physical pages memory
//!   has decides how long a large copy takes, so one placement says little.
//!
//! An order is obeyed once the process is attached: an answer of both to `lost` says that frames may begin.
use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use tensorpool_client::{Client, ClientOptions, Consumer, Producer, Report, Start, TensorSpec};

/// Bytes of a frame of `there` and `back`.
const SMALL: usize = 64;
/// Bytes of a frame of `bulk`.
const LARGE: usize = 1 << 20;
/// Large frames that are written and not yet compared; `bulk` has more slots.
const OUTSTANDING: u64 = 8;
/// Large frames are so many different ones, more than `bulk` has slots.
const SHIFTS: u64 = 64;
/// Buffers of so many placements are kept.
const FORMER: usize = 8;
/// The streams, the driver and the other process may need their time at first.
const PATIENCE: Duration = Duration::from_secs(120);
/// A frame that takes longer is lost.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Report> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (core, role) = match words[..] {
        ["ask", core] => (core, Role::Ask),
        ["answer", core] => (core, Role::Answer),
        _ => {
            eprintln!("usage: pace ask CORE | pace answer CORE");
            std::process::exit(2)
        }
    };
    let mut cores = CpuSet::new();
    cores.set(core.parse()?);
    // Before the client has its thread, which inherits the core.
    sched_setaffinity(None, &cores)?;
    let mut side = Side::new(role)?;
    for order in io::stdin().lock().lines() {
        let order = order?;
        let words: Vec<&str> = order.split_whitespace().collect();
        let said = match words[..] {
            ["trips", count] => side.trips(count.parse()?)?,
            ["bulk", count] => side.bulk(count.parse()?)?,
            ["lost"] => vec![side.lost()],
            ["anew"] => {
                side = side.anew()?;
                Vec::new()
            }
            _ => return Err(io::Error::other(format!("there is no order `{order}`")).into()),
        };
        let said: Vec<String> = said.iter().map(u64::to_string).collect();
        println!("{order}: {}", said.join(" "));
    }
    Ok(())
}

/// Which of the two processes this is.
#[derive(Clone, Copy)]
enum Role {
    Ask,
    Answer,
}

/// What it has.
struct Side {
    role: Role,
    producer: Producer,
    consumer: Consumer,
    bulk: Bulk,
    small: TensorSpec,
    large: TensorSpec,
    /// What large frames are cut from, and where they are copied to.
    pattern: Vec<u8>,
    copy: Vec<u8>,
    /// Of the next frame of `there` and `back`, and of the next one of `bulk`.
    numbers: [u64; 2],
    /// Frames that did not arrive before it attached anew.
    lost_before: u64,
    /// Buffers of before: the kernel would give the same pages again.
    former: VecDeque<[Vec<u8>; 2]>,
}

enum Bulk {
    Out(Box<Producer>),
    In(Box<Consumer>),
}

impl Side {
    fn new(role: Role) -> Result<Self, Report> {
        let client = &Client::new(ClientOptions::default())?;
        let longest = LARGE + usize::try_from(SHIFTS)? * SMALL;
        let (send, receive, bulk) = match role {
            Role::Ask => {
                let bulk = Bulk::Out(producer(client, "bulk")?.into());
                ("there", "back", bulk)
            }
            Role::Answer => {
                let bulk = Bulk::In(consumer(client, "bulk")?.into());
                ("back", "there", bulk)
            }
        };
        Ok(Self {
            role,
            producer: producer(client, send)?,
            consumer: consumer(client, receive)?,
            bulk,
            small: TensorSpec::bytes(SMALL)?,
            large: TensorSpec::bytes(LARGE)?,
            pattern: (0..).flat_map(small_frame).take(longest).collect(),
            copy: vec![0; LARGE],
            numbers: [0; 2],
            lost_before: 0,
            former: VecDeque::new(),
        })
    }

    fn anew(mut self) -> Result<Self, Report> {
        let lost_before = self.lost();
        // A stream has one producer: this one makes room.
        drop((self.producer, self.consumer, self.bulk));
        self.former.push_back([self.pattern, self.copy]);
        if self.former.len() > FORMER {
            self.former.pop_front();
        }
        Ok(Self {
            numbers: self.numbers,
            lost_before,
            former: self.former,
            ..Self::new(self.role)?
        })
    }

    /// The nanoseconds of each trip; nothing on the side that answers.
    fn trips(&mut self, count: usize) -> Result<Vec<u64>, Report> {
        let mut nanos = Vec::with_capacity(count);
        for _ in 0..count {
            match self.bulk {
                Bulk::Out(_) => {
                    let begun = Instant::now();
                    self.send()?;
                    self.receive()?;
                    nanos.push(u64::try_from(begun.elapsed().as_nanos())?);
                }
                Bulk::In(_) => {
                    self.receive()?;
                    self.send()?;
                }
            }
            self.numbers[0] += 1;
        }
        Ok(nanos)
    }

    /// The nanoseconds from answer to answer; nothing on the side that answers.
    fn bulk(&mut self, count: u64) -> Result<Vec<u64>, Report> {
        let mut answers = Answers {
            nanos: Vec::with_capacity(usize::try_from(count)?),
            last: Instant::now(),
        };
        for sent in 0..count {
            let at = usize::try_from(self.numbers[1] % SHIFTS)? * SMALL;
            let frame = &self.pattern[at..at + LARGE];
            match &mut self.bulk {
                Bulk::Out(producer) => {
                    producer.publish_tensor(&self.large, frame)?;
                    if sent + 1 >= OUTSTANDING {
                        self.be_answered(&mut answers)?;
                    }
                }
                Bulk::In(consumer) => {
                    next(consumer, &mut self.copy)?;
                    check(&self.copy, frame, self.numbers[1])?;
                    self.send()?;
                    self.numbers[0] += 1;
                }
            }
            self.numbers[1] += 1;
        }
        if let Bulk::Out(_) = self.bulk {
            for _ in 0..count.min(OUTSTANDING - 1) {
                self.be_answered(&mut answers)?;
            }
        }
        Ok(answers.nanos)
    }

    fn lost(&self) -> u64 {
        let of = |consumer: &Consumer| {
            consumer
                .stats()
                .drops()
                .map(|(_, count)| count)
                .sum::<u64>()
        };
        let now = match &self.bulk {
            Bulk::Out(_) => of(&self.consumer),
            Bulk::In(bulk) => of(&self.consumer) + of(bulk),
        };
        self.lost_before + now
    }

    fn send(&mut self) -> Result<(), Report> {
        let frame = small_frame(self.numbers[0]);
        self.producer.publish_tensor(&self.small, &frame)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Report> {
        let mut copy = [0; SMALL];
        next(&mut self.consumer, &mut copy)?;
        check(&copy, &small_frame(self.numbers[0]), self.numbers[0])
    }

    fn be_answered(&mut self, answers: &mut Answers) -> Result<(), Report> {
        self.receive()?;
        self.numbers[0] += 1;
        let now = Instant::now();
        let nanos = now.duration_since(answers.last).as_nanos();
        answers.nanos.push(u64::try_from(nanos)?);
        answers.last = now;
        Ok(())
    }
}

/// When large frames were answered.
struct Answers {
    nanos: Vec<u64>,
    last: Instant,
}

fn producer(client: &Client, stream: &str) -> Result<Producer, Report> {
    let builder = Producer::builder(stream).client(client);
    Ok(builder.timeout(PATIENCE).patient().build()?)
}

fn consumer(client: &Client, stream: &str) -> Result<Consumer, Report> {
    let builder = Consumer::builder(stream).client(client).from(Start::Next);
    let mut consumer = builder.timeout(PATIENCE).patient().build()?;
    // Where it begins is decided by its first look: whatever is sent from now on is seen.
    consumer.next()?;
    Ok(consumer)
}

/// Spins until a frame is there, and copies it.
fn next(consumer: &mut Consumer, copy: &mut [u8]) -> Result<(), Report> {
    let (mut spins, mut since) = (0_u32, None);
    loop {
        if let Some(frame) = consumer.next()? {
            frame.copy_to(copy)?;
            return Ok(());
        }
        std::hint::spin_loop();
        spins = spins.wrapping_add(1);
        // Rarely: the clock would be part of what is measured.
        if spins.is_multiple_of(1 << 16) && since.get_or_insert_with(Instant::now).elapsed() > LIMIT
        {
            return Err(io::Error::other(format!("no frame for {LIMIT:?}")).into());
        }
    }
}

/// Eight words that follow from a number.
fn small_frame(number: u64) -> [u8; SMALL] {
    let mut frame = [0; SMALL];
    for (word, place) in frame.chunks_exact_mut(8).zip(1_u64..) {
        let value = (number ^ (place << 56)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word.copy_from_slice(&value.to_le_bytes());
    }
    frame
}

fn check(found: &[u8], wanted: &[u8], number: u64) -> Result<(), Report> {
    // Not with `==`, for which a static libc looks at one byte after the other: that would be most of
    // what is measured.
    let (blocks, others) = (found.as_chunks::<SMALL>().0, wanted.as_chunks::<SMALL>().0);
    let differ = |(is, was): (&[u8; SMALL], &[u8; SMALL])| {
        let bits = is.iter().zip(was).fold(0, |bits, (a, b)| bits | (a ^ b));
        bits != 0
    };
    match blocks.iter().zip(others).position(differ) {
        None => Ok(()),
        Some(block) => {
            let place = block * SMALL;
            Err(io::Error::other(format!("frame {number} differs after byte {place}")).into())
        }
    }
}
