//! Memory that is scarce, full, locked, or made of hugepages.

mod support;

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use support::raw::Raw;
use support::{Driver, Mount, Options, Place, facility, wait_until};
use tensorpool_client::{ClientOptions, Consumer, Producer};
use tensorpool_wire::{LeaseRevokeReason, ResponseCode, Role};

const CAMERA: u32 = 10_000;
const MIB: u64 = 1 << 20;

/// One epoch is 16 slots of 64 KiB: 1 MiB, and three pages for ring and superblocks.
const SMALL: (u32, u32) = (16, 65_536);
const EPOCH_BYTES: u64 = MIB + 3 * 4096;

fn on_mount(mount: &Mount) -> Options {
    Options {
        base_dir: Some(mount.path().join("pool")),
        small: SMALL,
        ..Options::default()
    }
}

/// Restarts a producer so many times and returns its epochs.
fn restart_producer(place: &Place, times: u32) -> Vec<u64> {
    (0..times)
        .map(|_| {
            // A producer that was killed: its connection closes, nothing is said.
            let mut client = Raw::socket(&place.socket());
            client.lease(Role::Producer, CAMERA, 7).epoch()
        })
        .collect()
}

fn assert_rising(epochs: &[u64]) {
    assert!(
        epochs.windows(2).all(|pair| pair[0] < pair[1]),
        "{epochs:?}"
    );
}

#[test]
fn memory_for_three_epochs_lasts_for_a_hundred_producer_restarts_and_one_of_the_driver() {
    // spec: D-6-1, D-7-1, GC-1, D-10-2
    let Some(mount) = Mount::tmpfs(3 * EPOCH_BYTES + 64 * 1024) else {
        return;
    };
    let place = Place::new(on_mount(&mount));
    let mut driver = Driver::start(&place);
    let mut epochs = restart_producer(&place, 50);
    assert!(
        driver
            .log()
            .contains("memory for three epochs of each stream is there")
    );
    driver.kill();

    let mut driver = Driver::start(&place);
    epochs.extend(restart_producer(&place, 50));
    assert_rising(&epochs);
    assert_eq!(
        driver.metric("tensorpool_driver_epochs_failed_total"),
        Some(0.0)
    );
    assert!(
        !driver.log().contains("could not be made"),
        "{}",
        driver.log()
    );
}

#[test]
fn memory_for_three_epochs_lasts_for_restarts_that_a_consumer_follows() {
    // spec: D-6-1, X-2-67
    let Some(mount) = Mount::tmpfs(3 * EPOCH_BYTES + 64 * 1024) else {
        return;
    };
    let place = Place::new(on_mount(&mount));
    let driver = Driver::start(&place);
    let stop = AtomicBool::new(false);
    let consumer = Consumer::builder(CAMERA)
        .client_options(options_of(&place))
        .build();
    let mut consumer = consumer.expect("the consumer attaches");
    std::thread::scope(|scope| {
        let until_here = Stops(&stop);
        let reading = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let frame = consumer.wait(Duration::from_millis(1));
                frame.expect("the consumer's own lease holds");
            }
            consumer.stats().delivered
        });
        for n in 0..60 {
            let producer = Producer::builder(CAMERA)
                .client_options(options_of(&place))
                .build();
            let mut producer = producer.expect("there is memory for it");
            // Every third producer ends without a frame.
            for _ in 0..n % 3 {
                producer.publish(&[1; 60_000]).expect("attached");
            }
        }
        drop(until_here);
        assert!(reading.join().expect("no panic") > 0);
    });
    assert_eq!(
        driver.metric("tensorpool_driver_epochs_failed_total"),
        Some(0.0)
    );
}

/// Stops a thread at the end of a scope, also of one that panics.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn options_of(place: &Place) -> ClientOptions {
    ClientOptions {
        socket: Some(place.socket()),
        allowed_base_dirs: vec![place.base_dir()],
        ..ClientOptions::default()
    }
}

#[test]
fn memory_for_two_epochs_is_said_at_start_and_every_restart_still_succeeds() {
    // spec: GC-2, D-4.6-1
    let Some(mount) = Mount::tmpfs(2 * EPOCH_BYTES + 64 * 1024) else {
        return;
    };
    let place = Place::new(on_mount(&mount));
    let mut driver = Driver::start(&place);
    assert!(
        driver
            .log()
            .contains("memory for three epochs of each stream is NOT there")
    );
    assert_rising(&restart_producer(&place, 20));
    driver.wait_for_line("old epochs make room", |line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("too little memory for another epoch"))
    });
    let reclaims = driver.metric("tensorpool_driver_space_reclaims_total");
    assert!(reclaims.is_some_and(|count| count > 0.0), "{reclaims:?}");
}

#[test]
fn a_full_mount_refuses_with_numbers_leaves_nothing_behind_and_recovers() {
    // spec: D-4.6-1, GC-2, W-15.14-1
    let Some(mount) = Mount::tmpfs(2 * MIB) else {
        return;
    };
    let filler = mount.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 65_536]).is_ok() {}
    drop(file);
    let place = Place::new(on_mount(&mount));
    let driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let (refused, fds) = client.attach(Role::Producer, CAMERA, 7);
    assert_eq!(refused.code, ResponseCode::InternalError);
    assert!(
        refused.error_message.contains("bytes needed")
            && refused.error_message.contains("bytes free"),
        "{}",
        refused.error_message
    );
    assert_eq!(fds.len(), 0);
    assert_eq!(place.epochs(), [0_u64; 0]);
    let doc = driver.stream(CAMERA);
    let said = doc["error"].as_str().expect("the failure is in the status");
    assert!(refused.error_message.ends_with(said), "{doc}");
    assert_eq!(doc["epoch"], serde_json::Value::Null);

    std::fs::remove_file(filler).unwrap();
    let lease = client.lease(Role::Producer, CAMERA, 8);
    assert_eq!(driver.stream(CAMERA)["epoch"], lease.epoch());
}

#[test]
fn a_hostile_producer_that_truncates_its_file_is_revoked_and_the_driver_lives() {
    // spec: X-1-29, X-1-30
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut watcher = Raw::socket(&place.socket());
    watcher.lease(Role::Consumer, CAMERA, 8);
    let mut hostile = Raw::socket(&place.socket());
    let lease = hostile.lease(Role::Producer, CAMERA, 7);
    for file in &lease.fds {
        ftruncate(file.as_fd(), 0).unwrap();
    }
    let revoked = hostile.revoked(lease.lease_id);
    assert_eq!(revoked.reason, LeaseRevokeReason::Revoked);
    let announce = watcher.announce_above(CAMERA, lease.epoch());
    assert_eq!(announce.producer_id.get(), 0);
    let mut next = Raw::socket(&place.socket());
    let next = next.lease(Role::Producer, CAMERA, 9);
    assert!(next.epoch() > lease.epoch());
    assert_eq!(driver.get("/livez").0, 200);
}

#[test]
fn a_producer_that_makes_its_file_longer_is_revoked_and_the_file_is_cut_back() {
    // spec: X-1-31
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut watcher = Raw::socket(&place.socket());
    watcher.lease(Role::Consumer, CAMERA, 8);
    let mut hostile = Raw::socket(&place.socket());
    let lease = hostile.lease(Role::Producer, CAMERA, 7);
    let ring = lease.fds[0].as_fd();
    let made = fstat(ring).unwrap().st_size;
    ftruncate(ring, u64::try_from(made).unwrap() + 64 * MIB).unwrap();
    let revoked = hostile.revoked(lease.lease_id);
    assert_eq!(revoked.reason, LeaseRevokeReason::Revoked);
    assert_eq!(
        revoked.error_message,
        "region was made longer than it may be"
    );
    assert_eq!(fstat(ring).unwrap().st_size, made);
    watcher.announce_above(CAMERA, lease.epoch());
    assert_eq!(driver.get("/livez").0, 200);
}

#[test]
fn a_producer_that_punches_a_hole_where_nobody_looks_is_revoked_all_the_same() {
    // spec: X-1-31
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let mut hostile = Raw::socket(&place.socket());
    let lease = hostile.lease(Role::Producer, CAMERA, 7);
    let pool = lease.fds[1].as_fd();
    let end = u64::try_from(fstat(pool).unwrap().st_size).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(pool, hole, end / 2, end / 2).unwrap();
    let revoked = hostile.revoked(lease.lease_id);
    assert_eq!(revoked.error_message, "region lost its pages");
}

#[test]
fn a_hole_where_the_driver_itself_writes_is_seen_before_it_does() {
    // spec: X-1-31
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let mut hostile = Raw::socket(&place.socket());
    let lease = hostile.lease(Role::Producer, CAMERA, 7);
    // The page of the superblock; of huge pages a small file has no other.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(lease.fds[1].as_fd(), hole, 0, 4_096).unwrap();
    let revoked = hostile.revoked(lease.lease_id);
    assert_eq!(revoked.error_message, "region lost its pages");
}

#[test]
fn memory_that_cannot_be_locked_ends_the_driver_and_says_what_to_do() {
    // spec: D-17-5
    let place = Place::new(Options::default());
    let text = std::fs::read_to_string(place.config()).unwrap();
    let locked = text.replace("[policies]", "[policies]\nmlock_shm = true");
    std::fs::write(place.config(), locked).unwrap();
    let mut driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    if rustix::process::geteuid().is_root() {
        // Root may lock what it likes: the pages are locked.
        client.lease(Role::Consumer, CAMERA, 7);
        let status = std::fs::read_to_string(format!("/proc/{}/status", driver.pid())).unwrap();
        let locked = status
            .lines()
            .find(|line| line.starts_with("VmLck:"))
            .unwrap();
        assert!(!locked.contains(" 0 kB"), "{locked}");
        return;
    }
    let missing = getrlimit_memlock_is_large().then(|| "the limit of locked memory is high".into());
    if !facility("a low limit of locked memory", missing) {
        return;
    }
    client.request_attach(Role::Consumer, CAMERA, 7);
    driver.wait_for("memory cannot be locked; ending");
    assert_eq!(driver.wait().code(), Some(1));
}

fn getrlimit_memlock_is_large() -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    limit.current.is_none_or(|bytes| bytes > 64 * 1024)
}

#[test]
fn hugepages_asked_for_but_absent_refuse_the_start_and_the_attach() {
    // spec: D-4.3-3, W-15.22-4
    let place = Place::new(Options::default());
    let text = std::fs::read_to_string(place.config()).unwrap();
    let wants = text.replace("[shm]", "[shm]\nrequire_hugepages = true");
    std::fs::write(place.config(), wants).unwrap();
    let mut driver = Driver::spawn(&place);
    assert_eq!(driver.wait().code(), Some(1));
    let log = driver.log();
    assert!(
        log.contains("hugepages are required")
            && log.contains("tmpfs; mount a hugetlbfs there, name a directory on one"),
        "{log}"
    );

    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let answer = client.attach_with_hugepages(Role::Consumer, CAMERA, 7);
    assert_eq!(answer.code, ResponseCode::Rejected);
    assert_eq!(answer.error_message, "hugepages not available");
}

#[test]
fn a_directory_that_cannot_be_made_is_named_with_the_key_that_asks_for_it() {
    let place = Place::new(Options::default());
    std::fs::write(place.state_dir(), "a file").expect("nothing is there yet");
    let mut driver = Driver::spawn(&place);
    assert_eq!(driver.wait().code(), Some(1));
    let log = driver.log();
    assert!(
        log.contains("driver.state_dir must name one that can be made or is there"),
        "{log}"
    );
}

#[test]
fn hugepages_of_a_mount_without_a_size_are_those_that_the_kernel_has() {
    // Nothing is mounted where the pages are missing.
    if Mount::hugetlbfs(16).is_none() {
        return;
    }
    let mounts = [
        Mount::new("hugepages", "hugetlbfs", "pagesize=2M"),
        Mount::new("tmpfs", "tmpfs", "size=0"),
    ];
    for (mount, free) in mounts.into_iter().flatten().zip([" free, ", "no limit, "]) {
        let place = Place::new(on_mount(&mount));
        let driver = Driver::start(&place);
        let checked = driver.command(&["--check-config"]);
        let printed = String::from_utf8(checked.stdout).unwrap();
        assert!(printed.contains("usable: enough"), "{printed}");
        assert!(printed.contains(free), "{printed}");
    }
}

#[test]
fn hugepages_present_hold_whole_pages_and_are_announced_as_such() {
    // spec: W-15.22-4, W-15.22-1, D-4.3-3
    let Some(mount) = Mount::hugetlbfs(16) else {
        return;
    };
    let place = Place::new(on_mount(&mount));
    let text = std::fs::read_to_string(place.config()).unwrap();
    let wants = text.replace(
        "[shm]",
        "[shm]\nrequire_hugepages = true\npage_size_bytes = 2097152",
    );
    std::fs::write(place.config(), wants).unwrap();
    let driver = Driver::start(&place);
    let checked = driver.command(&["--check-config"]);
    let printed = String::from_utf8(checked.stdout).unwrap();
    // Ring and pool take one page each, whatever their lengths.
    assert!(
        printed.contains("4.0 MiB per epoch, 12.0 MiB for 3 epochs"),
        "{printed}"
    );
    assert!(printed.contains("huge pages of 2.0 MiB"), "{printed}");

    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Producer, CAMERA, 7);
    let uri = &lease.response.header_region_uri;
    let path = uri
        .strip_prefix("shm:file?path=")
        .and_then(|rest| rest.strip_suffix("|require_hugepages=true"))
        .expect("the URI asks for hugepages");
    assert_eq!(std::fs::metadata(path).unwrap().len(), 2 * MIB);
    assert_eq!(driver.stream(CAMERA)["memory_bytes"], 4 * MIB);
    drop(client);
    wait_until("the epoch after the producer", || {
        let epoch = driver.stream(CAMERA)["epoch"].as_u64();
        (epoch > Some(lease.epoch()))
            .then_some(())
            .ok_or_else(|| format!("{epoch:?}"))
    });
}
