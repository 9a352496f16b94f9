//! A signal that everything ends, which anybody can wait for and anybody can raise.

use tokio::sync::watch;

/// The signal.
#[derive(Clone, Debug)]
pub struct Stop {
    sender: watch::Sender<bool>,
    receiver: watch::Receiver<bool>,
}

impl Stop {
    /// Not raised.
    #[must_use]
    pub fn new() -> Self {
        let (sender, receiver) = watch::channel(false);
        Self { sender, receiver }
    }

    /// Raises it, for good.
    pub fn raise(&self) {
        self.sender.send_replace(true);
    }

    /// Whether it was raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        *self.receiver.borrow()
    }

    /// Returns once it is raised.
    pub async fn raised(&mut self) {
        // An error would mean that no sender is left; this one is.
        drop(self.receiver.wait_for(|raised| *raised).await);
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}
