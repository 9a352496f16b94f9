//! Replays the corpus of every fuzz target, so that what fuzzing once found stays found without it.
//!
//! The golden vectors are part of the corpus: a fuzzer that starts from them starts inside the messages.
//! Not run under Miri, which would replay what the golden tests already show, slowly.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../hex/mod.rs"]
mod hex;
#[path = "../../fuzz/src/lib.rs"]
#[allow(
    unreachable_pub,
    reason = "a crate of its own where the fuzzer uses it"
)]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

const GOLDEN: [&str; 2] = [
    include_str!("../golden/sbe-tool.hex"),
    include_str!("../samples/samples.hex"),
];

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 6] = [
    ("message", targets::message),
    ("discovery", targets::discovery),
    ("slot", targets::slot),
    ("superblock", targets::superblock),
    ("uri", targets::uri),
    ("blob", targets::blob),
];

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

fn files(target: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// The corpus files that the golden vectors are, with their targets.
fn golden_seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for line in GOLDEN.iter().flat_map(|file| file.lines()) {
        let (name, bytes) = line.split_once(' ').unwrap();
        let bytes = hex::decode(bytes);
        if name.starts_with("SlotHeader") || name.starts_with("Slot") {
            seeds.push(("slot", name.to_owned(), bytes));
        } else if name.contains("uperblock") {
            seeds.push(("superblock", name.to_owned(), bytes));
        } else {
            if name.starts_with("Discovery") {
                let mut behind_kind = vec![u8::from(name.starts_with("DiscoveryResponse"))];
                behind_kind.extend(&bytes[8..]);
                seeds.push(("discovery", name.to_owned(), behind_kind));
            }
            seeds.push(("message", name.to_owned(), bytes));
        }
    }
    seeds
}

#[test]
fn corpus_of_every_fuzz_target_is_held_to_what_the_target_says() {
    let mut count = 0;
    for (name, target) in TARGETS {
        let files = files(name);
        assert!(!files.is_empty(), "no corpus for {name}");
        for file in files {
            target(&fs::read(&file).unwrap());
            count += 1;
        }
    }
    println!("count: corpus files = {count}");
}

#[test]
fn every_target_of_the_fuzz_crate_is_replayed() {
    let manifest = fs::read_to_string(corpus("../Cargo.toml")).unwrap();
    let bins: Vec<_> = manifest
        .lines()
        .filter_map(|line| {
            line.strip_prefix("path = \"fuzz_targets/")?
                .strip_suffix(".rs\"")
        })
        .collect();
    assert_eq!(bins, TARGETS.map(|(name, _)| name));
}

#[test]
fn every_golden_vector_is_in_the_corpus() {
    for (target, name, bytes) in golden_seeds() {
        let seed = fs::read(corpus(target).join(&name)).unwrap_or_else(|error| {
            panic!("seed {target}/{name}: {error}; run `cargo xtask codegen`");
        });
        assert_eq!(
            seed, bytes,
            "seed {target}/{name} is old; run `cargo xtask codegen`"
        );
    }
}

/// Not a check but how the seeds are made.
#[test]
#[ignore = "writes files; run by `cargo xtask codegen`"]
fn write_golden_seeds() {
    for (target, name, bytes) in golden_seeds() {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), bytes).unwrap();
    }
}
