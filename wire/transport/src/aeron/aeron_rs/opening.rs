//! What was asked of the media driver and is not answered yet.

use std::rc::Rc;
use std::time::Instant;

use super::State;

/// What was asked of the media driver.
pub(super) struct Opening {
    pub(super) id: i64,
    pub(super) what: String,
    pub(super) until: Instant,
    pub(super) answered: bool,
    pub(super) state: Rc<State>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        // An add that is never found makes the library hang when it is dropped.
        if !self.answered {
            self.state.broken.set(true);
        }
    }
}

/// A publication that was asked for. Dropped before the answer, it makes the client leak its memory.
pub struct OpeningPublication(pub(super) Opening);

/// A subscription that was asked for, likewise.
pub struct OpeningSubscription(pub(super) Opening);

impl std::fmt::Debug for OpeningPublication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpeningPublication")
            .field(&self.0.what)
            .finish()
    }
}

impl std::fmt::Debug for OpeningSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpeningSubscription")
            .field(&self.0.what)
            .finish()
    }
}
