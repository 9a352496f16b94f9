//! Quotas: what a namespace may declare is checked here; what may attach is passed on to the nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_crds::{
    NodeQuota, NodeQuotaHard, Quantity, QuotaUsed, TensorQuota, TensorQuotaStatus,
};

use crate::plan::QuotaKey;
use crate::plan::admission::{Verdict, Verdicts};
use crate::plan::world::{Stream, World, name_of};

/// One quota, with its limits as numbers.
#[derive(Clone, Debug)]
pub(super) struct QuotaFacts<'a> {
    pub(super) name: &'a str,
    pub(super) object: &'a TensorQuota,
    streams: Result<Option<u64>, String>,
    bytes: Result<Option<u64>, String>,
}

impl<'a> QuotaFacts<'a> {
    pub(super) fn all(objects: &'a [Arc<TensorQuota>]) -> BTreeMap<(&'a str, &'a str), Self> {
        let named = objects.iter().filter_map(|object| {
            let name = name_of(object.as_ref())?;
            let namespace = object.metadata.namespace.as_deref()?;
            let hard = &object.spec.hard;
            let facts = Self {
                name,
                object,
                streams: number("streams", hard.streams.as_ref()),
                bytes: number(
                    "requests.bytesPerNode",
                    hard.requests_bytes_per_node.as_ref(),
                ),
            };
            Some(((namespace, name), facts))
        });
        named.collect()
    }

    /// Whether a stream counts.
    pub(super) fn covers(&self, stream: &Stream<'_>) -> bool {
        let selector = self.object.spec.scope_selector.as_ref();
        let class = stream.object.spec.priority_class_name.as_deref();
        selector.is_none_or(|selector| selector.matches(class))
    }

    /// The limits that a driver enforces. A limit that is no number admits nobody.
    fn hard(&self) -> NodeQuotaHard {
        let hard = &self.object.spec.hard;
        let limit = |quantity: &Option<Quantity>| {
            quantity
                .as_ref()
                .map(|quantity| quantity.value().unwrap_or(0))
        };
        NodeQuotaHard {
            bytes: limit(&hard.requests_bytes_per_node),
            producers: limit(&hard.producers_per_node),
            consumers: limit(&hard.consumers_per_node),
            leases: limit(&hard.leases_per_node),
        }
    }
}

fn number(field: &str, quantity: Option<&Quantity>) -> Result<Option<u64>, String> {
    let value = quantity.map(Quantity::value).transpose();
    value.map_err(|error| format!("hard.{field}: {error}"))
}

/// The quotas of a namespace that cover a stream.
pub(super) fn covering<'w, 'a>(
    world: &'w World<'a>,
    stream: &'w Stream<'a>,
) -> impl Iterator<Item = &'w QuotaFacts<'a>> + use<'w, 'a> {
    let of_namespace = (stream.namespace, "")..;
    let quotas = world.quotas.range(of_namespace);
    let quotas = quotas.take_while(|((namespace, _), _)| *namespace == stream.namespace);
    quotas
        .map(|(_, quota)| quota)
        .filter(|quota| quota.covers(stream))
}

/// A quota as a node gets it.
pub(super) fn for_node(world: &World<'_>, namespace: &str, name: &str) -> Option<NodeQuota> {
    let quota = world.quotas.get(&(namespace, name))?;
    Some(NodeQuota {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        hard: quota.hard(),
    })
}

/// What is used while streams are admitted.
#[derive(Debug, Default)]
pub(super) struct Ledger<'a> {
    used: BTreeMap<(&'a str, &'a str), (u64, u64)>,
}

impl<'a> Ledger<'a> {
    /// Counts a stream that runs, whatever the limits say now.
    pub(super) fn count(&mut self, world: &World<'a>, stream: &Stream<'a>, bytes: u64) {
        for quota in covering(world, stream) {
            let used = self.used.entry((stream.namespace, quota.name)).or_default();
            used.0 = used.0.saturating_add(1);
            used.1 = used.1.saturating_add(bytes);
        }
    }

    /// Counts the streams that cannot be read, by what nodes were told of them.
    pub(super) fn count_unreadable(&mut self, world: &World<'a>) {
        for entry in world.unreadable_streams() {
            for name in &entry.quotas {
                let key = (entry.namespace.as_str(), name.as_str());
                let used = self.used.entry(key).or_default();
                used.0 = used.0.saturating_add(1);
                used.1 = used.1.saturating_add(entry.bytes);
            }
        }
    }

    /// Why a stream that does not run yet cannot be accepted.
    pub(super) fn refusal(
        &self,
        world: &World<'a>,
        stream: &Stream<'a>,
        bytes: u64,
    ) -> Option<String> {
        let unreadable = world.unreadable.quotas.iter();
        let mut unreadable = unreadable.filter(|(namespace, _)| namespace == stream.namespace);
        if let Some((_, name)) = unreadable.next() {
            return Some(format!(
                "quota {name} cannot be read by this version of the operator; correct it, or delete it"
            ));
        }
        covering(world, stream).find_map(|quota| {
            let used = self.used.get(&(stream.namespace, quota.name));
            let (streams, used_bytes) = used.copied().unwrap_or_default();
            let name = quota.name;
            match (&quota.streams, &quota.bytes) {
                (Err(error), _) | (_, Err(error)) => {
                    Some(format!("quota {name} cannot be read: {error}"))
                }
                (Ok(Some(limit)), _) if streams >= *limit => Some(format!(
                    "quota {name} is used up: streams: limit {limit}, used {streams}, asked 1"
                )),
                (_, Ok(Some(limit))) if used_bytes.saturating_add(bytes) > *limit => Some(format!(
                    "quota {name} is used up: requests.bytesPerNode: limit {}, used {}, asked {}",
                    Quantity::from_bytes(*limit),
                    Quantity::from_bytes(used_bytes),
                    Quantity::from_bytes(bytes)
                )),
                (Ok(_), Ok(_)) => None,
            }
        })
    }
}

/// Limits and usage of every quota.
pub(super) fn usage(
    world: &World<'_>,
    verdicts: &Verdicts<'_>,
) -> BTreeMap<QuotaKey, TensorQuotaStatus> {
    let mut ledger = Ledger::default();
    ledger.count_unreadable(world);
    for stream in &world.order {
        match verdicts.of(stream) {
            Some(Verdict::Accepted(accepted)) => ledger.count(world, stream, accepted.bytes),
            Some(Verdict::Refused(_)) | None => {
                if let Some(held) = world.held(stream).filter(|held| held.lives) {
                    ledger.count(world, stream, held.bytes);
                }
            }
        }
    }
    let live = live(world);
    let of = |(namespace, name): &(&str, &str), quota: &QuotaFacts<'_>| {
        let (streams, bytes) = ledger
            .used
            .get(&(*namespace, *name))
            .copied()
            .unwrap_or_default();
        let (producers, consumers, leases) =
            live.get(&(*namespace, *name)).copied().unwrap_or_default();
        TensorQuotaStatus {
            observed_generation: quota.object.metadata.generation,
            hard: Some(quota.object.spec.hard.clone()),
            used: Some(QuotaUsed {
                streams: Quantity::from_count(streams),
                requests_bytes_per_node: Quantity::from_bytes(bytes),
                producers_per_node: Quantity::from_count(producers),
                consumers_per_node: Quantity::from_count(consumers),
                leases_per_node: Quantity::from_count(leases),
            }),
        }
    };
    let quotas = world.quotas.iter();
    quotas
        .map(|(key, quota)| ((key.0.to_owned(), key.1.to_owned()), of(key, quota)))
        .collect()
}

type Live = (u64, u64, u64);

/// Producers, consumers and leases by quota, on the node with most of each.
fn live<'a>(world: &World<'a>) -> BTreeMap<(&'a str, &'a str), Live> {
    let mut most: BTreeMap<(&str, &str), Live> = BTreeMap::new();
    for node in world.nodes.values() {
        let mut here: BTreeMap<(&str, &str), Live> = BTreeMap::new();
        for report in node.reports() {
            let Some(stream) = world.streams.get(report.uid.as_str()) else {
                continue;
            };
            for quota in covering(world, stream) {
                let sum = here.entry((stream.namespace, quota.name)).or_default();
                sum.0 += u64::from(report.producers);
                sum.1 += u64::from(report.consumers);
                sum.2 += u64::from(report.producers) + u64::from(report.consumers);
            }
        }
        for (key, (producers, consumers, leases)) in here {
            let most = most.entry(key).or_default();
            *most = (
                most.0.max(producers),
                most.1.max(consumers),
                most.2.max(leases),
            );
        }
    }
    most
}
