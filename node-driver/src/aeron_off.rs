//! Stands for the Aeron way in where the cargo feature `aeron` is off. It cannot be constructed: the
//! configuration allows only `driver.media_driver = "off"` then.

use std::convert::Infallible;

use tensorpool_driver_core::EpochKey;
use tensorpool_shm::ReadMapping;
use tensorpool_transport::port::{Inbound, Outbound};
use tensorpool_transport::pubsub::SendError;
use tensorpool_wire::{MonoNanos, StreamId};

use crate::config::Settings;
use crate::counters::Counters;

/// Never happens.
pub(crate) type LinkError = Infallible;

/// The way in that is not there.
#[derive(Debug)]
pub(crate) struct Aeron(Infallible);

impl Aeron {
    /// Always `None`.
    ///
    /// # Errors
    /// Never.
    pub(crate) const fn start(_: &Settings, _: &mut Counters) -> Result<Option<Self>, LinkError> {
        Ok(None)
    }

    pub(crate) const fn is_up(&mut self) -> bool {
        match self.0 {}
    }

    pub(crate) fn poll(
        &mut self,
        _: MonoNanos,
        _: &mut Counters,
        _: &mut dyn FnMut(Inbound<'_>),
    ) -> usize {
        match self.0 {}
    }

    pub(crate) const fn send(&mut self, _: &Outbound<'_>) -> Result<(), SendError> {
        match self.0 {}
    }

    pub(crate) const fn send_to(
        &mut self,
        _: MonoNanos,
        _: &str,
        _: i32,
        _: &[u8],
    ) -> Result<(), SendError> {
        match self.0 {}
    }

    pub(crate) fn start_relay(&mut self, _: EpochKey, _: ReadMapping, _: i32) {
        match self.0 {}
    }

    pub(crate) const fn stop_relay(&mut self, _: StreamId) {
        match self.0 {}
    }

    pub(crate) const fn relays_are_heard(&self) -> bool {
        match self.0 {}
    }

    pub(crate) const fn holds_descriptors(&self) -> bool {
        match self.0 {}
    }

    pub(crate) const fn given_up(&mut self) -> [(&'static str, u64); 2] {
        match self.0 {}
    }

    pub(crate) const fn hold(&mut self, _: StreamId, _: i32) {
        match self.0 {}
    }

    pub(crate) const fn release(&mut self, _: StreamId) {
        match self.0 {}
    }

    pub(crate) fn work(&mut self, _: MonoNanos, _: &mut Counters) -> (usize, Vec<EpochKey>) {
        match self.0 {}
    }
}
