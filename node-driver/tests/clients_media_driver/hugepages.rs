//! Frames on huge pages.

use tensorpool_client::{BuildError, ClientOptions, Consumer, HugepagesPolicy, Notify, Producer};

use crate::support::{Driver, Mount, Options, PATIENCE, Place};
use crate::world::{CAMERA, RADAR, Way, client, options};

/// The size of the pages behind an address, as the kernel has it, in kB.
fn page_kb(address: usize) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("our own memory");
    let mut is_here = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((from, to)) = range.and_then(|(from, to)| Some((hex(from)?, hex(to)?))) {
            is_here = (from..to).contains(&address);
        } else if let Some(size) = line.strip_prefix("KernelPageSize:")
            && is_here
        {
            let size = size.trim().trim_end_matches(" kB");
            return size.parse().expect("a number");
        }
    }
    panic!("nothing is mapped at {address:x}");
}

#[test]
fn frames_cross_on_hugepages_on_both_ways_and_no_other_pages_are_taken_for_them() {
    // spec: W-15.22-4, D-4.3-3
    let Some(mount) = Mount::hugetlbfs(16) else {
        return;
    };
    let place = Place::new(Options {
        base_dir: Some(mount.path().join("pool")),
        small: (16, 65_536),
        ..options("embedded")
    });
    let text = std::fs::read_to_string(place.config()).expect("written by Place");
    let wants = "[shm]\nrequire_hugepages = true\npage_size_bytes = 2097152";
    std::fs::write(place.config(), text.replace("[shm]", wants)).expect("a configuration");
    let _driver = Driver::start(&place);
    for (stream, way) in [(CAMERA, Way::Socket), (RADAR, Way::Aeron)] {
        let options = ClientOptions {
            allowed_base_dirs: vec![mount.path().to_owned()],
            ..client(&place, way)
        };
        let standard = Consumer::builder(stream)
            .client_options(options.clone())
            .hugepages(HugepagesPolicy::Standard)
            .build();
        match standard {
            Err(BuildError::Attach(error)) => {
                let words = error.to_string();
                assert!(words.contains("do not ask for standard ones"), "{words}");
            }
            other => panic!("{other:?}"),
        }
        let producer = Producer::builder(stream)
            .client_options(options.clone())
            .hugepages(HugepagesPolicy::Hugepages)
            .build();
        let mut producer = producer.expect("the producer attaches");
        let consumer = Consumer::builder(stream)
            .client_options(options)
            .hugepages(HugepagesPolicy::Hugepages)
            .notify(Notify::Ring)
            .build();
        let mut consumer = consumer.expect("the consumer attaches");
        for n in 0..100_u8 {
            let bytes = vec![n; 60_000];
            producer.publish(&bytes).expect("attached");
            let frame = consumer.wait(PATIENCE).expect("attached").expect("a frame");
            assert_eq!(frame.to_vec().expect("whole"), bytes);
        }
        let memory = consumer.memory().expect("attached").expect("mapped");
        for region in memory.regions() {
            assert_eq!(page_kb(region.as_ptr().addr()), 2_048, "{way:?}");
        }
    }
}

#[test]
fn a_client_that_wants_hugepages_is_told_that_there_are_none() {
    // spec: D-4.3-3
    let place = Place::new(Options::default());
    let _driver = Driver::start(&place);
    let built = Producer::builder(CAMERA)
        .client_options(client(&place, Way::Socket))
        .hugepages(HugepagesPolicy::Hugepages)
        .build();
    match built {
        Err(BuildError::Attach(error)) => {
            let words = error.to_string();
            assert!(words.contains("hugetlbfs mount"), "{words}");
        }
        other => panic!("{other:?}"),
    }
}
