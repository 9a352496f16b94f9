//! The directories that regions lie in: one store for each base.
//!
//! Stand-alone there is one, on whatever `shm.base_dir` lies on. In a cluster each sub-directory of it
//! that is named like a page size (`2Mi`, `4Ki`) is one, mounted before the driver starts; a mount of
//! an earlier driver is used as it is, with what lies in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tensorpool_driver_core::BaseId;
use tensorpool_driver_core::config::Base;
use tensorpool_shm::{EpochStore, Filesystem, Permissions, StoreError, StoreOptions};

use crate::config::{Mount, Settings};
use crate::control::BaseFacts;

/// The user part of paths in a cluster, whoever the driver's container runs as.
const CLUSTER_USER: &str = "k8s";

/// All stores, by base.
#[derive(Debug)]
pub(crate) struct Stores {
    all: Vec<Entry>,
    in_cluster: bool,
}

#[derive(Debug)]
struct Entry {
    name: String,
    directory: String,
    /// Nobody else's files are on its mount.
    own_mount: bool,
    store: EpochStore,
}

/// Why the stores cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoresError {
    /// One of them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sub-directories cannot be listed.
    #[error("cannot look for mounts below {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are none.
    #[error(
        "no memory is mounted below {}: the init container `mount` mounts a directory for each page size, such as 2Mi",
        .0.display()
    )]
    None(PathBuf),
    /// Frames would go to a disk.
    #[error("{} is {found}, neither hugetlbfs nor tmpfs: it is not mounted", path.display())]
    NotMemory {
        /// The directory.
        path: PathBuf,
        /// What it is.
        found: Filesystem,
    },
}

impl Stores {
    /// Opens all stores.
    ///
    /// # Errors
    /// [`StoresError`] names the directory and the rule.
    pub(crate) fn open(settings: &Settings) -> Result<Self, StoresError> {
        let is_cluster = settings.kubernetes.is_some();
        let all = if is_cluster {
            in_cluster(settings)?
        } else {
            vec![stand_alone(settings)?]
        };
        Ok(Self {
            all,
            in_cluster: is_cluster,
        })
    }

    /// The store of a base.
    pub(crate) fn get(&self, base: BaseId) -> &EpochStore {
        // The core was told of these bases and of no others.
        &self.all[usize::from(base.0)].store
    }

    /// The modes of an epoch's files. In a cluster mounts decide who gets to them, and anybody may read
    /// there; but peers on Aeron take no file that has a bit for others, and write theirs as members of
    /// the group.
    // spec: W-15.21a-5, X-2-74
    pub(crate) fn permissions(&self, base: BaseId, on_aeron: bool) -> Permissions {
        if self.in_cluster && on_aeron {
            Permissions::GROUP
        } else {
            self.get(base).options().permissions
        }
    }

    /// All stores with their bases.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (BaseId, &EpochStore)> {
        (0..).map(BaseId).zip(self.all.iter().map(|it| &it.store))
    }

    /// The stores by the names of their bases.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &EpochStore)> {
        self.all.iter().map(|it| (it.name.as_str(), &it.store))
    }

    /// The bases as the core wants them.
    pub(crate) fn bases(&self) -> Vec<Base> {
        let base = |it: &Entry| Base {
            name: it.name.clone(),
            directory: it.directory.clone(),
            hugepages: it.store.uses_hugepages(),
            page_size_bytes: it.store.page_bytes(),
        };
        self.all.iter().map(base).collect()
    }

    /// Bytes of all mounts together, as far as they say.
    pub(crate) fn total_bytes(&self) -> u64 {
        let mounts = self.all.iter().filter_map(|it| mount_of(&it.store));
        mounts.fold(0, |sum, mount| sum.saturating_add(mount.total_bytes))
    }

    /// The mounts as the kernel has them, beside what the core knows of them.
    pub(crate) fn facts(&self, known: &[tensorpool_driver_core::BaseStatus]) -> Vec<BaseFacts> {
        let facts = self.all.iter().zip(known).map(|(entry, known)| {
            let mount = mount_of(&entry.store);
            let (total, left) = mount.map_or((0, 0), |it| (it.total_bytes, it.free_bytes));
            let free = entry
                .store
                .backing()
                .map_or(0, |backing| backing.free_bytes);
            let used = total.saturating_sub(left);
            BaseFacts {
                base: known.base,
                name: entry.name.clone(),
                directory: entry.directory.clone(),
                page_bytes: known.page_bytes,
                hugepages: known.hugepages,
                total_bytes: total,
                free_bytes: free,
                wanted_bytes: known.wanted_bytes,
                pinned_bytes: if entry.own_mount {
                    used.saturating_sub(known.used_bytes)
                } else {
                    0
                },
            }
        });
        facts.collect()
    }
}

fn mount_of(store: &EpochStore) -> Option<Mount> {
    Mount::of(store.path()).ok()
}

fn stand_alone(settings: &Settings) -> Result<Entry, StoresError> {
    let shm = &settings.shm;
    let store = EpochStore::open(StoreOptions {
        base_dir: shm.base_dir.clone(),
        user: None,
        namespace: shm.namespace.clone(),
        permissions: Permissions::from_mode(shm.permissions_mode, false)?,
        require_hugepages: shm.require_hugepages,
        // The default says nothing about hugepages: then the mount decides.
        expected_page_bytes: (shm.page_size_bytes != 4096).then_some(shm.page_size_bytes),
        prefault: settings.policies.prefault_shm,
        lock: settings.policies.mlock_shm,
    })?;
    if let Ok(backing) = store.backing()
        && let Filesystem::Other(_) = backing.filesystem
    {
        tracing::warn!(
            base_dir = %shm.base_dir.display(),
            filesystem = %backing.filesystem,
            "shm.base_dir is neither tmpfs nor hugetlbfs: frames may be written to a disk"
        );
    }
    Ok(Entry::new(String::new(), store))
}

fn in_cluster(settings: &Settings) -> Result<Vec<Entry>, StoresError> {
    let shm = &settings.shm;
    let parent = &shm.base_dir;
    let mut found = Vec::new();
    let failed = |source: io::Error| StoresError::List {
        path: parent.clone(),
        source,
    };
    for entry in fs::read_dir(parent).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy().into_owned();
        match page_bytes(&name) {
            Some(bytes) => found.push((bytes, name)),
            None => tracing::warn!(
                directory = %parent.join(&name).display(),
                "is not named like a page size, such as 2Mi, and is left alone"
            ),
        }
    }
    if found.is_empty() {
        return Err(StoresError::None(parent.clone()));
    }
    found.sort_unstable();
    found
        .into_iter()
        .map(|(bytes, name)| {
            let path = parent.join(&name);
            let store = EpochStore::open(StoreOptions {
                base_dir: path.clone(),
                user: Some(CLUSTER_USER.to_owned()),
                namespace: shm.namespace.clone(),
                // Who gets to the files is decided by mounts: any uid may read there.
                permissions: Permissions::from_mode(shm.permissions_mode, true)?,
                require_hugepages: false,
                expected_page_bytes: Some(bytes),
                prefault: settings.policies.prefault_shm,
                lock: settings.policies.mlock_shm,
            })?;
            match store.backing().map(|backing| backing.filesystem) {
                Ok(Filesystem::Hugetlbfs | Filesystem::Tmpfs) => Ok(Entry::new(name, store)),
                Ok(found @ Filesystem::Other(_)) => Err(StoresError::NotMemory { path, found }),
                Err(source) => Err(StoresError::List { path, source }),
            }
        })
        .collect()
}

/// A page size as Kubernetes writes it.
fn page_bytes(name: &str) -> Option<u64> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    let (count, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((name.strip_suffix(unit)?, shift)))?;
    let bytes = count.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let is_canonical = !count.starts_with(['0', '+']);
    (bytes.is_power_of_two() && is_canonical).then_some(bytes)
}

impl Entry {
    fn new(name: String, store: EpochStore) -> Self {
        // <base>/tensorpool-<user>/<namespace>, resolved by the store.
        let base = store
            .path()
            .ancestors()
            .nth(2)
            .unwrap_or_else(|| Path::new("/"));
        let device = |path: &Path| fs::metadata(path).ok().map(|it| it.dev());
        let above = base.parent().and_then(device);
        Self {
            name,
            directory: base.to_string_lossy().into_owned(),
            own_mount: above.is_some() && above != device(base),
            store,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::page_bytes;

    #[test]
    fn a_page_size_is_read_as_kubernetes_writes_it() {
        assert_eq!(page_bytes("4Ki"), Some(4_096));
        assert_eq!(page_bytes("64Ki"), Some(65_536));
        assert_eq!(page_bytes("2Mi"), Some(2 << 20));
        assert_eq!(page_bytes("1Gi"), Some(1 << 30));
        for other in [
            "views",
            "2M",
            "2MiB",
            "3Mi",
            "02Mi",
            "+2Mi",
            "Mi",
            "",
            "99999999999999999Gi",
        ] {
            assert_eq!(page_bytes(other), None, "{other}");
        }
    }
}
