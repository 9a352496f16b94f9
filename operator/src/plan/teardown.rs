//! When a deleted stream may go.

use std::collections::BTreeSet;

use crate::plan::world::{Stream, World, reports};

/// Nodes that still hold the stream, or may: it is in their policy, they report it, or they have not
/// yet said that they follow the policy without it, or their object cannot be read. Nobody waits for a node whose driver is dead, or
/// never was.
pub(super) fn holders<'a>(world: &World<'a>, stream: &Stream<'_>) -> Vec<&'a str> {
    let holds = |name: &str| {
        if world.unreadable.pool_nodes.contains(name) {
            return true;
        }
        let Some(object) = world.pool_nodes.get(name) else {
            return false;
        };
        let told = object.spec.streams.iter().any(|it| it.uid == stream.uid);
        let reported = reports(object).iter().any(|it| it.uid == stream.uid);
        let status = object.status.as_ref();
        let observed = status.and_then(|status| status.observed_policy_revision.as_deref());
        let lags = observed.is_some_and(|observed| observed != object.spec.policy_revision);
        told || reported || lags
    };
    let unreadable = world.unreadable.pool_nodes.iter().map(String::as_str);
    let names: BTreeSet<&str> = world.pool_nodes.keys().copied().chain(unreadable).collect();
    names
        .into_iter()
        .filter(|name| world.driver_of(name).is_expected_back() && holds(name))
        .collect()
}
