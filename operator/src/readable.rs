//! One object that cannot be read must not stop the rest.
//!
//! A list is read whole or not at all, so a single object of a newer (or older) definition would stop
//! every change of its kind. Here each object is read by itself: those that cannot be read are kept
//! apart by name, and leave the cache until they can be read again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Resource;
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;

use crate::metrics::Metrics;

/// Namespace (empty where the kind has none) and name.
pub(crate) type Key = (String, String);

/// The objects of one kind that cannot be read, with their UIDs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Apart(Arc<Mutex<BTreeMap<Key, String>>>);

impl Apart {
    /// All of them now.
    pub(crate) fn all(&self) -> BTreeMap<Key, String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        // Nothing panics under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorts what a watch brings into what can be read and what cannot.
pub(crate) struct Sorter<K: Resource<DynamicType = ()> + 'static> {
    kind: &'static str,
    store: Store<K>,
    apart: Apart,
    /// While a list arrives: those of it that cannot be read.
    listed: BTreeMap<Key, String>,
    metrics: Arc<Metrics>,
}

impl<K> Sorter<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    /// For the watch that fills `store`.
    pub(crate) fn new(
        kind: &'static str,
        store: Store<K>,
        apart: Apart,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            kind,
            store,
            apart,
            listed: BTreeMap::new(),
            metrics,
        }
    }

    /// The event as the cache should see it; `None` where the cache has nothing to do with it.
    pub(crate) fn sort(&mut self, event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
        match event {
            Event::Init => {
                self.listed.clear();
                Some(Event::Init)
            }
            Event::InitApply(DeserializeGuard(Ok(object))) => Some(Event::InitApply(object)),
            Event::InitApply(DeserializeGuard(Err(broken))) => {
                self.say(&broken.metadata, &broken.error);
                let (key, uid) = identity(&broken.metadata);
                self.listed.insert(key, uid);
                None
            }
            Event::InitDone => {
                *self.apart.lock() = std::mem::take(&mut self.listed);
                self.count();
                Some(Event::InitDone)
            }
            Event::Apply(DeserializeGuard(Ok(object))) => {
                let (key, _) = identity(object.meta());
                if self.apart.lock().remove(&key).is_some() {
                    tracing::info!(
                        kind = self.kind,
                        namespace = key.0,
                        name = key.1,
                        "an object can be read again"
                    );
                    self.count();
                }
                Some(Event::Apply(object))
            }
            Event::Apply(DeserializeGuard(Err(broken))) => {
                self.say(&broken.metadata, &broken.error);
                let (key, uid) = identity(&broken.metadata);
                let old = self.cached(&key);
                self.apart.lock().insert(key, uid);
                self.count();
                old.map(Event::Delete)
            }
            Event::Delete(guard) => {
                let (key, _) = identity(guard.meta());
                self.apart.lock().remove(&key);
                self.count();
                let last = match guard {
                    DeserializeGuard(Ok(object)) => Some(object),
                    DeserializeGuard(Err(_)) => self.cached(&key),
                };
                last.map(Event::Delete)
            }
        }
    }

    fn cached(&self, (namespace, name): &Key) -> Option<K> {
        let mut reference = ObjectRef::new(name);
        if !namespace.is_empty() {
            reference = reference.within(namespace);
        }
        self.store
            .get(&reference)
            .map(|object| object.as_ref().clone())
    }

    fn say(&self, metadata: &ObjectMeta, error: &str) {
        let ((namespace, name), _) = identity(metadata);
        tracing::warn!(
            kind = self.kind,
            namespace,
            name,
            error,
            "an object cannot be read; what nodes have of it stays as it is"
        );
    }

    fn count(&self) {
        let apart = self.apart.lock().len();
        self.metrics.unreadable(self.kind, apart);
    }
}

fn identity(metadata: &ObjectMeta) -> (Key, String) {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let key = (part(&metadata.namespace), part(&metadata.name));
    (key, part(&metadata.uid))
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use kube::runtime::reflector::store;
    use serde_json::{Value, json};
    use tensorpool_crds::TensorStream;

    use super::*;

    fn guard(name: &str, slots: Value) -> DeserializeGuard<TensorStream> {
        serde_json::from_value(json!({
            "apiVersion": "tensorpool.io/v1alpha1",
            "kind": "TensorStream",
            "metadata": {"namespace": "vision", "name": name, "uid": format!("uid-{name}")},
            "spec": {"layout": {"headerSlots": slots, "pools": [{"poolId": 1, "strideBytes": 4096}]}},
        }))
        .expect("it has metadata")
    }

    /// Feeds events to a cache; returns what it holds and what is apart, by name.
    fn after(events: Vec<Event<DeserializeGuard<TensorStream>>>) -> (Vec<String>, Vec<String>) {
        let (cache, mut writer) = store();
        let apart = Apart::default();
        let metrics = Arc::new(Metrics::new());
        let mut sorter = Sorter::new("tensorstreams", cache.clone(), apart.clone(), metrics);
        for event in events {
            if let Some(event) = sorter.sort(event) {
                writer.apply_watcher_event(&event);
            }
        }
        let mut held: Vec<_> = cache.state().iter().map(|it| it.name_any()).collect();
        held.sort();
        (held, apart.all().into_keys().map(|it| it.1).collect())
    }

    #[test]
    fn a_list_with_one_broken_object_is_read_without_it() {
        let (held, apart) = after(vec![
            Event::Init,
            Event::InitApply(guard("a", json!(8))),
            Event::InitApply(guard("b", json!("many"))),
            Event::InitDone,
        ]);
        assert_eq!((held, apart), (vec!["a".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn an_object_that_breaks_leaves_the_cache_and_comes_back_when_mended() {
        let broken = vec![
            Event::Init,
            Event::InitApply(guard("a", json!(8))),
            Event::InitDone,
            Event::Apply(guard("a", json!("many"))),
        ];
        assert_eq!(after(broken.clone()), (vec![], vec!["a".to_owned()]));
        let mended = [broken.clone(), vec![Event::Apply(guard("a", json!(16)))]].concat();
        assert_eq!(after(mended), (vec!["a".to_owned()], vec![]));
        let deleted = [broken, vec![Event::Delete(guard("a", json!("many")))]].concat();
        assert_eq!(after(deleted), (vec![], vec![]));
    }

    #[test]
    fn a_list_that_begins_anew_forgets_what_was_apart_only_when_it_is_whole() {
        let again = vec![
            Event::Init,
            Event::InitApply(guard("a", json!("many"))),
            Event::InitDone,
            Event::Init,
        ];
        assert_eq!(after(again.clone()).1, ["a"]);
        let whole = [again, vec![Event::InitDone]].concat();
        assert_eq!(after(whole), (vec![], vec![]));
    }
}
