//! The attaching half of the lease machine: requests, answers, retries (driver model §4.2, §4.8).

use tensorpool_wire::{
    CorrelationId, MonoNanos, ResponseCode, ShmAttachRequest, ShmAttachResponse, ShmDetachRequest,
};

use super::phase::{Attempt, Held, Phase};
use super::{AttachFailure, ClientIds, Grant, LeaseAction, LeaseMachine, next_correlation};

/// The text of the one rejection that asks for another client id (D-B.2-2).
const CLIENT_ID_TAKEN: &str = "client_id already attached";
/// Words of a refusal on a socket: the id is one that a volume may use on Aeron.
const CLIENT_ID_ASSIGNED: &str = "counts on Aeron only";

impl LeaseMachine {
    /// Names the ids from which the next attach's is chosen; `None`: from all. An id that was fixed stays.
    // spec: X-2-73
    pub fn set_client_ids(&mut self, ids: Option<ClientIds>) {
        if self.client_ids != ids && self.chooses_client_id() {
            self.client = None;
        }
        self.client_ids = ids;
    }

    pub(super) const fn chooses_client_id(&self) -> bool {
        match self.options.client_id {
            None => true,
            Some(id) => id.get() == 0,
        }
    }

    pub(super) fn on_attach_response(
        &mut self,
        now: MonoNanos,
        response: &ShmAttachResponse,
        out: &mut Vec<LeaseAction>,
    ) {
        let attempt = match &self.phase {
            Phase::Attaching(attempt)
            | Phase::Backoff {
                unanswered: Some(attempt),
                ..
            } => attempt.clone(),
            // spec: D-B.1-2: after an accepted answer, others change nothing.
            Phase::Backoff {
                unanswered: None, ..
            }
            | Phase::Unlinked { .. }
            | Phase::Mapping(_)
            | Phase::Attached(_)
            | Phase::Detaching { .. }
            | Phase::Done => return,
            Phase::Leaving { request, .. } => {
                let request = request.clone();
                self.on_late_response(now, &request, response, out);
                return;
            }
        };
        // spec: D-4.2-1: every client of the control stream sees this; only ours counts.
        if response.correlation_id != attempt.request.correlation_id {
            return;
        }
        match response.code {
            ResponseCode::Ok => self.on_granted(now, &attempt, response, out),
            ResponseCode::Unsupported
            | ResponseCode::InvalidParams
            | ResponseCode::Rejected
            | ResponseCode::InternalError
            | ResponseCode::Unknown(_) => {
                // spec: D-B.2-2, X-2-73
                let refused = |text| response.error_message.contains(text);
                let is_the_id = refused(CLIENT_ID_TAKEN) || refused(CLIENT_ID_ASSIGNED);
                if is_the_id && self.chooses_client_id() {
                    self.client = None;
                }
                out.push(LeaseAction::Failed(AttachFailure::Refused {
                    code: response.code,
                    text: response.error_message.clone(),
                }));
                self.back_off(now, None);
            }
        }
    }

    /// The answer that a detach had to wait for: what it grants is given back.
    // spec: D-4.9-11
    fn on_late_response(
        &mut self,
        now: MonoNanos,
        request: &ShmAttachRequest,
        response: &ShmAttachResponse,
        out: &mut Vec<LeaseAction>,
    ) {
        if response.correlation_id != request.correlation_id {
            return;
        }
        let granted = match response.code {
            ResponseCode::Ok => {
                Grant::from_response(request, self.options.role, now, response).map_err(|_| ())
            }
            ResponseCode::Unsupported
            | ResponseCode::InvalidParams
            | ResponseCode::Rejected
            | ResponseCode::InternalError
            | ResponseCode::Unknown(_) => Err(()),
        };
        match granted {
            Ok(grant) => self.give_back(now, Held::new(grant, now, &self.options.timings), out),
            Err(()) => {
                self.give_back_unusable(request, response, out);
                self.finish(out);
            }
        }
    }

    /// A lease that was granted in an answer that cannot be used.
    fn give_back_unusable(
        &mut self,
        request: &ShmAttachRequest,
        response: &ShmAttachResponse,
        out: &mut Vec<LeaseAction>,
    ) {
        if response.code == ResponseCode::Ok
            && let Some(lease_id) = response.lease_id
        {
            let detach = ShmDetachRequest {
                correlation_id: CorrelationId(next_correlation(&mut self.next_correlation)),
                lease_id,
                stream_id: response.stream_id.unwrap_or(request.stream_id),
                client_id: request.client_id,
                role: request.role,
            };
            out.push(LeaseAction::Send(detach.into()));
        }
    }

    fn on_granted(
        &mut self,
        now: MonoNanos,
        attempt: &Attempt,
        response: &ShmAttachResponse,
        out: &mut Vec<LeaseAction>,
    ) {
        match Grant::from_response(&attempt.request, self.options.role, now, response) {
            Ok(grant) => {
                let held = Held::new(grant, now, &self.options.timings);
                out.push(LeaseAction::Map(Box::new(held.grant.clone())));
                self.phase = Phase::Mapping(held);
            }
            // spec: D-4.7a-1: fail closed. A lease that is known is given back, else it would block
            // this client id until it expires.
            Err(error) => {
                self.give_back_unusable(&attempt.request, response, out);
                out.push(LeaseAction::Failed(AttachFailure::Malformed(error)));
                self.back_off(now, None);
            }
        }
    }

    /// Sends the attach: the unanswered one again, else a new one.
    // spec: D-4.2-1 D-4.2-2 D-4.8-2
    pub(super) fn attach(&mut self, now: MonoNanos, out: &mut Vec<LeaseAction>) {
        let again = match core::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Backoff { unanswered, .. } => unanswered.map(|attempt| attempt.request),
            Phase::Unlinked { .. }
            | Phase::Attaching(_)
            | Phase::Mapping(_)
            | Phase::Attached(_)
            | Phase::Leaving { .. }
            | Phase::Detaching { .. }
            | Phase::Done => None,
        };
        let request = again.unwrap_or_else(|| self.new_request());
        out.push(LeaseAction::Send(request.clone().into()));
        let timings = &self.options.timings;
        self.phase = Phase::Attaching(Attempt {
            request,
            resend_at: now.saturating_add(timings.attach_retry_ns),
            give_up_at: now.saturating_add(timings.attach_timeout_ns),
        });
    }

    fn new_request(&mut self) -> ShmAttachRequest {
        let random = &mut self.random;
        // spec: D-4.8-1: one fresh id per lease, 1..2^31-1 (some peers shift it).
        let ids = self.client_ids.unwrap_or(ClientIds::ANY);
        let client = *self.client.get_or_insert_with(|| ids.pick(random.next()));
        ShmAttachRequest {
            correlation_id: CorrelationId(next_correlation(&mut self.next_correlation)),
            stream_id: self.options.stream,
            client_id: client,
            role: self.options.role.to_wire(),
            expected_layout_version: self.options.expected_layout_version,
            publish_mode: Some(self.options.publish_mode),
            require_hugepages: self.options.hugepages,
            desired_node_id: self.options.desired_node_id,
        }
    }
}
