//! The mapped memory itself, for devices.

use std::sync::Arc;

use tensorpool_shm::Region;

use crate::mapping::Mapped;

/// The mapped memory of one epoch. Keeps it mapped.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(super) mapped: Arc<Mapped>,
}

impl Memory {
    /// The regions, the header ring first, then the pools in the order of the attach answer. Each has
    /// a page-aligned base and a length; other processes write to the bytes at any time.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.mapped.regions.regions()
    }

    /// Whether the memory still belongs to the current lease and epoch.
    #[must_use]
    pub fn is_current(&self) -> bool {
        !self.mapped.life.is_over()
    }
}
