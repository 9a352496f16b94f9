//! Recordings of the C implementation, read as a consumer would read them. README.md says what they are.
//!
//! Not run under Miri, whose interpreter takes minutes for them; the byte samples go the same ways.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../hex/mod.rs"]
mod hex;

use tensorpool_wire::{
    ClientId, Dtype, Epoch, ExpectedKind, ExpectedRegion, ExpectedSlot, FrameDescriptor,
    FrameProgress, FrameProgressState, MajorOrder, Message, MessageHeader, PayloadPool, PoolId,
    PoolStride, PublishMode, ResponseCode, Role, SLOT_LEN, SUPERBLOCK_LEN, Seq, ShmAttachResponse,
    ShmPoolAnnounce, ShmUri, Slot, SlotHeader, SlotReject, StreamId, Superblock,
};

const CONTROL: &str = include_str!("control.txt");
const ANNOUNCE: &str = include_str!("announce.txt");
const DESCRIPTOR: &str = include_str!("descriptor.txt");
const POOL: &str = include_str!("pool-1.txt");
const RING: &[u8] = include_bytes!("header.ring");

const STREAM: StreamId = StreamId(10_000);
const FRAMES: u64 = 16;

/// One recorded message: what was written down beside it, and its bytes.
struct Recorded {
    header: MessageHeader,
    bytes: Vec<u8>,
}

fn recorded(file: &str) -> Vec<Recorded> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let messages: Vec<_> = lines.map(recorded_line).collect();
    assert!(!messages.is_empty());
    messages
}

fn recorded_line(line: &str) -> Recorded {
    let columns: Vec<_> = line.split(' ').collect();
    let [length, schema, template, block_length, version, bytes] = columns[..] else {
        panic!("six columns: {line}");
    };
    let bytes = hex::decode(bytes);
    assert_eq!(bytes.len(), length.parse::<usize>().unwrap());
    let header = MessageHeader {
        block_length: block_length.parse().unwrap(),
        template_id: template.parse().unwrap(),
        schema_id: schema.parse().unwrap(),
        version: version.parse().unwrap(),
    };
    Recorded { header, bytes }
}

fn messages(file: &str) -> Vec<Message> {
    let messages = recorded(file).into_iter();
    messages
        .map(|message| Message::decode(&message.bytes).unwrap())
        .collect()
}

fn attached(role: Role) -> ShmAttachResponse {
    let messages = messages(CONTROL);
    let request = messages.iter().find_map(|message| match message {
        Message::ShmAttachRequest(request) if request.role == role => Some(request),
        _ => None,
    });
    let asked = request.expect("both roles attach").correlation_id;
    let response = messages.iter().find_map(|message| match message {
        Message::ShmAttachResponse(response) if response.correlation_id == asked => Some(response),
        _ => None,
    });
    response.expect("each request is answered").clone()
}

/// The announce of the epoch that the producer wrote to, with the producer attached.
fn producer_announce() -> ShmPoolAnnounce {
    let epoch = attached(Role::Producer).epoch.unwrap();
    let announce = messages(ANNOUNCE)
        .into_iter()
        .find_map(|message| match message {
            Message::ShmPoolAnnounce(announce)
                if announce.epoch == epoch && announce.producer_id != ClientId(0) =>
            {
                Some(announce)
            }
            _ => None,
        });
    announce.expect("the producer's epoch is announced")
}

fn descriptors() -> Vec<FrameDescriptor> {
    let descriptors = messages(DESCRIPTOR).into_iter();
    let descriptors = descriptors.map(|message| match message {
        Message::FrameDescriptor(descriptor) => descriptor,
        other => panic!("{} on the descriptor stream", other.name()),
    });
    descriptors.collect()
}

fn ring_superblock() -> Superblock {
    Superblock::decode(RING.first_chunk::<SUPERBLOCK_LEN>().unwrap()).unwrap()
}

fn ring_slot(seq: Seq, nslots: u32) -> [u8; SLOT_LEN] {
    let index = usize::try_from(seq.index(nslots)).unwrap();
    let (slots, rest) = RING[SUPERBLOCK_LEN..].as_chunks::<SLOT_LEN>();
    assert!(rest.is_empty());
    slots[index]
}

fn pool_strides(pools: &[PayloadPool]) -> Vec<PoolStride> {
    let strides = pools.iter().map(|pool| PoolStride {
        pool_id: pool.pool_id,
        stride_bytes: pool.stride_bytes,
    });
    strides.collect()
}

/// Commit word and payload of a pool slot, as recorded.
fn recorded_payload(slot: u32) -> (u64, Vec<u8>) {
    let start = format!("slot {slot} seq_commit ");
    let line = POOL
        .lines()
        .find_map(|line| line.strip_prefix(&start))
        .expect("a used slot");
    let columns: Vec<_> = line.split(' ').collect();
    let [commit_word, "bytes", length, payload] = columns[..] else {
        panic!("commit word, bytes, length, payload: {line}");
    };
    let payload = hex::decode(payload);
    assert_eq!(payload.len(), length.parse::<usize>().unwrap());
    (commit_word.parse().unwrap(), payload)
}

fn read(descriptor: &FrameDescriptor, announce: &ShmPoolAnnounce) -> Slot {
    assert_eq!(descriptor.stream_id, announce.stream_id);
    assert_eq!(descriptor.epoch, announce.epoch);
    let slot = SlotHeader::decode(&ring_slot(descriptor.seq, announce.header_nslots)).unwrap();
    let expected = ExpectedSlot {
        seq: descriptor.seq,
        header_nslots: announce.header_nslots,
        pools: &pool_strides(&announce.payload_pools),
    };
    slot.validate(&expected).unwrap()
}

// spec: W-16-1, W-6-1
#[test]
fn every_recorded_message_decodes_to_its_end_and_encodes_to_the_same_bytes() {
    for file in [CONTROL, ANNOUNCE, DESCRIPTOR] {
        for recorded in recorded(file) {
            assert_eq!(MessageHeader::peek(&recorded.bytes), Some(recorded.header));
            let message = Message::decode(&recorded.bytes).unwrap();
            assert_eq!(message.schema_id(), recorded.header.schema_id);
            assert_eq!(message.template_id(), recorded.header.template_id);
            assert_eq!(message.encode(), recorded.bytes);
            assert_eq!(message.encoded_len(), recorded.bytes.len());
        }
    }
}

// spec: D-4.2-9, D-4.2-10, W-9-2
#[test]
fn attach_responses_and_announces_say_the_same_about_the_memory() {
    let response = attached(Role::Producer);
    let announce = producer_announce();
    assert_eq!(response.code, ResponseCode::Ok);
    assert_eq!(response.stream_id, Some(STREAM));
    assert_eq!(response.epoch, Some(announce.epoch));
    assert_eq!(response.layout_version, Some(announce.layout_version));
    assert_eq!(response.header_nslots, Some(announce.header_nslots));
    assert_eq!(response.header_slot_bytes, Some(announce.header_slot_bytes));
    assert_eq!(response.payload_pools, announce.payload_pools);
    assert_eq!(response.header_region_uri, announce.header_region_uri);
    for pool in &announce.payload_pools {
        assert_eq!(pool.pool_nslots, announce.header_nslots);
    }
    assert!(attached(Role::Consumer).epoch < response.epoch);
}

// spec: W-15.22-1, W-15.22-2, W-15.21a-7
#[test]
fn announced_uris_name_the_canonical_files_of_their_epoch() {
    let announce = producer_announce();
    let directory = format!("/default/{}/{}/", announce.stream_id, announce.epoch);
    let ring = ShmUri::parse(&announce.header_region_uri).unwrap();
    assert!(ring.path().ends_with(&format!("{directory}header.ring")));
    assert!(!ring.require_hugepages());
    for pool in &announce.payload_pools {
        let uri = ShmUri::parse(&pool.region_uri).unwrap();
        assert!(
            uri.path()
                .ends_with(&format!("{directory}{}.pool", pool.pool_id))
        );
    }
}

// spec: W-7.1-1, W-7.1-3, W-7.1-5, W-15.1-1, W-9-2
#[test]
fn both_superblocks_match_the_announce() {
    let announce = producer_announce();
    let expected = |kind| ExpectedRegion {
        layout_version: announce.layout_version,
        epoch: announce.epoch,
        stream_id: announce.stream_id,
        header_nslots: announce.header_nslots,
        kind,
    };
    assert_eq!(
        ring_superblock().matches(&expected(ExpectedKind::HeaderRing)),
        Ok(())
    );

    let line = POOL
        .lines()
        .find_map(|line| line.strip_prefix("superblock "))
        .unwrap();
    let bytes = hex::decode(line);
    let bytes: &[u8; SUPERBLOCK_LEN] = bytes.as_slice().try_into().unwrap();
    let superblock = Superblock::decode(bytes).unwrap();
    let [pool] = announce.payload_pools.as_slice() else {
        panic!("one pool is announced");
    };
    let kind = ExpectedKind::Pool {
        pool_id: pool.pool_id,
        stride_bytes: pool.stride_bytes,
    };
    // The C driver leaves the slot length of a pool open; that is no reason to refuse it.
    assert_eq!(superblock.slot_bytes, u32::MAX);
    assert_eq!(superblock.matches(&expected(kind)), Ok(()));

    assert_eq!(ring_superblock().encode(), RING[..SUPERBLOCK_LEN]);
    assert_eq!(superblock.encode(), *bytes);
}

// spec: W-8.2-1, W-8.2-2, W-8.2-6, W-8.3-1, W-8.3-6, W-10.2.1-3, W-10.2.1-4, W-10.2.1-5
// spec: W-10.2.1-6, W-15.5-1, X-1-1
#[test]
fn every_described_frame_validates_and_its_payload_is_the_recorded_one() {
    let descriptors = descriptors();
    let seqs: Vec<_> = descriptors
        .iter()
        .map(|descriptor| descriptor.seq.get())
        .collect();
    assert_eq!(seqs, (0..FRAMES).collect::<Vec<_>>());
    let announce = producer_announce();
    for descriptor in &descriptors {
        let slot = read(descriptor, &announce);
        let seq = descriptor.seq.get();
        assert_eq!(slot.pool_id, PoolId(1));
        assert_eq!(slot.pool_index, 0);
        assert!(slot.timestamp_ns.is_some());
        assert_eq!(slot.meta_version, None);
        assert_eq!(slot.tensor.dtype(), Dtype::Uint8);
        assert_eq!(slot.tensor.major_order(), MajorOrder::Row);
        assert_eq!(slot.tensor.shape(), [slot.values_len_bytes]);
        assert_eq!(slot.tensor.strides(), [1]);
        assert!(slot.tensor.is_contiguous());

        let (commit_word, payload) = recorded_payload(slot.payload_slot);
        assert_eq!(Seq::from_committed_word(commit_word), Some(descriptor.seq));
        assert_eq!(
            payload.len(),
            usize::try_from(slot.values_len_bytes).unwrap()
        );
        assert_eq!(payload[..8], seq.to_le_bytes());
        assert_eq!(payload[8..], (!seq).to_le_bytes());
    }
}

#[test]
fn timestamps_of_the_frames_rise() {
    let announce = producer_announce();
    let frames = descriptors();
    let times = frames
        .iter()
        .map(|frame| read(frame, &announce).timestamp_ns);
    let times: Vec<_> = times.collect();
    assert!(times.is_sorted());
}

// spec: W-8.3-1
#[test]
fn slots_that_no_frame_was_written_to_are_in_progress() {
    let nslots = producer_announce().header_nslots;
    for seq in FRAMES..u64::from(nslots) {
        let decoded = SlotHeader::decode(&ring_slot(Seq(seq), nslots));
        assert_eq!(decoded, Err(SlotReject::InProgress));
    }
}

// spec: W-10.2.2-1, W-10.1.2-1
#[test]
fn progress_and_qos_agree_with_the_frames() {
    let control = messages(CONTROL);
    let completed: Vec<FrameProgress> = control
        .iter()
        .filter_map(|message| match message {
            Message::FrameProgress(progress) => Some(*progress),
            _ => None,
        })
        .collect();
    let announce = producer_announce();
    let frames = descriptors();
    assert_eq!(completed.len(), frames.len());
    for (progress, frame) in completed.iter().zip(&frames) {
        assert_eq!(progress.state, FrameProgressState::Complete);
        assert_eq!((progress.epoch, progress.seq), (frame.epoch, frame.seq));
        assert_eq!(
            progress.payload_bytes_filled,
            u64::from(read(frame, &announce).values_len_bytes)
        );
    }
    let published = control.iter().find_map(|message| match message {
        Message::QosProducer(qos) => Some((qos.epoch, qos.current_seq.get())),
        _ => None,
    });
    let (epoch, current_seq) = published.expect("the producer reports");
    assert_eq!(epoch, announce.epoch);
    assert!((1..=FRAMES).contains(&current_seq));
}

// spec: W-10.1-2, W-10.1-4, D-4.2-16
#[test]
fn the_deployed_client_asks_as_recorded() {
    let control = messages(CONTROL);
    let Some(Message::ShmAttachRequest(request)) = control.first() else {
        panic!("the consumer attaches first");
    };
    assert_eq!(request.role, Role::Consumer);
    assert_eq!(request.publish_mode, Some(PublishMode::ExistingOrCreate));
    assert_eq!(request.desired_node_id, None);
    let hello = control.iter().find_map(|message| match message {
        Message::ConsumerHello(hello) => Some(hello),
        _ => None,
    });
    let hello = hello.expect("the consumer says hello");
    assert_eq!(hello.expected_layout_version, 0);
    assert_eq!(hello.progress_interval_us, None);
    assert_eq!(hello.descriptor_channel, "");
    assert_eq!(hello.consumer_id, request.client_id);
    let epochs: Vec<Epoch> = messages(ANNOUNCE)
        .iter()
        .filter_map(|message| match message {
            Message::ShmPoolAnnounce(announce) => Some(announce.epoch),
            _ => None,
        })
        .collect();
    assert!(epochs.is_sorted());
}
