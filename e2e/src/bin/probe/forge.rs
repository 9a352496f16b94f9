//! Messages in the name of the driver, of other clients, and for another stream.

use std::path::Path;

use tensorpool_wire::{
    ClientId, ClockDomain, CorrelationId, DataSourceAnnounce, Epoch, FrameProgress,
    FrameProgressState, LeaseId, LeaseRevokeReason, LogicalStream, Message, MonoNanos, QosProducer,
    Role, Seq, ShmDetachRequest, ShmDriverShutdown, ShmDriverShutdownRequest, ShmLeaseKeepalive,
    ShmLeaseRevoked, ShmPoolAnnounce, ShutdownReason, StreamId,
};

use crate::Failure;
use crate::line::{Lease, Line, random_client};

/// Lease ids around our own that we try to give back for others.
const GUESSES: u64 = 400;

pub(crate) fn run(socket: &Path, other: &str) -> Result<(), Failure> {
    let other = StreamId(other.parse()?);
    let mut line = Line::connect(socket)?;
    let stream = line.stream()?;
    for role in [Role::Producer, Role::Consumer] {
        let (answer, _) = line.ask(role, other, random_client())?;
        println!(
            "{role:?} of another stream: refused, `{}`",
            answer.error_message
        );
    }
    let lease = line.lease(stream)?;
    let other_role = match lease.role {
        Role::Producer => Role::Consumer,
        Role::Consumer | Role::Unknown(_) => Role::Producer,
    };
    let (answer, _) = line.ask(other_role, stream, random_client())?;
    println!(
        "{other_role:?} through the volume of a {:?}: refused, `{}`",
        lease.role, answer.error_message
    );
    let sent = as_others(&line, other)? + as_holders(&line, other, &lease)?;
    // Our own lease is as it was.
    line.send(LogicalStream::Control, lease.detach()?)?;
    let answer = line.wait_for(|message| match message {
        Message::ShmDetachResponse(response) if response.correlation_id == CorrelationId(-1) => {
            Some(response.code)
        }
        _ => None,
    })?;
    let (code, _) = answer.ok_or("the driver ended the connection")?;
    println!("{sent} messages in others' names; our own lease given back: {code:?}");
    Ok(())
}

/// What only the driver says, and what only the producer of the other stream says.
fn as_others(line: &Line, other: StreamId) -> Result<u64, Failure> {
    let beyond = Epoch(u64::MAX >> 2);
    let everybody = ClientId(1);
    let shutdown = ShmDriverShutdown {
        timestamp_ns: MonoNanos(1),
        reason: ShutdownReason::Admin,
        error_message: "forged".to_owned(),
    };
    let request = ShmDriverShutdownRequest {
        correlation_id: CorrelationId(1),
        reason: ShutdownReason::Admin,
        token: "forged".to_owned(),
        error_message: "forged".to_owned(),
    };
    let announce = ShmPoolAnnounce {
        stream_id: other,
        producer_id: everybody,
        epoch: beyond,
        announce_timestamp_ns: MonoNanos(1),
        announce_clock_domain: ClockDomain::Monotonic,
        layout_version: 1,
        header_nslots: 8,
        header_slot_bytes: 256,
        payload_pools: Vec::new(),
        header_region_uri: "shm:file?path=/dev/null".to_owned(),
    };
    let qos = QosProducer {
        stream_id: other,
        producer_id: everybody,
        epoch: beyond,
        current_seq: Seq(0),
        watermark: None,
    };
    let source = DataSourceAnnounce {
        stream_id: other,
        producer_id: everybody,
        epoch: beyond,
        meta_version: u32::MAX,
        name: "forged".to_owned(),
        summary: "forged".to_owned(),
    };
    let progress = FrameProgress {
        stream_id: other,
        epoch: beyond,
        seq: Seq(1),
        payload_bytes_filled: 1,
        state: FrameProgressState::Started,
    };
    let all: [(LogicalStream, Message); 6] = [
        (LogicalStream::Control, shutdown.into()),
        (LogicalStream::Control, request.into()),
        (LogicalStream::Announce, announce.into()),
        (LogicalStream::Qos, qos.into()),
        (LogicalStream::Metadata, source.into()),
        (LogicalStream::Control, progress.into()),
    ];
    let mut sent = 0;
    for (stream, message) in all {
        sent += u64::from(line.send(stream, message)?);
    }
    Ok(sent)
}

/// Leases of others, by their numbers: the ids are in a row.
fn as_holders(line: &Line, other: StreamId, own: &Lease) -> Result<u64, Failure> {
    let own = own.keepalive()?.lease_id.get();
    let mut sent = 0;
    for id in (own.saturating_sub(GUESSES)..own + GUESSES).filter(|id| *id != own) {
        let role = if id % 2 == 0 {
            Role::Producer
        } else {
            Role::Consumer
        };
        let (lease_id, client_id) = (LeaseId(id), ClientId(1));
        let message: Message = match id % 3 {
            0 => ShmDetachRequest {
                correlation_id: CorrelationId(1),
                lease_id,
                stream_id: other,
                client_id,
                role,
            }
            .into(),
            1 => ShmLeaseKeepalive {
                lease_id,
                stream_id: other,
                client_id,
                role,
                client_timestamp_ns: MonoNanos(0),
            }
            .into(),
            _ => ShmLeaseRevoked {
                timestamp_ns: MonoNanos(1),
                lease_id,
                stream_id: other,
                client_id,
                role,
                reason: LeaseRevokeReason::Revoked,
                error_message: "forged".to_owned(),
            }
            .into(),
        };
        sent += u64::from(line.send(LogicalStream::Control, message)?);
    }
    Ok(sent)
}
