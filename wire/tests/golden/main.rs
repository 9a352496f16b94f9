//! Golden vectors: our codec against the one of sbe-tool, in both directions.
//!
//! `sbe-tool.hex` was encoded by sbe-tool's generated codecs; what its vectors mean is written down a
//! second time in `expected.rs`. `ours.hex` was encoded by this crate from the messages of `ours.rs`;
//! `ours.fields` says what sbe-tool's decoder found in it. `cargo xtask codegen` makes all four files
//! anew; `wire/codegen/README.md` says how.
//!
//! Not run under Miri, whose interpreter takes minutes for them; the byte samples go the same ways.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../hex/mod.rs"]
mod hex;

mod expected;
mod fields;
mod ours;

use std::collections::BTreeSet;

use tensorpool_wire::{Message, SLOT_LEN, SUPERBLOCK_LEN, SlotHeader, Superblock};

const SBE_TOOL_HEX: &str = include_str!("sbe-tool.hex");
const SBE_TOOL_FIELDS: &str = include_str!("sbe-tool.fields");
const OURS_HEX: &str = include_str!("ours.hex");
const OURS_FIELDS: &str = include_str!("ours.fields");

/// What a vector holds. The superblock and the slot lie in memory and have no message header.
#[derive(Clone, Debug, PartialEq)]
enum Vector {
    Message(Message),
    Superblock(Superblock),
    Slot(SlotHeader),
}

impl Vector {
    fn decode(name: &str, bytes: &[u8]) -> Self {
        let kind = name.split('.').next();
        match kind {
            Some("ShmRegionSuperblock") => {
                let bytes: &[u8; SUPERBLOCK_LEN] = bytes.try_into().unwrap();
                Self::Superblock(Superblock::decode(bytes).unwrap())
            }
            Some("SlotHeader") => {
                let bytes: &[u8; SLOT_LEN] = bytes.try_into().unwrap();
                Self::Slot(SlotHeader::decode(bytes).unwrap())
            }
            _ => {
                let message = Message::decode(bytes).unwrap_or_else(|error| {
                    panic!("{name} is a message: {error}");
                });
                assert_eq!(Some(message.name()), kind);
                Self::Message(message)
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Message(message) => message.encode(),
            Self::Superblock(superblock) => superblock.encode().to_vec(),
            Self::Slot(slot) => slot.encode().to_vec(),
        }
    }
}

fn vectors(file: &'static str) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    file.lines().map(|line| {
        let (name, bytes) = line.split_once(' ').expect("a name, a space, hex digits");
        (name, hex::decode(bytes))
    })
}

fn assert_same_lines(ours: &str, theirs: &str) {
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
}

// spec: W-16-1, W-6-1, W-10.1-1, W-10.1-2, W-10.1-3, W-10.1-4, W-10.1-5, W-10.1.2-1, W-15.8-1
// spec: D-4.2-16, D-4.2-17, DI-5.0-1, DI-10-1, W-8.2-1, W-8.2-2, W-8.2-9, W-7.1-1
#[test]
fn vectors_of_sbe_tool_decode_to_their_values_and_encode_to_their_bytes() {
    let expected = expected::all();
    let names: Vec<_> = vectors(SBE_TOOL_HEX).map(|(name, _)| name).collect();
    let expected_names: Vec<_> = expected.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected_names);
    for ((name, bytes), (_, value)) in vectors(SBE_TOOL_HEX).zip(expected) {
        assert_eq!(Vector::decode(name, &bytes), value, "{name}");
        assert_eq!(value.encode(), bytes, "{name}");
    }
}

#[test]
fn fields_that_sbe_tool_finds_in_its_own_vectors_are_ours() {
    let mut ours = String::new();
    for (name, bytes) in vectors(SBE_TOOL_HEX) {
        fields::dump(name, &Vector::decode(name, &bytes), &mut ours);
    }
    assert_same_lines(&ours, SBE_TOOL_FIELDS);
}

#[test]
fn fields_that_sbe_tool_finds_in_our_vectors_are_ours() {
    let (mut hex, mut fields) = (String::new(), String::new());
    for (name, value) in ours::all() {
        ours::write_line(&name, &value, &mut hex);
        fields::dump(&name, &value, &mut fields);
    }
    assert_same_lines(&hex, OURS_HEX);
    assert_same_lines(&fields, OURS_FIELDS);
}

/// Not a check but how `ours.hex` is made: `TENSORPOOL_GOLDEN_OUT` names the file.
#[test]
#[ignore = "writes a file; run by `cargo xtask codegen`"]
fn write_our_vectors() {
    let path = std::env::var_os("TENSORPOOL_GOLDEN_OUT").expect("TENSORPOOL_GOLDEN_OUT is a path");
    let mut hex = String::new();
    for (name, value) in ours::all() {
        ours::write_line(&name, &value, &mut hex);
    }
    std::fs::write(path, hex).expect("the file can be written");
}

#[test]
fn every_message_has_vectors_in_both_directions() {
    let known: BTreeSet<_> = Message::ALL
        .iter()
        .map(|&(_, _, name)| name)
        .chain(["ShmRegionSuperblock", "SlotHeader"])
        .collect();
    for file in [SBE_TOOL_HEX, OURS_HEX] {
        let covered: BTreeSet<_> = vectors(file)
            .filter_map(|(name, _)| name.split('.').next())
            .collect();
        assert_eq!(covered, known);
    }
}
