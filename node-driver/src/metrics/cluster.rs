//! What there is only in a cluster: classes, quotas, and mounts by page size.

use std::fmt;

use super::{Families, Metric, Number, Snapshot, label};

impl Snapshot {
    pub(super) fn encode_cluster(&self, out: &mut Families<'_>) -> Result<(), fmt::Error> {
        let classes = &self.status.classes;
        out.family(
            Metric::ClassMemory,
            classes.iter().flat_map(|class| {
                let states = [("current", class.current_bytes), ("old", class.old_bytes)];
                states.map(|(state, bytes)| {
                    let labels = vec![label("class", &class.name), label("state", state)];
                    (labels, Number::Whole(bytes))
                })
            }),
        )?;
        out.family(
            Metric::ClassSize,
            classes.iter().map(|class| {
                (
                    vec![label("class", &class.name)],
                    Number::Whole(class.size_bytes),
                )
            }),
        )?;
        self.encode_quotas(out)?;
        out.family(
            Metric::ApiRequests,
            self.requests.iter().map(|((request, result), count)| {
                let labels = vec![label("request", request), label("result", result)];
                (labels, Number::Whole(*count))
            }),
        )?;
        out.family(
            Metric::MountBytes,
            self.bases
                .iter()
                .filter(|base| !base.name.is_empty())
                .flat_map(|base| {
                    let states = [
                        ("total", base.total_bytes),
                        ("free", base.free_bytes),
                        ("wanted", base.wanted_bytes),
                        ("pinned", base.pinned_bytes),
                    ];
                    states.map(|(state, bytes)| {
                        let labels = vec![label("page_size", &base.name), label("state", state)];
                        (labels, Number::Whole(bytes))
                    })
                }),
        )
    }

    fn encode_quotas(&self, out: &mut Families<'_>) -> Result<(), fmt::Error> {
        let quotas = &self.status.quotas;
        let sample = |quota: &str, resource: &str, number| {
            let labels = vec![label("quota", quota), label("resource", resource)];
            (labels, Number::Whole(number))
        };
        out.family(
            Metric::QuotaHard,
            quotas.iter().flat_map(|quota| {
                let limits = [
                    ("bytes", quota.hard.bytes),
                    ("producers", quota.hard.producers),
                    ("consumers", quota.hard.consumers),
                    ("leases", quota.hard.leases),
                ];
                limits
                    .into_iter()
                    .filter_map(|(resource, limit)| Some(sample(&quota.name, resource, limit?)))
            }),
        )?;
        out.family(
            Metric::QuotaUsed,
            quotas.iter().flat_map(|quota| {
                let used = [
                    ("bytes", quota.used.bytes),
                    ("producers", quota.used.producers),
                    ("consumers", quota.used.consumers),
                    ("leases", quota.used.leases),
                ];
                used.map(|(resource, number)| sample(&quota.name, resource, number))
            }),
        )
    }
}
