//! Who gets in: the attach checks in their order, one function per rule.
//!
//! Nothing changes before the last check has passed: a refused attach leaves no trace but its answer.

use tensorpool_wire::{
    ClientId, CorrelationId, HugepagesPolicy, LeaseId, LogicalStream, NodeId, Origin, PublishMode,
    ResponseCode, ShmAttachRequest, ShmAttachResponse, StreamId,
};

use crate::access::{Access, Visible};
use crate::action::{Action, EpochCause, To};
use crate::config::BaseId;
use crate::connect::allows;
use crate::counters::{DropReason, bump};
use crate::driver::{Driver, send};
use crate::layout::LAYOUT_VERSION;
use crate::lease::{Asker, LeaseRole};
use crate::policy::Profile;
use crate::refusal::{Refusal, clip};
use crate::stream::{Phase, Place, Stream};

/// What an attach comes to, if it is not refused.
#[derive(Debug)]
enum Verdict {
    /// A retry of this lease's attach: the same answer again.
    Again(LeaseId),
    /// A retry of an attach that waits on this stream: answered once, when the files are there.
    StillWaits(StreamId),
    /// All checks passed.
    Admit { target: Target, role: LeaseRole },
}

/// The stream that is attached to.
#[derive(Debug)]
enum Target {
    Existing(StreamId),
    /// A dynamic stream that is brought into being.
    New(StreamId, Profile),
}

impl Target {
    const fn stream(&self) -> StreamId {
        match self {
            Self::Existing(stream) | Self::New(stream, _) => *stream,
        }
    }
}

impl Driver {
    pub(crate) fn on_attach(
        &mut self,
        origin: Origin,
        request: &ShmAttachRequest,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        match self.judge(origin, request) {
            Ok(Verdict::Again(lease)) => self.answer_again(lease, request.correlation_id, out),
            Ok(Verdict::StillWaits(stream)) => {
                // B-6: a consumer may renumber its retry; the newest number is answered.
                if let Some(asker) = self.waiting_mut(stream, request.client_id) {
                    asker.correlation = request.correlation_id;
                }
                Err(DropReason::AttachPending)
            }
            Ok(Verdict::Admit { target, role }) => {
                let asker = Asker {
                    client: request.client_id,
                    role,
                    origin,
                    correlation: request.correlation_id,
                    requested: request.stream_id,
                    node: self.node_ids.take(self.now, request.desired_node_id),
                };
                self.admit(target, asker, out);
                Ok(())
            }
            Err(refusal) => {
                self.refuse(origin, request.correlation_id, &refusal, out);
                Ok(())
            }
        }
    }

    /// Answers with a refusal. Optional fields stay null.
    // spec: D-4.2-8, D-4.2-11
    pub(crate) fn refuse(
        &mut self,
        origin: Origin,
        correlation_id: CorrelationId,
        refusal: &Refusal,
        out: &mut Vec<Action>,
    ) {
        bump(&mut self.counters.attaches, refusal.label());
        let response = ShmAttachResponse {
            correlation_id,
            code: refusal.code(),
            lease_id: None,
            lease_expiry_timestamp_ns: None,
            stream_id: None,
            epoch: None,
            layout_version: None,
            header_nslots: None,
            header_slot_bytes: None,
            node_id: None,
            payload_pools: Vec::new(),
            header_region_uri: String::new(),
            error_message: clip(refusal.to_string()),
        };
        debug_assert_ne!(response.code, ResponseCode::Ok, "a refusal is never OK");
        send(out, To::Origin(origin), LogicalStream::Control, response);
    }

    fn judge(&mut self, origin: Origin, request: &ShmAttachRequest) -> Result<Verdict, Refusal> {
        let role = LeaseRole::parse(request.role).ok_or(Refusal::Role)?;
        check_client_id(request.client_id)?;
        let access = self.access_of(origin, request.client_id)?;
        if let Some(verdict) = self.check_retry(origin, request, role)? {
            return Ok(verdict);
        }
        self.check_running()?;
        let mode = check_publish_mode(request.publish_mode)?;
        check_layout_version(request.expected_layout_version)?;
        self.check_hugepages(request.require_hugepages, request.stream_id, &access)?;
        let target = self.resolve_stream(request.stream_id, mode, &access)?;
        check_role_allowed(role, &target, &access)?;
        self.check_pools(&target)?;
        self.check_place(role, &target)?;
        self.check_limits(role, target.stream())?;
        self.check_node_id(request.desired_node_id)?;
        self.check_bounds(origin, &access)?;
        Ok(Verdict::Admit { target, role })
    }

    /// A retry is answered again, a second use of a client id is refused. Equal correlation ids alone
    /// do not make a retry: some clients derive them from the client id, so the origin must be equal.
    // spec: D-4.8-5, D-4.8-6, X-2-18
    fn check_retry(
        &self,
        origin: Origin,
        request: &ShmAttachRequest,
        role: LeaseRole,
    ) -> Result<Option<Verdict>, Refusal> {
        let is_retry = |asker: &Asker, stream: StreamId, may_renumber: bool| {
            let same_stream = request.stream_id == asker.requested || request.stream_id == stream;
            let same_number = request.correlation_id == asker.correlation
                || (may_renumber && role == LeaseRole::Consumer);
            asker.origin == origin && asker.role == role && same_stream && same_number
        };
        if let Some(lease) = self.leases.of_client(request.client_id) {
            return if is_retry(&lease.asker, lease.stream, !lease.kept_alive) {
                Ok(Some(Verdict::Again(lease.id)))
            } else {
                Err(Refusal::ClientBusy)
            };
        }
        let Some(stream) = self.pending.get(&request.client_id) else {
            return Ok(None);
        };
        let waits = self.streams.get(stream).is_some_and(|waited_for| {
            waited_for
                .waiting()
                .iter()
                .any(|asker| asker.client == request.client_id && is_retry(asker, *stream, true))
        });
        if waits {
            Ok(Some(Verdict::StillWaits(*stream)))
        } else {
            Err(Refusal::ClientBusy)
        }
    }

    fn check_running(&self) -> Result<(), Refusal> {
        if self.life.is_running() {
            Ok(())
        } else {
            Err(Refusal::Draining)
        }
    }

    /// A stream that is not seen is judged like one that is not there: by the first base, where it
    /// would be made.
    // spec: D-4.3-3
    fn check_hugepages(
        &self,
        policy: HugepagesPolicy,
        stream: StreamId,
        access: &Access,
    ) -> Result<(), Refusal> {
        let known = self.streams.get(&stream).filter(|_| access.sees(stream));
        let base = match known.map(|stream| &stream.place) {
            Some(Place::On(base)) => *base,
            Some(Place::Nowhere(_)) | None => BaseId::default(),
        };
        match (policy, self.config.identity.base(base).hugepages) {
            (HugepagesPolicy::Unknown(_), _) => Err(Refusal::HugepagesPolicy),
            (HugepagesPolicy::Hugepages, false) => Err(Refusal::HugepagesMissing),
            (HugepagesPolicy::Standard, true) => Err(Refusal::StandardPages),
            (HugepagesPolicy::Unspecified, _)
            | (HugepagesPolicy::Hugepages, true)
            | (HugepagesPolicy::Standard, false) => Ok(()),
        }
    }

    /// A configured stream counts as existing before its first epoch. Stream id 0 asks for any id of
    /// the range, an id in the range for that one (B-14).
    // spec: D-4.2-13, D-4.3-2, D-11-1
    fn resolve_stream(
        &self,
        requested: StreamId,
        mode: PublishMode,
        access: &Access,
    ) -> Result<Target, Refusal> {
        if self.streams.contains_key(&requested) && access.sees(requested) {
            return Ok(Target::Existing(requested));
        }
        let spec = self.policy.spec();
        if mode != PublishMode::ExistingOrCreate
            || !spec.allow_dynamic_streams
            || access.visible != Visible::All
        {
            return Err(Refusal::NotProvisioned);
        }
        let range = spec.stream_id_range.ok_or(Refusal::RangeUnset)?;
        let stream = if requested == StreamId(0) {
            let used = self
                .streams
                .range(StreamId(range.start)..=StreamId(range.end))
                .map(|(id, _)| id.get());
            range
                .first_free(used)
                .map(StreamId)
                .ok_or(Refusal::RangeExhausted)?
        } else if range.contains(requested.get()) {
            requested
        } else {
            return Err(Refusal::NotProvisioned);
        };
        let profile = self
            .policy
            .default_profile()
            .ok_or(Refusal::ProfileMissing)?;
        let limit = self.config.limits.streams;
        if self.streams.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(Refusal::StreamLimit { limit });
        }
        Ok(Target::New(stream, profile.clone()))
    }

    // spec: D-4.3-4
    fn check_pools(&self, target: &Target) -> Result<(), Refusal> {
        let empty = match target {
            Target::Existing(stream) => self
                .streams
                .get(stream)
                .is_none_or(|stream| stream.profile.pools.is_empty()),
            Target::New(_, profile) => profile.pools.is_empty(),
        };
        if empty { Err(Refusal::NoPools) } else { Ok(()) }
    }

    /// At most one producer, granted or waiting; a bounded number of consumers and of those waiting.
    // spec: D-5-1, W-15.14-5
    fn check_place(&self, role: LeaseRole, target: &Target) -> Result<(), Refusal> {
        let Some(stream) = self.streams.get(&target.stream()) else {
            return Ok(());
        };
        let waiting = stream.waiting();
        match role {
            LeaseRole::Producer => {
                let claimed = waiting.iter().any(|asker| asker.role == role);
                if stream.producer.is_some() || claimed {
                    return Err(Refusal::ProducerBusy);
                }
            }
            LeaseRole::Consumer => {
                let limit = self.config.limits.consumers_per_stream;
                let waiting = waiting.iter().filter(|asker| asker.role == role).count();
                if stream.consumers.len() + waiting >= usize::try_from(limit).unwrap_or(usize::MAX)
                {
                    return Err(Refusal::ConsumerLimit { limit });
                }
            }
        }
        let limit = self.config.limits.pending_attaches_per_stream;
        if waiting.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(Refusal::PendingLimit { limit });
        }
        Ok(())
    }

    // spec: D-4.2-15
    fn check_node_id(&mut self, desired: Option<NodeId>) -> Result<(), Refusal> {
        match desired {
            Some(id) if !self.node_ids.is_free(self.now, id) => Err(Refusal::NodeIdBusy),
            Some(_) | None => Ok(()),
        }
    }

    fn check_bounds(&self, origin: Origin, access: &Access) -> Result<(), Refusal> {
        if let Origin::Socket { connection } = origin
            && let Some(connection) = self.connections.get(connection)
        {
            let limit = self.config.limits.leases_per_connection.min(access.leases);
            let used = connection.leases.len() + connection.pending.len();
            if used >= usize::try_from(limit).unwrap_or(usize::MAX) {
                return Err(Refusal::ConnectionLimit { limit });
            }
        }
        let limit = self.config.limits.leases;
        let used = self.leases.len() + self.pending.len();
        if used >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(Refusal::OutOfLeases { limit });
        }
        Ok(())
    }

    /// All checks passed: a lease now, or when an epoch is there.
    fn admit(&mut self, target: Target, asker: Asker, out: &mut Vec<Action>) {
        let id = target.stream();
        if let Target::New(id, profile) = target {
            self.streams.insert(id, Stream::dynamic(profile, self.now));
        }
        self.enter_pending(id, &asker, out);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let cause = match asker.role {
            LeaseRole::Producer => EpochCause::ProducerAttached,
            LeaseRole::Consumer => EpochCause::FirstConsumer,
        };
        match std::mem::replace(&mut stream.phase, Phase::Absent) {
            Phase::Ready(current) if asker.role == LeaseRole::Consumer => {
                stream.phase = Phase::Ready(current);
                let is_on_aeron = asker.connection().is_none();
                self.grant(id, asker, out);
                if is_on_aeron {
                    self.announce_to_newcomer(id, out);
                }
            }
            // An epoch that nobody knows yet serves this attach as well: it is newer than the end of
            // the lease before, and that is what the rule asks for.
            Phase::Making {
                mut making,
                previous,
            } => {
                making.waiting.push(asker);
                stream.phase = Phase::Making { making, previous };
            }
            // spec: D-6-1
            Phase::Ready(current) => self.raise(id, cause, vec![asker], Some(current), out),
            Phase::Absent | Phase::Failed { .. } => self.raise(id, cause, vec![asker], None, out),
        }
    }

    // spec: X-2-36
    fn enter_pending(&mut self, stream: StreamId, asker: &Asker, out: &mut Vec<Action>) {
        self.pending.insert(asker.client, stream);
        if let Some(connection) = asker.connection() {
            if let Some(known) = self.connections.get_mut(connection) {
                known.pending.insert(asker.client);
            }
            // Memory may take longer to make than the limit allows.
            out.push(Action::MarkAttached { connection });
        }
    }

    /// An attach no longer waits: granted, refused, or its connection is gone.
    pub(crate) fn leave_pending(&mut self, asker: &Asker) {
        self.pending.remove(&asker.client);
        if let Some(connection) = asker.connection()
            && let Some(connection) = self.connections.get_mut(connection)
        {
            connection.pending.remove(&asker.client);
        }
    }

    /// Refuses an attach that was admitted before.
    pub(crate) fn refuse_waiting(
        &mut self,
        asker: &Asker,
        refusal: &Refusal,
        out: &mut Vec<Action>,
    ) {
        self.leave_pending(asker);
        if let Some(node) = asker.node {
            self.node_ids.give_back(self.now, node);
        }
        self.refuse(asker.origin, asker.correlation, refusal, out);
    }

    fn waiting_mut(&mut self, stream: StreamId, client: ClientId) -> Option<&mut Asker> {
        let making = self.streams.get_mut(&stream)?.making_mut()?;
        making
            .waiting
            .iter_mut()
            .find(|asker| asker.client == client)
    }
}

const fn check_client_id(client: ClientId) -> Result<(), Refusal> {
    if client.get() == 0 {
        Err(Refusal::ClientIdZero)
    } else {
        Ok(())
    }
}

/// Absent means REQUIRE_EXISTING (B-12).
// spec: D-4.2-16
const fn check_publish_mode(mode: Option<PublishMode>) -> Result<PublishMode, Refusal> {
    match mode {
        None => Ok(PublishMode::RequireExisting),
        Some(PublishMode::Unknown(_)) => Err(Refusal::PublishMode),
        Some(mode @ (PublishMode::RequireExisting | PublishMode::ExistingOrCreate)) => Ok(mode),
    }
}

/// 0 and the null value mean "any".
// spec: D-4.3-1
const fn check_layout_version(expected: u32) -> Result<(), Refusal> {
    match expected {
        0 | LAYOUT_VERSION | u32::MAX => Ok(()),
        _ => Err(Refusal::LayoutVersion),
    }
}

fn check_role_allowed(role: LeaseRole, target: &Target, access: &Access) -> Result<(), Refusal> {
    if allows(access.roles(target.stream()), role) {
        Ok(())
    } else {
        Err(Refusal::RoleDenied)
    }
}
