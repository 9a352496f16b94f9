//! Kubelet's calls as the `csi` container counted them, on their way to the driver's metrics.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::protocol::Code;

/// Upper limits of [`Calls::counts`] in milliseconds. Kubelet gives a call two minutes; a publish asks
/// the API server.
pub const LIMITS_MS: [u16; 8] = [1, 5, 20, 100, 500, 2_000, 10_000, 60_000];

/// A call of CSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rpc {
    /// Who is it?
    GetPluginInfo,
    /// What can it do?
    GetPluginCapabilities,
    /// Is it there?
    Probe,
    /// Mount a volume.
    NodePublishVolume,
    /// Unmount a volume.
    NodeUnpublishVolume,
    /// What does a volume use?
    NodeGetVolumeStats,
    /// What can it do on the node?
    NodeGetCapabilities,
    /// Which node is it?
    NodeGetInfo,
}

impl Rpc {
    /// Bounded label: the name in CSI.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::GetPluginInfo => "GetPluginInfo",
            Self::GetPluginCapabilities => "GetPluginCapabilities",
            Self::Probe => "Probe",
            Self::NodePublishVolume => "NodePublishVolume",
            Self::NodeUnpublishVolume => "NodeUnpublishVolume",
            Self::NodeGetVolumeStats => "NodeGetVolumeStats",
            Self::NodeGetCapabilities => "NodeGetCapabilities",
            Self::NodeGetInfo => "NodeGetInfo",
        }
    }
}

/// How a call was answered: gRPC's codes, those that are not used here as [`Code::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Another call for the volume is under way.
    Aborted,
    /// Not done, for this reason.
    #[serde(untagged)]
    Refused(Code),
}

impl Outcome {
    /// Bounded label: the name in gRPC.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Aborted => "ABORTED",
            Self::Refused(code) => code.name(),
        }
    }
}

/// All calls of one kind with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Calls {
    /// The call.
    pub rpc: Rpc,
    /// Its outcome.
    pub outcome: Outcome,
    /// Time that all of them took together, in nanoseconds.
    pub sum_ns: u64,
    /// How many took at most each of [`LIMITS_MS`] and more than the one before; the last, how
    /// many took longer.
    pub counts: [u64; LIMITS_MS.len() + 1],
}

impl Calls {
    /// None so far.
    #[must_use]
    pub const fn none(rpc: Rpc, outcome: Outcome) -> Self {
        Self {
            rpc,
            outcome,
            sum_ns: 0,
            counts: [0; LIMITS_MS.len() + 1],
        }
    }

    /// One more.
    pub fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns = self.sum_ns.saturating_add(nanos);
        let within = |limit: &u16| took <= Duration::from_millis((*limit).into());
        let at = LIMITS_MS.iter().position(within);
        self.counts[at.unwrap_or(LIMITS_MS.len())] += 1;
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_in_the_first_limit_that_it_keeps() {
        let mut calls = Calls::none(Rpc::NodePublishVolume, Outcome::Ok);
        for millis in [0, 1, 2, 100, 60_001] {
            calls.add(Duration::from_millis(millis));
        }
        assert_eq!(calls.counts, [2, 1, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!((calls.count(), calls.sum_ns), (5, 60_104_000_000));
    }
}
