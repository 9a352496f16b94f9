//! What a stream's frames mean beyond their shape: names and attributes, by version.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tensorpool_wire::{Attribute, DataSourceAnnounce, DataSourceMeta};

/// A stream's description. A producer sets it; frames refer to it by version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Rises with each change; 0: none was set. Chosen by the producer's client.
    pub version: u32,
    /// Name of the data source. Empty: the stream's name.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// Key, format and value of each attribute.
    pub attributes: Vec<Attribute>,
}

impl Metadata {
    /// The same with one more attribute.
    #[must_use]
    pub fn with(
        mut self,
        key: impl Into<String>,
        format: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) -> Self {
        let (key, format, value) = (key.into(), format.into(), value.into());
        self.attributes.push(Attribute { key, format, value });
        self
    }

    /// The value of the first attribute with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self
            .attributes
            .iter()
            .find(|attribute| attribute.key == key)?;
        Some(&found.value)
    }
}

/// The latest description of one stream, shared by the conductor and the data path.
#[derive(Debug, Default)]
pub(crate) struct MetadataCell {
    current: Mutex<Arc<Metadata>>,
    /// The version alone, for the data path of a producer.
    version: AtomicU32,
}

impl MetadataCell {
    pub(crate) fn get(&self) -> Arc<Metadata> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The latest version; 0: none. One relaxed load.
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    fn update(&self, change: impl FnOnce(&mut Metadata)) -> u32 {
        let mut cell = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut metadata = (**cell).clone();
        change(&mut metadata);
        let version = metadata.version;
        *cell = Arc::new(metadata);
        self.version.store(version, Ordering::Relaxed);
        version
    }

    /// Producer: replaces the description under the next version. 0 and the null are no versions.
    // spec: W-10.3.1-1 W-10.3.2-2
    pub(crate) fn replace(&self, with: Metadata) -> u32 {
        self.update(|metadata| {
            let version = metadata.version.saturating_add(1).min(u32::MAX - 1);
            *metadata = Metadata { version, ..with };
        })
    }

    /// Consumer: the producer's beacon.
    pub(crate) fn on_announce(&self, announce: &DataSourceAnnounce) {
        self.update(|metadata| {
            if metadata.version != announce.meta_version {
                metadata.attributes.clear();
            }
            metadata.version = announce.meta_version;
            metadata.name.clone_from(&announce.name);
            metadata.summary.clone_from(&announce.summary);
        });
    }

    /// Consumer: the attributes of a version. Unknown keys are kept: they may mean something to the
    /// application (W-10.3.2-1).
    pub(crate) fn on_meta(&self, meta: &DataSourceMeta) {
        self.update(|metadata| {
            metadata.version = meta.meta_version;
            metadata.attributes.clone_from(&meta.attributes);
        });
    }
}

#[cfg(test)]
mod tests {
    use tensorpool_wire::{ClientId, Epoch, MonoNanos, StreamId};

    use super::*;

    // spec: W-10.3.1-1 W-10.3.2-2
    #[test]
    fn each_change_has_its_own_version_starting_at_one() {
        let cell = MetadataCell::default();
        assert_eq!(cell.get().version, 0);
        assert_eq!(
            cell.replace(Metadata::default().with("fps", "text/plain", "30")),
            1
        );
        assert_eq!(
            cell.replace(Metadata {
                version: 99,
                ..Metadata::default()
            }),
            2
        );
        assert_eq!(cell.get().attributes, []);
    }

    // spec: W-10.3.2-1
    #[test]
    fn attributes_of_another_version_are_forgotten_and_unknown_ones_kept() {
        let cell = MetadataCell::default();
        let mut announce = DataSourceAnnounce {
            stream_id: StreamId(1),
            producer_id: ClientId(1),
            epoch: Epoch(1),
            meta_version: 1,
            name: "cam".into(),
            summary: String::new(),
        };
        cell.on_announce(&announce);
        cell.on_meta(&DataSourceMeta {
            stream_id: StreamId(1),
            meta_version: 1,
            timestamp_ns: MonoNanos(0),
            attributes: Metadata::default().with("x-private", "", "1").attributes,
        });
        cell.on_announce(&announce);
        assert_eq!(cell.get().get("x-private"), Some(b"1".as_slice()));
        announce.meta_version = 2;
        cell.on_announce(&announce);
        assert_eq!(cell.get().get("x-private"), None);
        assert_eq!(cell.get().name, "cam");
    }
}
