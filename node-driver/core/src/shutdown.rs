//! The end of the driver: drain, handover, and the request that only a token holder can make.

use tensorpool_wire::{
    ConnectionId, LogicalStream, MonoNanos, ShmDriverShutdown, ShmDriverShutdownRequest,
    ShutdownReason, StreamId,
};

use crate::action::{Action, Note, To};
use crate::counters::DropReason;
use crate::deadline::Due;
use crate::driver::{Driver, send};
use crate::refusal::clip;
use crate::status::Lifecycle;

/// Where the driver is in its life.
#[derive(Debug)]
pub(crate) enum Life {
    Running,
    /// Attaches are refused; at `until` the notice goes out.
    Draining {
        until: MonoNanos,
        reason: ShutdownReason,
        text: String,
    },
    Stopped,
}

impl Life {
    pub(crate) const fn is_running(&self) -> bool {
        match self {
            Self::Running => true,
            Self::Draining { .. } | Self::Stopped => false,
        }
    }

    pub(crate) const fn is_stopped(&self) -> bool {
        match self {
            Self::Stopped => true,
            Self::Running | Self::Draining { .. } => false,
        }
    }

    pub(crate) const fn status(&self) -> Lifecycle {
        match self {
            Self::Running => Lifecycle::Running,
            Self::Draining { until, .. } => Lifecycle::Draining { until: *until },
            Self::Stopped => Lifecycle::Stopped,
        }
    }
}

impl Driver {
    /// Without the right token nothing happens, and nobody is told.
    // spec: D-4.13-1, D-4.13-2
    pub(crate) fn on_shutdown_request(
        &mut self,
        request: ShmDriverShutdownRequest,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let token = self.config.shutdown_token.as_bytes();
        if token.is_empty() || !is_equal(token, request.token.as_bytes()) {
            return Err(DropReason::BadToken);
        }
        let reason = match request.reason {
            ShutdownReason::Normal | ShutdownReason::Admin | ShutdownReason::Error => {
                request.reason
            }
            // Receivers refuse an unknown reason; that it was asked for by hand is certain.
            ShutdownReason::Unknown(_) => ShutdownReason::Admin,
        };
        self.drain(reason, clip(request.error_message), out);
        Ok(())
    }

    /// A signal. A second one ends the drain.
    // spec: X-2-28
    pub(crate) fn on_drain(&mut self, out: &mut Vec<Action>) {
        match self.life {
            Life::Running => self.drain(ShutdownReason::Normal, String::new(), out),
            Life::Draining { .. } => self.stop(out),
            Life::Stopped => {}
        }
    }

    // spec: D-4.13-3
    fn drain(&mut self, reason: ShutdownReason, text: String, out: &mut Vec<Action>) {
        if !self.life.is_running() {
            return;
        }
        let until = self
            .now
            .saturating_add(self.config.timing.shutdown_timeout_ns);
        self.life = Life::Draining {
            until,
            reason,
            text,
        };
        self.deadlines.set(until, Due::Stop);
        out.push(Action::Note(Note::Draining));
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        for stream in streams {
            self.announce(stream, out);
        }
    }

    /// Tells everybody and ends.
    // spec: D-4.13-3, D-4.13-4
    pub(crate) fn stop(&mut self, out: &mut Vec<Action>) {
        let (reason, text) = match std::mem::replace(&mut self.life, Life::Stopped) {
            Life::Running => (ShutdownReason::Normal, String::new()),
            Life::Draining { reason, text, .. } => (reason, text),
            Life::Stopped => return,
        };
        self.let_go(out);
        let connections: Vec<ConnectionId> = self.connections.open_ids().collect();
        let shutdown = ShmDriverShutdown {
            timestamp_ns: self.now,
            reason,
            error_message: text,
        };
        let to = To::All {
            aeron: true,
            connections,
        };
        send(out, to, LogicalStream::Control, shutdown);
        out.push(Action::Stop);
    }

    /// Ends and says nothing. The journal holds every epoch already.
    // spec: X-2-28
    pub(crate) fn hand_over(&mut self, out: &mut Vec<Action>) {
        self.life = Life::Stopped;
        self.let_go(out);
        out.push(Action::Stop);
    }

    /// No descriptor of ours may follow the notice.
    fn let_go(&mut self, out: &mut Vec<Action>) {
        self.deadlines.clear();
        for (id, stream) in &mut self.streams {
            if std::mem::take(&mut stream.relayed) {
                out.push(Action::StopRelay { stream: *id });
            }
            if std::mem::take(&mut stream.held) {
                out.push(Action::ReleaseDescriptors { stream: *id });
            }
        }
    }
}

/// Compares without telling by its duration where the first difference is (B-19).
fn is_equal(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(secret.len() != given.len());
    for (at, byte) in secret.iter().enumerate() {
        // A shorter text is compared with something that never matches in full: its length differs.
        difference |= byte ^ given.get(at).copied().unwrap_or_default();
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::is_equal;

    #[test]
    fn a_token_matches_only_as_a_whole() {
        assert!(is_equal(b"secret", b"secret"));
        for wrong in ["", "s", "secre", "secrets", "Secret", "secreT", "secret\0"] {
            assert!(!is_equal(b"secret", wrong.as_bytes()), "{wrong:?}");
        }
    }
}
