//! What other threads ask, answered by the duty cycle: the policy, attachments, a look at everything.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use tensorpool_driver_core::config::{Access, Policy, PolicyError, PolicySpec};
use tensorpool_driver_core::{Action, ClientRange, Event};
use tensorpool_wire::{ConnectionId, MonoNanos};
use tokio::sync::oneshot;

use super::Runtime;
use crate::aeron::Aeron;
use crate::control::{AttachmentId, Closed, Command, OpenError, Opening, Snapshot};
use crate::log_share::About;

/// Questions that are answered in one cycle; the others wait for the next.
const PER_CYCLE: usize = 64;
/// Name of the socket file in an attachment's directory.
const SOCKET: &str = "driver.sock";

/// The attachments and their connections.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    open: BTreeMap<AttachmentId, Attachment>,
    by_connection: BTreeMap<ConnectionId, AttachmentId>,
    /// Those whose last connection has not gone yet, with who waits for that.
    closing: BTreeMap<AttachmentId, Vec<Waiting>>,
}

#[derive(Debug)]
struct Attachment {
    access: Access,
    connections: BTreeSet<ConnectionId>,
    /// Names the socket file while it is there.
    _directory: OwnedFd,
}

#[derive(Debug)]
struct Waiting {
    closed: Closed,
    reply: oneshot::Sender<Closed>,
}

impl Attachments {
    /// What whoever connects through this socket file may do: nothing, if it is not served any more.
    pub(super) fn connected(&mut self, attachment: u32, connection: ConnectionId) -> Access {
        if attachment == super::STANDALONE {
            return Access::everything();
        }
        let id = AttachmentId(attachment);
        self.by_connection.insert(connection, id);
        match self.open.get_mut(&id) {
            Some(open) => {
                open.connections.insert(connection);
                open.access.clone()
            }
            None => Access::nothing(),
        }
    }

    /// Through whose socket file a connection came.
    pub(super) fn of(&self, connection: ConnectionId) -> u32 {
        let id = self.by_connection.get(&connection);
        id.map_or(super::STANDALONE, |id| id.0)
    }

    /// A connection is gone, and with the last one of an attachment that ends the attachment.
    pub(super) fn disconnected(&mut self, connection: ConnectionId) {
        let Some(id) = self.by_connection.remove(&connection) else {
            return;
        };
        if let Some(open) = self.open.get_mut(&id) {
            open.connections.remove(&connection);
        }
        let remain = self.by_connection.values().any(|other| *other == id);
        if !remain && let Some(waiting) = self.closing.remove(&id) {
            for Waiting { closed, reply } in waiting {
                let _unasked = reply.send(closed);
            }
        }
    }
}

impl Runtime {
    /// Answers what was asked. Returns how much that was.
    pub(super) fn take_commands(&mut self, now: MonoNanos, out: &mut Vec<Action>) -> usize {
        self.commands.hush();
        for taken in 0..PER_CYCLE {
            let Some(command) = self.commands.next() else {
                return taken;
            };
            self.obey(now, command, out);
        }
        PER_CYCLE
    }

    fn obey(&mut self, now: MonoNanos, command: Command, out: &mut Vec<Action>) {
        // Whoever asked may have given up; then nobody misses the answer.
        match command {
            Command::SetPolicy {
                revision,
                policy,
                reply,
            } => {
                let _unasked = reply.send(self.set_policy(now, revision, *policy, out));
            }
            Command::Open { opening, reply } => {
                let opened = self.open_attachment(now, opening, out);
                if let Err(Ok(())) = reply.send(opened) {
                    tracing::debug!("nobody waits for an attachment that was opened");
                }
            }
            Command::SetAccess {
                attachment,
                access,
                text,
                reply,
            } => {
                let _unasked = reply.send(self.set_access(now, attachment, access, &text, out));
            }
            Command::Close {
                attachment,
                text,
                reply,
            } => self.close_attachment(now, attachment, &text, reply, out),
            Command::Look { reply } => {
                let snapshot = self.look();
                let _unasked = reply.send(snapshot);
            }
        }
    }

    fn set_policy(
        &mut self,
        now: MonoNanos,
        revision: String,
        spec: PolicySpec,
        out: &mut Vec<Action>,
    ) -> Result<(), PolicyError> {
        let policy: Policy = spec.validate(&self.reserved_stream_ids)?;
        let event = Event::PolicyChanged(Box::new(policy));
        self.core.handle(now, event, out);
        if self.revision.replace(revision).is_none() && self.awaits_policy {
            tracing::info!("the first policy has come");
        }
        self.commands.changed();
        Ok(())
    }

    fn open_attachment(
        &mut self,
        now: MonoNanos,
        opening: Opening,
        out: &mut Vec<Action>,
    ) -> Result<(), OpenError> {
        let Opening {
            attachment,
            directory,
            mode,
            access,
        } = opening;
        if attachment.0 == super::STANDALONE {
            return Err(OpenError::Reserved);
        }
        let Some(socket) = &mut self.socket else {
            return Err(OpenError::NoSockets);
        };
        // The host's path of a volume is longer than a socket address may be.
        let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        socket.add_listener(attachment.0, Path::new(&path), mode)?;
        tracing::info!(attachment = attachment.0, "attachment opened");
        if let Some(place) = &access.aeron {
            let clients = place.clients;
            self.allow_on_aeron(now, clients, Some(access.clone()), "", out);
        }
        let open = Attachment {
            access,
            connections: BTreeSet::new(),
            _directory: directory,
        };
        self.attachments.open.insert(attachment, open);
        Ok(())
    }

    fn set_access(
        &mut self,
        now: MonoNanos,
        attachment: AttachmentId,
        access: Access,
        text: &str,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(open) = self.attachments.open.get_mut(&attachment) else {
            return false;
        };
        open.access = access.clone();
        let connections = open.connections.clone();
        if let Some(place) = &access.aeron {
            let clients = place.clients;
            self.allow_on_aeron(now, clients, Some(access.clone()), text, out);
        }
        for connection in connections {
            let event = Event::AccessChanged {
                connection,
                access: access.clone(),
                text: text.to_owned(),
            };
            self.core.handle(now, event, out);
        }
        true
    }

    /// Tells what the holder of client ids may do on Aeron.
    fn allow_on_aeron(
        &mut self,
        now: MonoNanos,
        clients: ClientRange,
        access: Option<Access>,
        text: &str,
        out: &mut Vec<Action>,
    ) {
        let text = text.to_owned();
        let event = Event::AeronClients {
            clients,
            access,
            text,
        };
        self.core.handle(now, event, out);
    }

    /// Last words to every connection, then the end of it; the socket file goes at once.
    fn close_attachment(
        &mut self,
        now: MonoNanos,
        attachment: AttachmentId,
        text: &str,
        reply: oneshot::Sender<Closed>,
        out: &mut Vec<Action>,
    ) {
        let Some(open) = self.attachments.open.remove(&attachment) else {
            // One that is ending already is waited for; of one that never was nothing is left.
            match self.attachments.closing.get_mut(&attachment) {
                Some(waiting) => waiting.push(Waiting {
                    closed: Closed::default(),
                    reply,
                }),
                None => {
                    let _unasked = reply.send(Closed::default());
                }
            }
            return;
        };
        let before = self.core.lease_count();
        for connection in &open.connections {
            let event = Event::ConnectionClosing {
                connection: *connection,
                text: text.to_owned(),
            };
            self.core.handle(now, event, out);
        }
        if let Some(place) = &open.access.aeron {
            self.allow_on_aeron(now, place.clients, None, text, out);
        }
        let closed = Closed {
            was_open: true,
            leases: before.saturating_sub(self.core.lease_count()),
        };
        // What was decided goes out before the connections are cut off.
        self.perform_all(now, out);
        self.commands.changed();
        if let Some(socket) = &mut self.socket
            && let Err(error) = socket.remove_listener(attachment.0)
        {
            tracing::warn!(attachment = attachment.0, %error, "the socket file was not removed");
        }
        self.log_share.forget(About::Attachment(attachment.0));
        tracing::info!(
            attachment = attachment.0,
            leases = closed.leases,
            text,
            "attachment closed"
        );
        if open.connections.is_empty() {
            let _unasked = reply.send(closed);
        } else {
            let waiting = vec![Waiting { closed, reply }];
            self.attachments.closing.insert(attachment, waiting);
        }
    }

    fn look(&mut self) -> Snapshot {
        let status = self.core.status();
        Snapshot {
            revision: self.revision.clone(),
            bases: self.stores.facts(&status.bases),
            status,
            attachments: self.attachments.by_connection.clone(),
            media_driver: self.aeron.as_mut().map(Aeron::is_up),
        }
    }
}
