//! Epochs on disk: made whole or not at all, listed, removed, never reused.

mod harness;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use harness::{CREATOR, EPOCH, STREAM, layout, options, store, tree};
use tempfile::TempDir;
use tensorpool_shm::{
    Access, CreateOptions, Filesystem, MapOptions, Permissions, StoreError, StoreOptions,
};
use tensorpool_wire::{Epoch, MonoNanos, RegionType, ShmUri, StreamId, Superblock};

fn base() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs")
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .expect("metadata")
        .permissions()
        .mode()
        & 0o7777
}

// spec: W-15.21a-1 W-15.21a-3 W-15.21a-4 D-15-1
#[test]
fn an_epoch_lies_in_the_canonical_layout() {
    let base = base();
    let store = store(base.path());
    store
        .create(layout(EPOCH, 4, &[64, 128]), CREATOR)
        .expect("an epoch");
    let user = Path::new("tensorpool-tester");
    let epoch = user.join("default/10000/77");
    let expected = [
        user.to_path_buf(),
        user.join("default"),
        user.join("default/10000"),
        epoch.clone(),
        epoch.join("1.pool"),
        epoch.join("2.pool"),
        epoch.join("header.ring"),
    ];
    assert_eq!(tree(base.path()), expected);
}

// spec: W-15.21a-2
#[test]
fn names_cannot_leave_their_directory() {
    let base = base();
    let options = StoreOptions {
        user: Some("../../eve|".to_owned()),
        namespace: "a/../b c".to_owned(),
        ..options(base.path())
    };
    let store = tensorpool_shm::EpochStore::open(options).expect("a store");
    let expected = base.path().join("tensorpool-______eve_/a____b_c");
    assert_eq!(store.path(), expected.canonicalize().expect("a path"));
    let store = tensorpool_shm::EpochStore::open(StoreOptions {
        user: None,
        namespace: String::new(),
        ..harness::options(base.path())
    });
    let named = store.expect("a store").path().to_path_buf();
    assert_eq!(named.file_name().expect("a name"), "_");
    let user = named
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    assert!(user.expect("a user").len() > "tensorpool-".len());
}

// spec: W-6-2 W-7.1-1 W-7.1-2 W-7.1-5 W-8.1-1 W-9-1 W-13-1
#[test]
fn superblocks_say_what_was_created() {
    let base = base();
    let epoch = store(base.path())
        .create(layout(EPOCH, 8, &[64, 4096]), CREATOR)
        .expect("one");
    let expected = [
        (
            "header.ring",
            RegionType::HeaderRing,
            0,
            256,
            0,
            64 + 8 * 256,
        ),
        ("1.pool", RegionType::PayloadPool, 1, 64, 64, 64 + 8 * 64),
        (
            "2.pool",
            RegionType::PayloadPool,
            2,
            4096,
            4096,
            64 + 8 * 4096,
        ),
    ];
    for (name, region_type, pool_id, slot_bytes, stride_bytes, len) in expected {
        let file = File::open(epoch.directory().join(name)).expect("a region");
        assert_eq!(file.metadata().expect("metadata").len(), len);
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, 0).expect("a superblock");
        assert_eq!(bytes[..8], *b"1MHSLPOT");
        let found = Superblock::decode(&bytes).expect("a superblock");
        let superblock = Superblock {
            layout_version: 1,
            epoch: EPOCH,
            stream_id: STREAM,
            region_type,
            pool_id: tensorpool_wire::PoolId(pool_id),
            nslots: 8,
            slot_bytes,
            stride_bytes,
            pid: CREATOR.pid,
            start_timestamp_ns: CREATOR.start,
            activity_timestamp_ns: CREATOR.start,
        };
        assert_eq!(found, superblock);
    }
    let kib = |bytes: u64| bytes.div_ceil(4096) * 4096;
    assert_eq!(
        epoch.bytes(),
        kib(64 + 8 * 256) + kib(64 + 8 * 64) + kib(64 + 8 * 4096)
    );
}

/// A page that is not there yet can fail to come: in a client, that is death.
// spec: W-15.14-1
#[test]
fn every_byte_is_allocated_before_the_epoch_exists() {
    let base = base();
    let options = StoreOptions {
        prefault: false,
        ..options(base.path())
    };
    let store = tensorpool_shm::EpochStore::open(options).expect("a store");
    let epoch = store
        .create(layout(EPOCH, 64, &[65_536]), CREATOR)
        .expect("an epoch");
    for name in ["header.ring", "1.pool"] {
        let file = std::fs::metadata(epoch.directory().join(name)).expect("metadata");
        assert!(file.blocks() * 512 >= file.len(), "{name} has holes");
    }
}

// spec: W-15.10-1 W-15.21a-5
#[test]
fn modes_are_exactly_those_configured_whatever_the_umask() {
    let cases = [
        (
            Permissions::from_mode(0o660, false).expect("a mode"),
            0o660,
            0o2770,
        ),
        (
            Permissions::from_mode(0o600, false).expect("a mode"),
            0o600,
            0o700,
        ),
        (
            Permissions::from_mode(0o640, false).expect("a mode"),
            0o640,
            0o2750,
        ),
        (
            Permissions::from_mode(0o666, true).expect("forced"),
            0o666,
            0o2777,
        ),
        (Permissions::PRIVATE, 0o600, 0o700),
        (Permissions::GROUP, 0o660, 0o2770),
    ];
    for (permissions, file_mode, directory_mode) in cases {
        let base = base();
        let options = StoreOptions {
            permissions,
            ..options(&base.path().join("below"))
        };
        let store = tensorpool_shm::EpochStore::open(options).expect("a store");
        store
            .create(layout(EPOCH, 4, &[64]), CREATOR)
            .expect("an epoch");
        for path in tree(base.path()) {
            let path = base.path().join(path);
            let expected = if path.is_dir() {
                directory_mode
            } else {
                file_mode
            };
            assert_eq!(mode(&path), expected, "{}", path.display());
        }
    }
}

// spec: W-15.21a-5
#[test]
fn one_epoch_may_have_other_modes_than_the_rest_of_its_store() {
    let base = base();
    let options = StoreOptions {
        permissions: Permissions::from_mode(0o644, true).expect("forced"),
        ..options(&base.path().join("below"))
    };
    let store = tensorpool_shm::EpochStore::open(options).expect("a store");
    let next = Epoch(EPOCH.get() + 1);
    store
        .create(layout(EPOCH, 4, &[64]), CREATOR)
        .expect("an epoch");
    let of_a_group = CreateOptions {
        permissions: Permissions::GROUP,
        numa: None,
    };
    store
        .create_with(layout(next, 4, &[64]), CREATOR, of_a_group)
        .expect("another one");
    let ring = |epoch: Epoch| {
        let file = tree(base.path())
            .into_iter()
            .find(|path| path.ends_with(format!("{epoch}/header.ring")));
        mode(&base.path().join(file.expect("a ring")))
    };
    assert_eq!((ring(EPOCH), ring(next)), (0o644, 0o660));
}

// spec: W-15.10-1
#[test]
fn access_for_others_must_be_forced() {
    for mode in [0o664, 0o606, 0o666] {
        let error = Permissions::from_mode(mode, false).expect_err("others");
        assert!(
            matches!(error, StoreError::OtherBits { mode: m } if m == mode),
            "{error}"
        );
    }
    for mode in [0o060, 0o400, 0o770, 0o1660, 0o200] {
        let error = Permissions::from_mode(mode, true).expect_err("unusable");
        assert!(
            matches!(error, StoreError::Mode { .. }),
            "{mode:o}: {error}"
        );
    }
}

// spec: W-15.21a-6 W-15.21a-7 D-4.2-18
#[test]
fn announced_uris_are_absolute_and_real() {
    let base = base();
    let link = base.path().join("link");
    let real = base.path().join("real");
    std::fs::create_dir(&real).expect("a directory");
    symlink(&real, &link).expect("a link");
    let epoch = store(&link)
        .create(layout(EPOCH, 4, &[64]), CREATOR)
        .expect("an epoch");
    let uris: Vec<String> = epoch
        .uris()
        .expect("uris")
        .iter()
        .map(ShmUri::to_string)
        .collect();
    let directory = real.join("tensorpool-tester/default/10000/77");
    let expected = ["header.ring", "1.pool"]
        .map(|name| format!("shm:file?path={}", directory.join(name).display()));
    assert_eq!(uris, expected);
}

#[test]
fn an_epoch_is_never_made_twice() {
    let base = base();
    let store = store(base.path());
    let epoch = store
        .create(layout(EPOCH, 4, &[64]), CREATOR)
        .expect("an epoch");
    epoch.refresh_activity(MonoNanos(9));
    let error = store
        .create(layout(EPOCH, 4, &[64]), CREATOR)
        .expect_err("the same epoch");
    assert_eq!(error.reason(), "exists");
    // The first one was not touched.
    let listed = store.list().expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].activity, Some(MonoNanos(9)));
}

// spec: W-15.21a-15
#[test]
fn epochs_are_listed_with_what_their_collection_needs() {
    let base = base();
    let store = store(base.path());
    assert_eq!(store.list().expect("a list"), []);
    for epoch in [9, 10, 100] {
        store
            .create(layout(Epoch(epoch), 4, &[64]), CREATOR)
            .expect("an epoch");
    }
    // What a driver does not write is not an epoch.
    for name in [
        "10000/007",
        "10000/x",
        "x",
        "4294967296/1",
        "10000/18446744073709551616",
    ] {
        std::fs::create_dir_all(store.path().join(name)).expect("a directory");
    }
    std::fs::write(store.path().join("10000/11"), "").expect("a file");
    // A directory without a complete ring is one that a crash left behind.
    std::fs::create_dir(store.path().join("10000/12")).expect("a directory");
    let listed = store.list().expect("a list");
    let epochs: Vec<u64> = listed.iter().map(|entry| entry.epoch.get()).collect();
    assert_eq!(epochs, [9, 10, 12, 100]);
    assert!(listed.iter().all(|entry| entry.stream_id == STREAM));
    assert_eq!(
        (listed[0].creator, listed[0].activity),
        (Some(CREATOR), Some(CREATOR.start))
    );
    assert_eq!(
        (listed[2].creator, listed[2].activity, listed[2].bytes),
        (None, None, 0)
    );
    assert_eq!(listed[0].bytes, 2 * 4096);
}

// spec: D-3-1
#[test]
fn removing_an_epoch_takes_its_files_and_leaves_its_neighbours() {
    let base = base();
    let store = store(base.path());
    let old = store
        .create(layout(Epoch(1), 4, &[64]), CREATOR)
        .expect("an epoch");
    let new = store
        .create(layout(Epoch(2), 4, &[64]), CREATOR)
        .expect("an epoch");
    let reader = harness::map_reader(base.path(), &old);
    store.remove(STREAM, Epoch(1)).expect("removed");
    assert!(!old.directory().exists() && new.directory().exists());
    // A mapping outlives its file.
    assert_eq!(reader.activity(), CREATOR.start);
    assert_eq!(
        old.open(Access::ReadOnly).expect_err("no file").reason(),
        "open"
    );
    store.remove(STREAM, Epoch(1)).expect("gone is gone");
    store.remove(STREAM, Epoch(2)).expect("removed");
    store.remove(StreamId(5), Epoch(2)).expect("never there");
    assert_eq!(tree(store.path()), Vec::<PathBuf>::new());
}

#[test]
fn removing_follows_no_link() {
    let base = base();
    let store = store(base.path());
    let victim = base.path().join("victim");
    std::fs::create_dir(&victim).expect("a directory");
    std::fs::write(victim.join("precious"), "x").expect("a file");
    std::fs::create_dir(store.path().join("10000")).expect("a directory");
    symlink(&victim, store.path().join("10000/5")).expect("a link");
    store
        .remove(STREAM, Epoch(5))
        .expect_err("a link is not an epoch");
    assert!(victim.join("precious").exists());
    assert_eq!(store.list().expect("a list"), []);
}

// spec: D-9-1
#[test]
fn a_file_that_somebody_swapped_is_not_handed_out() {
    let base = base();
    let store = store(base.path());
    let epoch = store
        .create(layout(EPOCH, 4, &[64]), CREATOR)
        .expect("an epoch");
    assert_eq!(epoch.open(Access::ReadWrite).expect("both files").len(), 2);
    epoch
        .map_reader(MapOptions::default())
        .expect("the relay's mapping");
    let pool = harness::pool_path(&epoch, 1);
    std::fs::copy(&pool, base.path().join("copy")).expect("a copy");
    std::fs::rename(base.path().join("copy"), &pool).expect("swapped");
    assert_eq!(
        epoch
            .open(Access::ReadWrite)
            .expect_err("another file")
            .reason(),
        "replaced"
    );
    assert_eq!(
        epoch
            .map_reader(MapOptions::default())
            .expect_err("swapped")
            .reason(),
        "path"
    );
}

#[test]
fn base_directories_that_no_uri_can_hold_are_refused() {
    for name in [
        "relative",
        "/dev/shm/with space",
        "/dev/shm/a|b",
        "/dev/shm/a?b",
        "/dev/shm/é",
    ] {
        let error = tensorpool_shm::EpochStore::open(options(Path::new(name)));
        let error = error.expect_err("a path");
        assert!(
            matches!(error, StoreError::BasePath { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn the_last_part_of_the_base_directory_is_made_and_no_more() {
    let base = base();
    tensorpool_shm::EpochStore::open(options(&base.path().join("one"))).expect("a store");
    let error = tensorpool_shm::EpochStore::open(options(&base.path().join("two/three")));
    assert!(matches!(
        error.expect_err("a parent"),
        StoreError::Directory { .. }
    ));
}

#[test]
fn a_link_in_place_of_a_directory_is_refused() {
    let base = base();
    let elsewhere = base.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory");
    symlink(&elsewhere, base.path().join("tensorpool-tester")).expect("a link");
    let error = tensorpool_shm::EpochStore::open(options(base.path())).expect_err("a link");
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
    assert_eq!(tree(&elsewhere), Vec::<PathBuf>::new());
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return harness::not_run("giving a directory away needs root");
    }
    let base = base();
    let theirs = base.path().join("tensorpool-tester");
    std::fs::create_dir(&theirs).expect("a directory");
    std::os::unix::fs::chown(&theirs, Some(65_534), None).expect("given away");
    let error = tensorpool_shm::EpochStore::open(options(base.path())).expect_err("theirs");
    assert!(
        matches!(
            error,
            StoreError::ForeignOwner {
                owner: 65_534,
                ours: 0,
                ..
            }
        ),
        "{error}"
    );
}

// spec: W-15.22-4
#[test]
fn required_hugepages_are_looked_for_on_the_filesystem() {
    let base = base();
    let required = StoreOptions {
        require_hugepages: true,
        ..options(base.path())
    };
    let error = tensorpool_shm::EpochStore::open(required).expect_err("no hugepages");
    let StoreError::NotHugepages { found, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(found, Filesystem::Tmpfs);
    let expected = StoreOptions {
        expected_page_bytes: Some(2 << 20),
        ..options(base.path())
    };
    let error = tensorpool_shm::EpochStore::open(expected).expect_err("other pages");
    assert!(
        matches!(error, StoreError::PageSize { found: 4096, .. }),
        "{error}"
    );
    // Nothing was made on the way to the refusal.
    assert_eq!(tree(base.path()), Vec::<PathBuf>::new());
}

// spec: D-17-5
#[test]
fn locked_epochs_stay_in_memory_while_their_creator_holds_them() {
    let locked_kib = || {
        let status = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let of = |line: &str| {
            line.split_whitespace()
                .nth(1)
                .and_then(|n| n.parse::<u64>().ok())
        };
        let mut ours = false;
        let mut sum = 0;
        for line in status.lines() {
            if line.contains("-") && line.contains(" r") && !line.starts_with("Vm") {
                ours = line.contains("locked_epochs_test");
            }
            if ours && line.starts_with("Locked:") {
                sum += of(line).expect("a number");
            }
        }
        sum
    };
    let base = tempfile::Builder::new()
        .prefix("locked_epochs_test")
        .tempdir_in("/dev/shm");
    let base = base.expect("a directory");
    let options = StoreOptions {
        lock: true,
        ..options(base.path())
    };
    let store = tensorpool_shm::EpochStore::open(options).expect("a store");
    let epoch = store
        .create(layout(EPOCH, 4, &[65_536]), CREATOR)
        .expect("an epoch");
    assert_eq!(locked_kib() * 1024, epoch.bytes());
    drop(epoch);
    assert_eq!(locked_kib(), 0);
}
