//! SIGTERM and SIGINT end the driver, a second one at once; SIGHUP asks for the log filter.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit code after a second signal, as a shell shows an interrupted program.
const INTERRUPTED: i32 = 130;

/// What was signalled so far. Handlers only store flags; the duty cycle looks at them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    end: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Takes the signals over for this process.
    ///
    /// # Errors
    /// If the kernel refuses a handler.
    pub(crate) fn install() -> io::Result<Self> {
        let signals = Self::default();
        for signal in [SIGTERM, SIGINT] {
            // Registered first: it sees the flag before this signal sets it.
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&signals.end))?;
            flag::register(signal, Arc::clone(&signals.end))?;
        }
        flag::register(SIGHUP, Arc::clone(&signals.reload))?;
        Ok(signals)
    }

    /// As if the process was asked to end.
    #[cfg(test)]
    pub(crate) fn request_end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// Whether the process was asked to end. Stays so.
    #[must_use]
    pub(crate) fn end_requested(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// Whether SIGHUP came since the last call.
    #[must_use]
    pub(crate) fn take_reload(&self) -> bool {
        self.reload.load(Ordering::Relaxed) && self.reload.swap(false, Ordering::Relaxed)
    }
}
