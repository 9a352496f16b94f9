//! Client ids on Aeron that were given to attachments, where not everybody there may do everything.
//!
//! A message on Aeron does not say whose it is. So each attachment that may use Aeron gets 256 client
//! ids of its own, and an attach counts only with one of them, for what that attachment may do. The ids
//! are visible to everybody on Aeron: they tell apart and account for, they are no secret (X-2-73).

use std::collections::BTreeMap;
use std::fmt;

use tensorpool_wire::{ClientId, LeaseId, Origin};

use crate::access::Access;
use crate::action::Action;
use crate::connect::allows;
use crate::driver::Driver;
use crate::grant::End;
use crate::refusal::Refusal;

/// Ids of one attachment.
const COUNT: u32 = 256;

/// 256 client ids in a row, the first a multiple of 256 that is neither 0 nor negative as a signed
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientRange {
    first: u32,
}

impl ClientRange {
    /// How many ranges there are: their prefixes are 1 to this.
    pub const PREFIXES: u32 = (1 << 23) - 1;

    /// The range with this prefix, 1 to [`ClientRange::PREFIXES`].
    #[must_use]
    pub const fn of_prefix(prefix: u32) -> Option<Self> {
        if prefix == 0 || prefix > Self::PREFIXES {
            return None;
        }
        Some(Self {
            first: prefix * COUNT,
        })
    }

    /// The range that begins with this id.
    #[must_use]
    pub const fn from_first(first: u32) -> Option<Self> {
        if first.is_multiple_of(COUNT) {
            Self::of_prefix(first / COUNT)
        } else {
            None
        }
    }

    /// Its first id.
    #[must_use]
    pub const fn first(self) -> u32 {
        self.first
    }

    /// Its last id.
    #[must_use]
    pub const fn last(self) -> u32 {
        self.first + (COUNT - 1)
    }

    /// Whether `client` is one of its ids.
    #[must_use]
    pub const fn contains(self, client: ClientId) -> bool {
        client.get() >= self.first && client.get() <= self.last()
    }

    /// The range that holds `client`, given to somebody or not.
    const fn holding(client: ClientId) -> Option<Self> {
        Self::of_prefix(client.get() / COUNT)
    }
}

impl fmt::Display for ClientRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last())
    }
}

/// The ranges that were given away, with what their holders may do.
#[derive(Debug, Default)]
pub(crate) struct Assigned {
    table: BTreeMap<ClientRange, Access>,
}

impl Assigned {
    fn of(&self, client: ClientId) -> Option<&Access> {
        self.table.get(&ClientRange::holding(client)?)
    }
}

impl Driver {
    /// What whoever sends from `origin` as `client` may do.
    // spec: X-2-73
    pub(crate) fn access_of(&self, origin: Origin, client: ClientId) -> Result<Access, Refusal> {
        let assigned = self.assigned.of(client);
        match origin {
            Origin::Aeron { .. } => match assigned {
                Some(access) => Ok(access.clone()),
                // Without attachments Aeron is one trust domain.
                None if !self.policy.spec().aeron_clients_assigned => Ok(Access::everything()),
                None => Err(Refusal::ClientNotAssigned { client }),
            },
            // Somebody on Aeron could not attach any more.
            Origin::Socket { .. } if assigned.is_some() => Err(Refusal::ClientAssigned { client }),
            Origin::Socket { connection } => Ok(self
                .connections
                .get(connection)
                .map_or_else(Access::nothing, |connection| connection.access.clone())),
        }
    }

    /// What the holder of a range may do from now on; `None` takes the range back. What it holds and may
    /// no longer have is revoked with `text`.
    // spec: X-2-73
    pub(crate) fn on_aeron_clients(
        &mut self,
        clients: ClientRange,
        access: Option<Access>,
        text: &str,
        out: &mut Vec<Action>,
    ) {
        let may = access.clone().unwrap_or_else(Access::nothing);
        match access {
            Some(access) => self.assigned.table.insert(clients, access),
            None => self.assigned.table.remove(&clients),
        };
        let denied = self.leases.iter().filter(|lease| {
            clients.contains(lease.asker.client)
                && lease.asker.connection().is_none()
                && !allows(may.roles(lease.stream), lease.asker.role)
        });
        let denied: Vec<LeaseId> = denied.map(|lease| lease.id).collect();
        for lease in denied {
            self.end_lease(lease, End::revoked(text), out);
        }
        let ids = ClientId(clients.first())..=ClientId(clients.last());
        let pending: Vec<_> = self.pending.range(ids).map(|(id, of)| (*id, *of)).collect();
        for (client, stream) in pending {
            let roles = may.roles(stream);
            let asker = self.take_waiting(client, |role| !allows(roles, role));
            if let Some(asker) = asker {
                self.refuse_waiting(&asker, &Refusal::RoleDenied, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_256_ids_with_one_prefix() {
        let range = ClientRange::of_prefix(7).unwrap();
        assert_eq!(range.to_string(), "1792-2047");
        assert_eq!(ClientRange::from_first(1792), Some(range));
        for (client, is_in) in [(1791, false), (1792, true), (2047, true), (2048, false)] {
            assert_eq!(range.contains(ClientId(client)), is_in, "{client}");
            let holding = ClientRange::holding(ClientId(client));
            assert_eq!(holding == Some(range), is_in, "{client}");
        }
    }

    #[test]
    fn no_id_is_0_or_negative_as_a_signed_number() {
        assert_eq!(ClientRange::of_prefix(0), None);
        let last = ClientRange::of_prefix(ClientRange::PREFIXES).unwrap();
        assert_eq!(i32::try_from(last.last()), Ok(i32::MAX));
        assert_eq!(ClientRange::of_prefix(ClientRange::PREFIXES + 1), None);
        assert_eq!(ClientRange::from_first(300), None, "not a multiple of 256");
        assert_eq!(ClientRange::from_first(0), None);
    }
}
