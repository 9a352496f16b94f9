//! What a damaged `cnc.dat` is answered with.

use super::*;

/// A sound head with small buffers, and the file around it.
fn sound() -> Vec<u8> {
    let lens: [i32; 5] = [1024 + 768, 2048 + 128, 512, 256, 128];
    let mut bytes = vec![0; 128 + 1792 + 2176 + 512 + 256 + 128];
    bytes[0..4].copy_from_slice(&0x0000_0200_u32.to_le_bytes());
    for (index, len) in lens.iter().enumerate() {
        bytes[4 + 4 * index..8 + 4 * index].copy_from_slice(&len.to_le_bytes());
    }
    bytes[24..32].copy_from_slice(&5_000_000_000_i64.to_le_bytes());
    bytes[32..40].copy_from_slice(&1_000_i64.to_le_bytes());
    bytes[40..48].copy_from_slice(&4242_i64.to_le_bytes());
    let heartbeat = 128 + 1024 + 640;
    bytes[heartbeat..heartbeat + 8].copy_from_slice(&7_000_i64.to_le_bytes());
    bytes
}

fn read(bytes: &[u8]) -> Result<Cnc, CncError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("cnc.dat"), bytes).expect("write the file");
    Cnc::read(dir.path())
}

fn put(bytes: &mut [u8], at: usize, value: i32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn a_sound_file_says_who_the_media_driver_is_and_when_it_lived() {
    let cnc = read(&sound()).expect("a sound file");
    assert_eq!(
        cnc,
        Cnc {
            version: KNOWN_VERSION,
            to_driver_len: 1792,
            to_clients_len: 2176,
            client_liveness: Duration::from_secs(5),
            start_timestamp_ms: 1_000,
            pid: 4242,
            heartbeat_ms: Some(7_000),
        }
    );
    assert_eq!(cnc.heartbeat_age(7_250), Some(Duration::from_millis(250)));
    assert_eq!(cnc.heartbeat_age(6_000), Some(Duration::ZERO));
}

#[test]
fn a_missing_directory_and_a_missing_file_are_both_missing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for path in [dir.path().to_path_buf(), dir.path().join("nowhere")] {
        let error = Cnc::read(&path).expect_err("nothing is there");
        assert_eq!(error.reason(), "missing");
        assert!(error.to_string().contains(&path.display().to_string()));
    }
}

#[test]
fn every_cut_of_a_sound_file_is_refused_and_names_the_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("cnc.dat");
    let sound = sound();
    std::fs::write(&path, &sound).expect("write the file");
    let file = File::options().write(true).open(&path).expect("the file");
    for len in (0..sound.len()).rev() {
        file.set_len(u64::try_from(len).expect("small"))
            .expect("cut it");
        let error = Cnc::read(dir.path()).expect_err("cut off");
        let reason = error.reason();
        assert!(
            ["not_ready", "cut_off"].contains(&reason),
            "{len}: {reason}"
        );
        assert!(error.to_string().contains("cnc.dat"));
    }
}

#[test]
fn an_unset_version_is_not_ready_and_another_layout_is_named() {
    let mut bytes = sound();
    put(&mut bytes, 0, 0);
    assert_eq!(read(&bytes).expect_err("unset").reason(), "not_ready");
    put(&mut bytes, 0, 0x0001_0000);
    let error = read(&bytes).expect_err("another layout");
    assert!(error.to_string().contains("layout version 1.0.0"));
}

#[test]
fn lengths_that_no_media_driver_writes_are_damage() {
    for (at, value) in [
        (4, -1),
        (4, 767),
        (4, 768),
        (4, 1793),
        (8, i32::MIN),
        (8, 128),
        (8, 2177),
        (12, -5),
        (16, -5),
        (20, -5),
    ] {
        let mut bytes = sound();
        put(&mut bytes, at, value);
        assert_eq!(
            read(&bytes).expect_err("damage").reason(),
            "damaged",
            "{at} {value}"
        );
    }
}

#[test]
fn lengths_beyond_the_file_are_a_cut_off_file_even_at_their_largest() {
    let mut bytes = sound();
    put(&mut bytes, 4, (1 << 30) + 768);
    put(&mut bytes, 8, (1 << 30) + 128);
    for at in [12, 16, 20] {
        put(&mut bytes, at, i32::MAX);
    }
    assert_eq!(read(&bytes).expect_err("too short").reason(), "cut_off");
}

#[test]
fn a_clean_stop_leaves_no_heartbeat() {
    let mut bytes = sound();
    let heartbeat = 128 + 1024 + 640;
    bytes[heartbeat..heartbeat + 8].copy_from_slice(&(-1_i64).to_le_bytes());
    assert_eq!(read(&bytes).expect("sound").heartbeat_ms, None);
}

#[test]
fn a_directory_in_place_of_the_file_is_unreadable() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(dir.path().join("cnc.dat")).expect("a directory");
    assert_eq!(
        Cnc::read(dir.path()).expect_err("a directory").reason(),
        "unreadable"
    );
}
