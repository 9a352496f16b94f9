//! What a producer can do to the files of its own stream, through the descriptors that it rightly got.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use tensorpool_shm::{MapOptions, RegionSource, StreamLayout, WriteMapping};
use tensorpool_wire::{
    Dtype, LogicalStream, MajorOrder, Message, PoolStride, Role, Seq, ShmAttachResponse,
    SlotHeader, TensorHeader,
};

use crate::Failure;
use crate::line::{Lease, Line, random_client};

/// Frames before the damage, so that consumers are reading.
const FRAMES: u64 = 100;
/// Between two of them.
const PERIOD: Duration = Duration::from_millis(5);
const FRAME: u32 = 64;
/// Between two signs of life.
const ALIVE_EVERY: Duration = Duration::from_millis(300);
/// After this the driver should have noticed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that a file is made longer by: a huge page.
const PAGE: u64 = 2 << 20;

pub(crate) fn run(socket: &Path, what: &str) -> Result<(), Failure> {
    let mut line = Line::connect(socket)?;
    let (stream, client) = (line.stream()?, random_client());
    let (answer, files) = line.ask(Role::Producer, stream, client)?;
    if files.is_empty() {
        return Err(answer.error_message.into());
    }
    let epoch = answer.epoch.ok_or("no epoch")?;
    let copies = files
        .iter()
        .map(OwnedFd::try_clone)
        .collect::<Result<Vec<_>, _>>()?;
    publish(&answer, copies)?;
    let done: Vec<String> = files
        .iter()
        .map(|file| match damage(file, what) {
            Ok(()) => "done".to_owned(),
            Err(error) => error.to_string(),
        })
        .collect();
    println!("{what}: {} on the files of epoch {epoch}", done.join(", "));
    let began = Instant::now();
    let lease = Lease {
        role: Role::Producer,
        client,
        response: answer,
    };
    let words = end_of(&mut line, &lease)?;
    let after = began.elapsed().as_millis();
    println!("{what}: told `{words}` after {after} ms");
    // What is left open keeps the memory of a removed epoch.
    drop(files);
    // The connection stands.
    line.stream().map(drop)
}

/// Waits for the end of a lease that is kept alive.
fn end_of(line: &mut Line, lease: &Lease) -> Result<String, Failure> {
    let limit = Instant::now() + PATIENCE;
    while Instant::now() < limit {
        line.send(LogicalStream::Control, lease.keepalive()?)?;
        line.until(PollFlags::IN, ALIVE_EVERY)?;
        line.read();
        for (message, _) in line.take_heard() {
            if let Message::ShmLeaseRevoked(revoked) = message {
                return Ok(revoked.error_message);
            }
        }
    }
    Err("the lease goes on".into())
}

fn damage(file: &OwnedFd, what: &str) -> Result<(), Failure> {
    let length = u64::try_from(fstat(file)?.st_size)?;
    match what {
        "empty" => ftruncate(file, 0)?,
        "punch" => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, flags, 0, length)?;
        }
        "grow" => ftruncate(file, length.next_multiple_of(PAGE) + PAGE)?,
        other => return Err(format!("there is no damage {other}").into()),
    }
    Ok(())
}

fn publish(answer: &ShmAttachResponse, files: Vec<OwnedFd>) -> Result<(), Failure> {
    let pools = answer.payload_pools.iter().map(|pool| PoolStride {
        pool_id: pool.pool_id,
        stride_bytes: pool.stride_bytes,
    });
    let layout = StreamLayout::new(
        answer.stream_id.ok_or("no stream")?,
        answer.epoch.ok_or("no epoch")?,
        answer.header_nslots.ok_or("no slots")?,
        pools.collect(),
    )?;
    let slots = u64::from(layout.nslots());
    let pool = answer.payload_pools.first().ok_or("no pool")?.pool_id;
    let sources = files.into_iter().map(|file| RegionSource::File {
        file,
        require_hugepages: false,
    });
    let mut mapping = WriteMapping::map(layout, sources.collect(), MapOptions::default())?;
    for seq in 0..FRAMES {
        let header = SlotHeader {
            seq: Seq(seq),
            values_len_bytes: FRAME,
            payload_slot: u32::try_from(seq & (slots - 1))?,
            pool_id: pool,
            payload_offset: 0,
            timestamp_ns: None,
            meta_version: None,
            tensor: TensorHeader::contiguous(Dtype::Uint8, MajorOrder::Row, &[FRAME])?,
        };
        let mut slot = mapping.begin(Seq(seq), 0)?;
        slot.payload().write_at(0, &[7; 64])?;
        slot.commit(&header.encode());
        std::thread::sleep(PERIOD);
    }
    Ok(())
}
