//! Live limits at attach: those of the stream, and those of every quota that it counts against.
//!
//! What waits for its files counts like what was granted, so that no two attaches pass one check. A
//! limit that was lowered ends nothing; it keeps newcomers out until usage has fallen below it.

use std::fmt;

use tensorpool_wire::StreamId;

use crate::driver::Driver;
use crate::lease::LeaseRole;
use crate::refusal::Refusal;
use crate::status::QuotaUse;
use crate::stream::{Phase, Stream};

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Bytes,
    Producers,
    Consumers,
    Leases,
}

impl Resource {
    /// Bounded label of the refusal.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Bytes => "quota_bytes",
            Self::Producers => "quota_producers",
            Self::Consumers => "quota_consumers",
            Self::Leases => "quota_leases",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes of memory",
            Self::Producers => "producers",
            Self::Consumers => "consumers",
            Self::Leases => "leases",
        })
    }
}

/// Who holds or waits for a lease.
#[derive(Clone, Copy, Debug, Default)]
struct Members {
    producers: u64,
    consumers: u64,
}

impl Members {
    fn of<'a>(streams: impl Iterator<Item = &'a Stream>) -> Self {
        let mut members = Self::default();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        for stream in streams {
            let waiting = stream.waiting();
            let produce = |role| role == LeaseRole::Producer;
            let producers = waiting.iter().filter(|asker| produce(asker.role)).count();
            members.producers += count(producers) + u64::from(stream.producer.is_some());
            members.consumers += count(waiting.len() - producers + stream.consumers.len());
        }
        members
    }

    const fn leases(self) -> u64 {
        self.producers + self.consumers
    }
}

impl Driver {
    /// The limits that an administrator set, in the order: stream, quotas by their order in the policy.
    pub(crate) fn check_limits(&self, role: LeaseRole, id: StreamId) -> Result<(), Refusal> {
        // A dynamic stream has none.
        let Some(stream) = self.streams.get(&id) else {
            return Ok(());
        };
        let has_memory = match stream.phase {
            Phase::Ready(_) | Phase::Making { .. } => true,
            Phase::Absent | Phase::Failed { .. } => false,
        };
        if self.policy.spec().cordoned && !has_memory {
            return Err(Refusal::Cordoned);
        }
        let members = Members::of(std::iter::once(stream));
        let (limit, used, what) = match role {
            LeaseRole::Producer => (
                stream.limits.producers,
                members.producers,
                Resource::Producers,
            ),
            LeaseRole::Consumer => (
                stream.limits.consumers,
                members.consumers,
                Resource::Consumers,
            ),
        };
        if let Some(limit) = limit
            && used >= u64::from(limit)
        {
            return Err(Refusal::StreamMembers {
                stream: stream.full_name(),
                what,
                limit,
                used,
            });
        }
        for quota in &stream.charge.quotas {
            self.check_quota(quota, role)?;
        }
        Ok(())
    }

    fn check_quota(&self, name: &str, role: LeaseRole) -> Result<(), Refusal> {
        let Some(quota) = self.policy.spec().quotas.get(name) else {
            return Ok(());
        };
        let members = self.members_of(name);
        let (role_limit, role_used, what) = match role {
            LeaseRole::Producer => (quota.producers, members.producers, Resource::Producers),
            LeaseRole::Consumer => (quota.consumers, members.consumers, Resource::Consumers),
        };
        let checks = [
            (what, role_limit, role_used),
            (Resource::Leases, quota.leases, members.leases()),
        ];
        for (what, limit, used) in checks {
            if let Some(limit) = limit
                && used >= limit
            {
                return Err(Refusal::Quota {
                    quota: name.to_owned(),
                    what,
                    limit,
                    used,
                    asked: 1,
                });
            }
        }
        Ok(())
    }

    fn members_of(&self, quota: &str) -> Members {
        let counts = |stream: &&Stream| stream.charge.quotas.iter().any(|name| name == quota);
        Members::of(self.streams.values().filter(counts))
    }

    /// What counts against a quota now.
    pub(crate) fn quota_use(&self, quota: &str) -> QuotaUse {
        let members = self.members_of(quota);
        QuotaUse {
            bytes: self.counted(&|record| record.charge.quotas.iter().any(|name| name == quota)),
            producers: members.producers,
            consumers: members.consumers,
            leases: members.leases(),
        }
    }
}
