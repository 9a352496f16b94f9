//! A producer process that writes as fast as it can, and a consumer process that checks every word.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tensorpool_shm::{AllowedBases, Look, MapOptions, RegionSource, Start, WriteMapping};
use tensorpool_wire::{Epoch, MonoNanos, Seq};

use super::{EPOCH, Stream, header, layout};

/// Two slots, so that the producer is always about to overwrite what is being read.
pub(crate) const NSLOTS: u32 = 2;
pub(crate) const STRIDE: u32 = 2048;
const PAYLOAD: usize = 2048;
const FRAMES: u64 = 1_050_000;
/// Set in the producer's process: the epoch's directory, and the allowed base.
const DIRECTORY: &str = "TENSORPOOL_HAMMER_DIRECTORY";

/// What the consumer saw.
#[derive(Debug, Default)]
struct Seen {
    accepted: u64,
    /// Copies that were refused because the slot had changed.
    refused: u64,
    /// Refused copies that mixed two frames: what a missing check would have delivered.
    mixed: u64,
    /// Frames that were counted as lost by the cursor.
    lost: u64,
}

/// Runs the producer if this is its process. Call it first; `true` means that the test is done.
pub(crate) fn is_producer() -> bool {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return false;
    };
    produce(&PathBuf::from(directory));
    true
}

/// Runs `test` of this binary again as the producer of `stream`, and checks everything it writes.
pub(crate) fn run(test: &str, stream: &Stream) {
    let mut cursor = stream.reader.start(Start::First);
    let mut producer = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture"])
        .env(DIRECTORY, stream.epoch.directory())
        .spawn()
        .expect("a producer process");
    let mut seen = Seen::default();
    let (mut bytes, mut expected) = (vec![0; PAYLOAD], vec![0; PAYLOAD]);
    let mut last = None;
    while last != Some(FRAMES - 1) {
        match stream.reader.poll(&mut cursor).expect("a living ring") {
            Look::Empty => must_live(&mut producer, &stream.reader.newest()),
            Look::Skipped(skip) => seen.lost += skip.lost(),
            Look::Frame(snapshot) => {
                let seq = snapshot.seq.get();
                assert!(last < Some(seq), "frame {seq} after {last:?}");
                last = Some(seq);
                let slot = stream.reader.parse(&snapshot).expect("a whole header");
                assert_eq!(slot.timestamp_ns, Some(MonoNanos(seq + 1)), "torn header");
                let payload = stream.reader.payload(&slot).expect("a payload");
                if payload.copy_to(&mut bytes).is_ok() {
                    fill(&mut expected, f(seq).to_le_bytes());
                    assert!(bytes == expected, "torn payload of frame {seq}");
                    seen.accepted += 1;
                } else {
                    fill(&mut expected, bytes[..8].try_into().expect("a word"));
                    seen.refused += 1;
                    seen.mixed += u64::from(bytes != expected);
                }
            }
        }
    }
    assert!(producer.wait().expect("the producer's end").success());
    println!("{FRAMES} frames: {seen:?}");
    assert_eq!(
        seen.accepted + seen.refused + seen.lost,
        FRAMES,
        "every frame is accounted for"
    );
    // Without these the test would prove nothing.
    assert!(seen.accepted > 10, "hardly anything was read: {seen:?}");
    assert!(seen.refused > 0, "no overwrite was ever detected: {seen:?}");
    assert!(seen.mixed > 0, "no copy was ever caught half-way: {seen:?}");
}

/// Ends the test if the producer died before its last frame.
fn must_live(producer: &mut Child, newest: &Seq) {
    if newest.get() < FRAMES - u64::from(NSLOTS) && newest.get().is_multiple_of(1024) {
        let ended = producer.try_wait().expect("the producer's state");
        assert!(
            ended.is_none_or(|status| status.success()),
            "the producer died: {ended:?}"
        );
    }
}

fn produce(directory: &Path) {
    let layout = layout(Epoch(EPOCH.get()), NSLOTS, &[STRIDE]);
    let bases = AllowedBases::new([directory]).expect("an allowed base");
    let region = |name: &str| {
        let uri = bases.validate_path(&directory.join(name), false);
        RegionSource::Path(uri.expect("a contained path"))
    };
    let from = vec![region("header.ring"), region("1.pool")];
    let mut writer =
        WriteMapping::map(layout.clone(), from, MapOptions::default()).expect("a writer");
    let mut headers = [header(&layout, 0, 0, STRIDE), header(&layout, 1, 0, STRIDE)];
    let mut payload = vec![0; PAYLOAD];
    for seq in 0..FRAMES {
        fill(&mut payload, f(seq).to_le_bytes());
        let header = &mut headers[usize::from(!seq.is_multiple_of(2))];
        header[22..30].copy_from_slice(&(seq + 1).to_le_bytes());
        let mut slot = writer.begin(Seq(seq), 0).expect("a slot");
        slot.payload()
            .write_at(0, &payload)
            .expect("a payload that fits");
        slot.commit(header);
    }
}

/// What every word of frame `seq` holds.
fn f(seq: u64) -> u64 {
    (seq + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Repeats one word over the whole payload, by doubling: quick without optimisation too.
fn fill(payload: &mut [u8], word: [u8; 8]) {
    payload[..8].copy_from_slice(&word);
    let mut filled = 8;
    while filled < payload.len() {
        let more = filled.min(payload.len() - filled);
        payload.copy_within(..more, filled);
        filled += more;
    }
}
