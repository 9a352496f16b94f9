//! A node as the `csi` container finds it.

use std::path::Path;
use std::sync::Arc;

use crate::driver::{Base, Driver};
use crate::inside::own_mounts;
use crate::kubelet::Kubelet;

/// Kubelet, a driver, and memory of 4 KiB pages that has one stream.
pub(crate) struct Node {
    pub(crate) kubelet: Kubelet,
    pub(crate) base: Arc<Base>,
    pub(crate) driver: Driver,
}

impl Node {
    /// With mounts of its own for the test of this name; `None` where that is not possible.
    /// `make_memory` makes the directory that it is given, below kubelet's.
    pub(crate) fn new(test: &str, make_memory: impl FnOnce(&Kubelet, &Path)) -> Option<Self> {
        if !own_mounts(test) {
            return None;
        }
        let kubelet = Kubelet::new();
        let directory = kubelet.shm_dir().join("4Ki");
        make_memory(&kubelet, &directory);
        let base = Arc::new(Base::new(&directory));
        base.make(1, 5);
        let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
        Some(Self {
            kubelet,
            base,
            driver,
        })
    }
}
