//! Node ids for trace ids: the smallest free one, and none again before its cooldown is over.

use std::collections::{BTreeSet, VecDeque};

use tensorpool_wire::{MonoNanos, NodeId};

/// Which node ids are free.
// spec: T-6.2-1
#[derive(Debug)]
pub(crate) struct NodeIds {
    free: BTreeSet<NodeId>,
    cooling: VecDeque<(MonoNanos, NodeId)>,
    cooldown_ns: u64,
}

impl NodeIds {
    pub(crate) fn new(highest: u32, cooldown_ns: u64) -> Self {
        Self {
            free: (1..=highest).map(NodeId).collect(),
            cooling: VecDeque::new(),
            cooldown_ns,
        }
    }

    fn warm_up(&mut self, now: MonoNanos) {
        while let Some((until, id)) = self.cooling.front().copied() {
            if until > now {
                break;
            }
            self.cooling.pop_front();
            self.free.insert(id);
        }
    }

    /// Whether `id` could be taken now.
    pub(crate) fn is_free(&mut self, now: MonoNanos, id: NodeId) -> bool {
        self.warm_up(now);
        self.free.contains(&id)
    }

    /// Takes `desired`, or the smallest free one without a wish. `None` if there is none.
    pub(crate) fn take(&mut self, now: MonoNanos, desired: Option<NodeId>) -> Option<NodeId> {
        self.warm_up(now);
        let id = match desired {
            Some(id) => self.free.contains(&id).then_some(id),
            None => self.free.first().copied(),
        }?;
        self.free.remove(&id);
        Some(id)
    }

    /// Gives one back; it is free again after the cooldown.
    pub(crate) fn give_back(&mut self, now: MonoNanos, id: NodeId) {
        self.cooling
            .push_back((now.saturating_add(self.cooldown_ns), id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    // spec: T-6.2-1
    fn a_node_id_is_not_reused_before_its_cooldown_is_over() {
        let mut ids = NodeIds::new(2, 1_000);
        assert_eq!(ids.take(MonoNanos(0), None), Some(NodeId(1)));
        assert_eq!(ids.take(MonoNanos(0), None), Some(NodeId(2)));
        assert_eq!(ids.take(MonoNanos(0), None), None);
        ids.give_back(MonoNanos(10), NodeId(1));
        assert_eq!(ids.take(MonoNanos(1_009), None), None);
        assert!(!ids.is_free(MonoNanos(1_009), NodeId(1)));
        assert_eq!(ids.take(MonoNanos(1_010), Some(NodeId(2))), None);
        assert_eq!(ids.take(MonoNanos(1_010), None), Some(NodeId(1)));
    }
}
