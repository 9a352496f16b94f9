//! As many connections as a pod likes to make.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tensorpool_transport::socket::packet::{self, MAX_PACKET_LEN};

use crate::Failure;

/// When no more are ended for so long, the driver has seen all. Below the five seconds that it waits for
/// an attach.
const QUIET: Duration = Duration::from_secs(2);
/// After this the driver should have ended them all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens so many and holds them, until the driver has ended all.
pub(crate) fn held(socket: &Path, count: &str) -> Result<(), Failure> {
    let count: usize = count.parse()?;
    all_descriptors()?;
    let began = Instant::now();
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        open.push(connect(socket)?);
    }
    let took = began.elapsed().as_millis();
    let mut told = BTreeMap::new();
    let (mut before, mut since) = (open.len(), Instant::now());
    while since.elapsed() < QUIET {
        sift(&mut open, &mut told)?;
        if open.len() < before {
            (before, since) = (open.len(), Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = count - open.len();
    println!(
        "{count} connects in {took} ms: {} stayed open, {ended} were ended at once",
        open.len()
    );
    say(&mut told);
    while !open.is_empty() {
        if began.elapsed() > PATIENCE {
            return Err(format!("{} are open still", open.len()).into());
        }
        sift(&mut open, &mut told)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("none is open after {} ms", began.elapsed().as_millis());
    say(&mut told);
    Ok(())
}

/// Opens so many, and closes each at once.
pub(crate) fn churn(socket: &Path, count: &str) -> Result<(), Failure> {
    let count: usize = count.parse()?;
    let began = Instant::now();
    for _ in 0..count {
        drop(connect(socket)?);
    }
    let took = began.elapsed().as_millis();
    println!("{count} connects, each closed at once, in {took} ms");
    Ok(())
}

/// Waits until the driver's queue has room.
fn connect(socket: &Path) -> Result<OwnedFd, Failure> {
    let flags = SocketFlags::CLOEXEC;
    let ours = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&ours, &SocketAddrUnix::new(socket)?)?;
    Ok(ours)
}

/// Lets go of those that the driver has ended, and keeps what they were told.
fn sift(open: &mut Vec<OwnedFd>, told: &mut BTreeMap<String, u64>) -> Result<(), Failure> {
    let mut room = vec![0; MAX_PACKET_LEN];
    let mut failed = None;
    open.retain(|socket| {
        loop {
            match rustix::net::recv(socket, &mut room[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return false,
                Ok((_, length)) => {
                    let body = packet::parse(&room[..length]).map_or(&[][..], |(_, body)| body);
                    let words = String::from_utf8_lossy(body).into_owned();
                    *told.entry(words).or_default() += 1;
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::CONNRESET) => {}
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            }
        }
    });
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn say(told: &mut BTreeMap<String, u64>) {
    for (words, count) in std::mem::take(told) {
        println!("{count} were told `{words}`");
    }
}

fn all_descriptors() -> Result<(), Failure> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(())
}
