//! Metrics. Names and labels are API; every label comes from a bounded set.

use std::fmt::Write;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::plan::Plan;

/// All metrics of one operator.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    leading: Gauge,
    plans: Counter,
    plan_seconds: Histogram,
    writes: Family<Write_, Counter>,
    watch_failures: Family<Kind, Counter>,
    unreadable: Family<Kind, Gauge>,
    streams: Family<Reason, Gauge>,
    nodes: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write_ {
    part: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    ready: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tensorpool_operator");
        let metrics = Self {
            leading: Gauge::default(),
            plans: Counter::default(),
            plan_seconds: Histogram::new(exponential_buckets(0.0005, 4.0, 8)),
            writes: Family::default(),
            watch_failures: Family::default(),
            unreadable: Family::default(),
            streams: Family::default(),
            nodes: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "leading",
            "1 while this process leads",
            metrics.leading.clone(),
        );
        registry.register("plans", "Plans that were made", metrics.plans.clone());
        registry.register(
            "plan_duration_seconds",
            "How long a plan takes",
            metrics.plan_seconds.clone(),
        );
        registry.register(
            "writes",
            "Writes by part and result",
            metrics.writes.clone(),
        );
        registry.register(
            "watch_failures",
            "Watches that broke, by kind",
            metrics.watch_failures.clone(),
        );
        registry.register(
            "unreadable_objects",
            "Objects that this version cannot read, by kind",
            metrics.unreadable.clone(),
        );
        registry.register(
            "streams",
            "Streams by the reason of their Ready condition",
            metrics.streams.clone(),
        );
        registry.register("nodes", "Nodes that have a policy", metrics.nodes.clone());
        Self {
            registry,
            ..metrics
        }
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    pub(crate) fn planned(&self, plan: &Plan, took: Duration) {
        self.plans.inc();
        self.plan_seconds.observe(took.as_secs_f64());
        self.nodes
            .set(i64::try_from(plan.nodes.len()).unwrap_or(i64::MAX));
        self.streams.clear();
        for stream in plan.streams.values() {
            let ready = stream
                .conditions
                .last()
                .map_or("", |condition| condition.reason);
            self.streams.get_or_create(&Reason { ready }).inc();
        }
    }

    pub(crate) fn wrote(&self, part: &'static str, result: &'static str) {
        self.writes.get_or_create(&Write_ { part, result }).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.watch_failures.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn unreadable(&self, kind: &'static str, objects: usize) {
        let objects = i64::try_from(objects).unwrap_or(i64::MAX);
        self.unreadable.get_or_create(&Kind { kind }).set(objects);
    }

    /// The exposition, OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // A String takes every text; what is missing shows in the reader.
            text.write_str("# incomplete\n").unwrap_or_default();
        }
        text
    }
}
