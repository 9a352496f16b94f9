//! The driver itself: its state and the dispatch of events.

use tensorpool_wire::{ConnectionId, MonoNanos};

use crate::action::Action;
use crate::config::Config;
use crate::event::{Event, Restored};
use crate::status::StatusSnapshot;

/// The driver.
#[derive(Debug)]
pub struct Driver {
    config: Config,
}

impl Driver {
    /// A driver that knows what its predecessors left behind. The first [`Event::Tick`] starts it.
    #[must_use]
    pub fn restore(config: Config, restored: Restored) -> Self {
        let _ = restored;
        Self { config }
    }

    /// A driver on a machine where none ran before.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::restore(config, Restored::default())
    }

    /// Takes one event at the time of the cycle and appends what is to be done, in order.
    pub fn handle(&mut self, now: MonoNanos, event: Event<'_>, out: &mut Vec<Action>) {
        let _ = (now, event, out);
        todo!()
    }

    /// When the next [`Event::Tick`] is due. Earlier ones are harmless. `None`: only after an event.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonoNanos> {
        todo!()
    }

    /// Everything, for `status` and metrics.
    #[must_use]
    pub fn status(&self) -> StatusSnapshot {
        todo!()
    }

    /// What one connection may see.
    #[must_use]
    pub fn status_for(&self, connection: ConnectionId) -> StatusSnapshot {
        let _ = (connection, &self.config);
        todo!()
    }

    /// Checks every invariant of the state.
    ///
    /// # Panics
    /// If one is broken: a bug of this crate.
    pub fn check(&self) {
        todo!()
    }
}
