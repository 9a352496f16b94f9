//! Everything that reaches the duty cycle, turned into events for the core.

use tensorpool_driver_core::{Action, Driver, Event, OpId, ShutdownMode};
use tensorpool_transport::port::{CloseReason, Inbound, ServerPort};
use tensorpool_wire::{ConnectionId, MonoNanos};

use super::asked::Attachments;
use super::{Fatal, Runtime, SCAN_PERIOD_NS};
use crate::config;
use crate::counters::{Counters, WayIn};
use crate::files::Done;
use crate::log_share::{About, LogShare};
use crate::status::Answers;

/// Rounds over one input in one cycle. An input that is not empty after these is polled on in the
/// next cycle, and nothing expires until then.
const POLL_ROUNDS: usize = 64;

impl Runtime {
    /// Polls both ways in. The flag says whether both were empty at the end.
    pub(super) fn poll_inputs(&mut self, now: MonoNanos, out: &mut Vec<Action>) -> (usize, bool) {
        let mut work = 0;
        let mut emptied = true;
        if let Some(socket) = &mut self.socket {
            let mut taker = Taker {
                now,
                way: WayIn::Socket,
                core: &mut self.core,
                counters: &mut self.counters,
                answers: &mut self.answers,
                attachments: &mut self.attachments,
                log_share: &mut self.log_share,
                out,
            };
            let mut rounds = 0;
            loop {
                let polled = socket.poll(now, &mut |inbound| taker.take(inbound));
                match polled {
                    Ok(0) => break,
                    Ok(count) => work += count,
                    Err(dead) => {
                        // Only the kernel can take epoll away. Without a way in nobody is served.
                        tracing::error!(error = %dead, "the socket failed");
                        self.fatal = Some(Fatal::Socket(dead.to_string()));
                        taker.hand(Event::Shutdown(ShutdownMode::Handover));
                        break;
                    }
                }
                rounds += 1;
                if rounds >= POLL_ROUNDS {
                    emptied = false;
                    break;
                }
            }
        }
        if let Some(aeron) = &mut self.aeron {
            let mut received = Counters::default();
            let mut taker = Taker {
                now,
                way: WayIn::Aeron,
                core: &mut self.core,
                counters: &mut received,
                answers: &mut self.answers,
                attachments: &mut self.attachments,
                log_share: &mut self.log_share,
                out,
            };
            let mut rounds = 0;
            loop {
                let count = aeron.poll(now, &mut self.counters, &mut |inbound| taker.take(inbound));
                work += count;
                rounds += 1;
                if count == 0 {
                    break;
                }
                if rounds >= POLL_ROUNDS {
                    emptied = false;
                    break;
                }
            }
            for (way, count) in received.received {
                Counters::add(&mut self.counters.received, way, count);
            }
        }
        (work, emptied)
    }

    pub(super) fn take_done(&mut self, now: MonoNanos, out: &mut Vec<Action>) -> usize {
        let mut work = 0;
        while let Some(done) = self.files.next_done() {
            work += 1;
            let event = match done {
                Done::Persisted { op, result: Ok(()) } => {
                    self.counters.epochs_persisted += 1;
                    Event::EpochPersisted { op }
                }
                Done::Persisted {
                    op,
                    result: Err(error),
                } => {
                    self.fail("persist", &error);
                    Event::EpochPersistFailed { op, error }
                }
                Done::Created {
                    op,
                    key,
                    result: Ok(created),
                } => {
                    self.epochs.insert(key, created);
                    Event::RegionsReady { op }
                }
                Done::Created {
                    op,
                    key: _,
                    result: Err(error),
                } => {
                    self.fail("create", &error.to_string());
                    Event::RegionsFailed { op, error }
                }
                Done::Removed { op, result } => self.removed(op, result),
                Done::Marked => continue,
                Done::CannotLock { error } => {
                    tracing::error!(error, "memory cannot be locked; ending");
                    self.fatal = Some(Fatal::CannotLock(error));
                    self.ending = true;
                    Event::Shutdown(ShutdownMode::Drain)
                }
                Done::Scanned(found) => {
                    let alive = crate::scan::others_alive(&found);
                    self.scan_at = alive.then(|| now.saturating_add(SCAN_PERIOD_NS));
                    Event::EpochsFound(found)
                }
            };
            self.core.handle(now, event, out);
        }
        work
    }

    fn removed(&mut self, op: OpId, result: Result<bool, String>) -> Event<'static> {
        match result {
            Ok(true) => {
                // The core has nothing to note of it, and the node's status shows it.
                self.commands.changed();
                Event::EpochRemoved { op }
            }
            Ok(false) => Event::EpochInUse { op },
            Err(error) => {
                self.fail("remove", &error);
                Event::EpochRemoveFailed { op, error }
            }
        }
    }

    fn fail(&mut self, operation: &'static str, error: &str) {
        Counters::bump(&mut self.counters.file_failures, operation);
        tracing::warn!(operation, error, "a file operation failed");
    }

    pub(super) fn take_signals(&mut self, now: MonoNanos, out: &mut Vec<Action>) {
        if self.signals.take_reload() {
            self.log_filter.reload();
        }
        if self.signals.end_requested() && !self.ending {
            self.ending = true;
            let mode = match self.shutdown_mode {
                config::ShutdownMode::Drain => ShutdownMode::Drain,
                config::ShutdownMode::Handover => ShutdownMode::Handover,
            };
            tracing::info!(mode = self.shutdown_mode.name(), "asked to end");
            self.core.handle(now, Event::Shutdown(mode), out);
        }
    }
}

/// Turns what a port hands over into events.
struct Taker<'a> {
    now: MonoNanos,
    way: WayIn,
    core: &'a mut Driver,
    counters: &'a mut Counters,
    answers: &'a mut Answers,
    attachments: &'a mut Attachments,
    log_share: &'a mut LogShare,
    out: &'a mut Vec<Action>,
}

/// Lines a second about what a client does wrong, for each kind of wrong.
const COMPLAINTS_PER_SECOND: u32 = 1;

impl Taker<'_> {
    fn complain(&mut self, attachment: u32, what: &'static str) -> Option<u64> {
        let about = About::Attachment(attachment);
        self.log_share
            .take(self.now, about, what, COMPLAINTS_PER_SECOND)
    }

    fn hand(&mut self, event: Event<'_>) {
        self.core.handle(self.now, event, self.out);
    }

    fn take(&mut self, inbound: Inbound<'_>) {
        let event = match inbound {
            Inbound::Opened {
                connection,
                attachment,
                pid,
                uid,
            } => {
                tracing::debug!(connection = connection.0, attachment, pid, uid, "connected");
                Event::ConnectionOpened {
                    connection,
                    access: self.attachments.connected(attachment, connection),
                    pid,
                    uid,
                }
            }
            Inbound::Refused {
                attachment,
                uid,
                text,
            } => {
                if let Some(unsaid) = self.complain(attachment, "refused") {
                    tracing::warn!(attachment, uid, text, unsaid, "a connection was refused");
                }
                return;
            }
            Inbound::Message {
                origin,
                stream,
                bytes,
            } => {
                Counters::bump(&mut self.counters.received, self.way);
                Event::Message {
                    origin,
                    stream,
                    bytes,
                }
            }
            Inbound::Closing {
                connection,
                why,
                text,
            } => {
                let (attachment, reason) = (self.attachments.of(connection), why.label());
                if let Some(unsaid) = self.complain(attachment, reason) {
                    let connection = connection.0;
                    tracing::warn!(
                        connection,
                        attachment,
                        reason,
                        text,
                        unsaid,
                        "a connection is cut off"
                    );
                }
                Event::ConnectionClosing {
                    connection,
                    text: text.to_owned(),
                }
            }
            Inbound::Closed { connection, why } => {
                closed(connection, why, self.answers);
                self.attachments.disconnected(connection);
                Event::ConnectionClosed { connection }
            }
        };
        self.hand(event);
    }
}

fn closed(connection: ConnectionId, why: CloseReason, answers: &mut Answers) {
    tracing::debug!(
        connection = connection.0,
        reason = why.label(),
        "disconnected"
    );
    answers.remove(connection);
}
