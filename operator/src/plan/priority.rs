//! Priorities, resolved once and then kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_crds::{PreemptionPolicy, ResolvedPriority, TensorPriorityClass};

use crate::plan::world::{Stream, name_of};

/// All priority classes.
#[derive(Debug)]
pub(super) struct Priorities<'a> {
    by_name: BTreeMap<&'a str, &'a TensorPriorityClass>,
}

impl<'a> Priorities<'a> {
    pub(super) fn of(objects: &'a [Arc<TensorPriorityClass>]) -> Self {
        let named = objects
            .iter()
            .filter_map(|it| Some((name_of(it.as_ref())?, it.as_ref())));
        Self {
            by_name: named.collect(),
        }
    }

    /// The priority of a stream. One that it already has stays, as long as the stream asks for the same
    /// class. `None`: it names a class that is not there.
    pub(super) fn resolve(&self, stream: &Stream<'_>) -> Option<ResolvedPriority> {
        let asked = stream.object.spec.priority_class_name.as_deref();
        let status = stream.object.status.as_ref();
        if let Some(kept) = status.and_then(|status| status.priority.as_ref()) {
            let same = match asked {
                Some(name) => kept.named && kept.class_name.as_deref() == Some(name),
                None => !kept.named,
            };
            if same {
                return Some(kept.clone());
            }
        }
        match asked {
            Some(name) => self
                .by_name
                .get(name)
                .map(|class| resolved(name, class, true)),
            None => Some(self.global_default()),
        }
    }

    /// Of several global defaults, that with the smallest value; of those, the first by name.
    fn global_default(&self) -> ResolvedPriority {
        let defaults = self.by_name.iter().filter(|(_, it)| it.spec.global_default);
        let smallest = defaults.min_by_key(|(name, it)| (it.spec.value, **name));
        smallest.map_or(
            ResolvedPriority {
                class_name: None,
                named: false,
                value: 0,
                preemption_policy: PreemptionPolicy::PreemptLowerPriority,
            },
            |(name, class)| resolved(name, class, false),
        )
    }
}

fn resolved(name: &str, class: &TensorPriorityClass, named: bool) -> ResolvedPriority {
    ResolvedPriority {
        class_name: Some(name.to_owned()),
        named,
        value: class.spec.value,
        preemption_policy: class.spec.preemption_policy,
    }
}
