//! Clients that find their driver through a volume, as in a pod: by what the environment names, in a
//! process of their own, with the real driver behind the socket.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Driver, Options, Place};
use tempfile::TempDir;
use tensorpool_client::{BuildError, Consumer, Producer, Report, StreamKey};

/// A second stream, beside `camera`.
const DEPTH: &str = "[streams.depth]\nstream_id = 10001\nprofile = \"small\"\n";
const DEPTH_ID: u32 = 10_001;

/// A directory as a pod sees it: the driver's socket, and hard links to the files of its streams below
/// the names that they have below the driver's base directory.
struct Volume {
    dir: TempDir,
}

impl Volume {
    fn of(place: &Place) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("tensorpool-volume-")
            .tempdir_in("/dev/shm")
            .expect("a directory beside the driver's memory");
        symlink(place.socket(), dir.path().join("driver.sock")).expect("a socket by another name");
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What the driver does for every epoch of a stream.
    fn link_files_of(&self, place: &Place) {
        link_tree(&place.base_dir(), self.path());
    }
}

fn link_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory in the volume");
    for entry in fs::read_dir(from).expect("the driver's directory is readable") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            link_tree(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), &target).expect("both are on one filesystem");
        }
    }
}

/// A consumer or producer in a process of its own.
struct Pod<'a> {
    role: &'a str,
    stream: &'a str,
    environment: Vec<(&'a str, String)>,
}

impl<'a> Pod<'a> {
    fn consumer(stream: &'a str) -> Self {
        Self {
            role: "consumer",
            stream,
            environment: Vec::new(),
        }
    }

    fn producer(stream: &'a str) -> Self {
        Self {
            role: "producer",
            ..Self::consumer(stream)
        }
    }

    fn volumes(mut self, volumes: &[&Path]) -> Self {
        let all = std::env::join_paths(volumes).expect("no colon in a path");
        let all = all.into_string().expect("UTF-8");
        self.environment.push(("TENSORPOOL_VOLUME", all));
        self
    }

    /// What it prints: where its memory is mapped from, or why there is none.
    fn says(self) -> String {
        let output = Command::new(std::env::current_exe().expect("an own path"))
            .args(["--exact", "a_process_in_a_pod", "--ignored", "--nocapture"])
            .env_remove("TENSORPOOL_SOCKET")
            .env_remove("TENSORPOOL_AERON_DIR")
            .env("TEST_ROLE", self.role)
            .env("TEST_STREAM", self.stream)
            .envs(self.environment)
            .output()
            .expect("the test binary runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let said = text.split("SAID<").nth(1).expect("it says something");
        said.split(">SAID").next().unwrap_or_default().to_owned()
    }
}

#[test]
#[ignore = "runs as a child of the other tests"]
fn a_process_in_a_pod() {
    let role = std::env::var("TEST_ROLE").expect("set by the test");
    let stream = std::env::var("TEST_STREAM").expect("set by the test");
    let key = match stream.parse::<u32>() {
        Ok(id) => StreamKey::from(id),
        Err(_) => StreamKey::from(stream),
    };
    let said = if role == "producer" {
        Producer::builder(key).build().map(mapped)
    } else {
        Consumer::builder(key).build().map(mapped)
    };
    let words = |error: BuildError| format!("{:?}", Report::from(error));
    println!("SAID<{}>SAID", said.unwrap_or_else(words));
}

/// The files that this process has mapped from memory filesystems. The client lives until they are
/// known.
fn mapped<T>(client: T) -> String {
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux tells");
    drop(client);
    let mut files: Vec<&str> = maps
        .lines()
        .filter_map(|line| Some(&line[line.find("/dev/shm/")?..]))
        .collect();
    files.dedup();
    files.join("\n")
}

fn place_with_depth() -> Place {
    Place::new(Options {
        more: DEPTH.to_owned(),
        ..Options::default()
    })
}

/// A producer in this process, so that there is an epoch.
fn produce(place: &Place, stream: impl Into<StreamKey>) -> Producer {
    Producer::builder(stream)
        .socket(place.socket())
        .build()
        .expect("the producer attaches")
}

// spec: X-2-70
#[test]
fn the_volume_that_has_the_stream_is_taken_and_its_files_are_mapped() {
    let (one, other) = (Place::new(Options::default()), place_with_depth());
    let (_one, _other) = (Driver::start(&one), Driver::start(&other));
    let _producer = produce(&other, "depth");
    let (without, with) = (Volume::of(&one), Volume::of(&other));
    with.link_files_of(&other);
    let volumes = [without.path(), with.path()];
    for stream in ["depth".to_owned(), DEPTH_ID.to_string()] {
        let files = Pod::consumer(&stream).volumes(&volumes).says();
        assert_eq!(files.lines().count(), 2, "ring and pool: {files}");
        for file in files.lines() {
            assert!(
                Path::new(file).starts_with(with.path()),
                "{stream}: {files}"
            );
        }
    }
}

// spec: X-2-70
#[test]
fn a_producer_gets_its_memory_through_the_volume_s_socket() {
    let place = place_with_depth();
    let _driver = Driver::start(&place);
    let volume = Volume::of(&place);
    let files = Pod::producer("camera").volumes(&[volume.path()]).says();
    assert_eq!(files.lines().count(), 2, "ring and pool: {files}");
}

// spec: X-2-71
#[test]
fn a_missing_volume_is_named_with_the_yaml_that_gives_it() {
    let nowhere = PathBuf::from("/dev/shm/no-such-volume");
    let said = Pod::consumer("vision/camera").volumes(&[&nowhere]).says();
    assert!(said.contains("this pod has no Tensorpool volume"), "{said}");
    assert!(
        said.contains("driver.sock in /dev/shm/no-such-volume"),
        "{said}"
    );
    assert!(
        said.contains("volumeAttributes: {stream: vision/camera, access: consume}"),
        "{said}"
    );
    assert!(said.contains("readOnly: true"), "{said}");
}

// spec: X-2-71
#[test]
fn a_driver_that_is_gone_is_told_from_a_volume_that_is_missing() {
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let volume = Volume::of(&place);
    driver.kill();
    let said = Pod::consumer("camera").volumes(&[volume.path()]).says();
    assert!(said.contains("is there but no driver answers"), "{said}");
    assert!(
        said.contains("app.kubernetes.io/component=node-driver"),
        "{said}"
    );
}

// spec: X-2-71
#[test]
fn a_stream_of_no_volume_is_named_with_the_volumes_that_were_asked() {
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let (volume, nowhere) = (Volume::of(&place), Path::new("/dev/shm/no-such-volume"));
    let said = Pod::producer("lidar")
        .volumes(&[volume.path(), nowhere])
        .says();
    let place = format!("not known at {}/driver.sock", volume.path().display());
    assert!(said.contains(&place), "{said}");
    assert!(
        said.contains("volumeAttributes: {stream: lidar, access: produce}"),
        "{said}"
    );
}

// spec: X-2-71
#[test]
fn the_driver_s_own_words_are_passed_on() {
    let place = Place::new(Options {
        more: "[limits]\nconsumers_per_stream = 1\n".to_owned(),
        ..Options::default()
    });
    let _driver = Driver::start(&place);
    let volume = Volume::of(&place);
    let _producer = produce(&place, "camera");
    volume.link_files_of(&place);
    let _first = Consumer::builder("camera")
        .socket(place.socket())
        .build()
        .expect("the only consumer that is allowed");
    let said = Pod::consumer("camera").volumes(&[volume.path()]).says();
    // What follows the sentence of the client is the driver's, and nothing else.
    assert!(
        said.ends_with("(Rejected): consumer limit of this stream reached: 1"),
        "{said}"
    );
}
