//! Builds a client and everything on it anew after it died.
//!
//! Shared by the driver and by clients, for whatever can be made by a function and can die. Reads no
//! clock: the time of the cycle is passed in.

use tensorpool_wire::MonoNanos;

/// How long to wait between attempts: `first`, then twice as long each time, at most `longest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure, in nanoseconds.
    pub first_nanos: u64,
    /// At most, in nanoseconds.
    pub longest_nanos: u64,
}

impl Default for Backoff {
    /// 10 ms, doubling to 1 s.
    fn default() -> Self {
        Self {
            first_nanos: 10_000_000,
            longest_nanos: 1_000_000_000,
        }
    }
}

impl Backoff {
    /// The wait after this many failures in a row (1 or more), in nanoseconds.
    #[must_use]
    pub fn after(self, failures: u32) -> u64 {
        let doublings = failures.saturating_sub(1).min(63);
        self.first_nanos
            .saturating_mul(1_u64 << doublings)
            .min(self.longest_nanos)
    }
}

/// What [`Reconnecting::poll`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<E> {
    /// It is there, as before.
    Up,
    /// It was built in this call: state that peers must be told again can be sent now.
    Built {
        /// Failed attempts before this one.
        failures: u32,
    },
    /// The attempt of this call failed.
    Failed {
        /// Why.
        error: E,
        /// When the next attempt is due.
        next: MonoNanos,
    },
    /// It is not there and no attempt is due yet.
    Waiting {
        /// When the next attempt is due.
        next: MonoNanos,
    },
}

/// Something that is built, may die, and is built again. `T` is a client together with all its
/// handles; it is dropped whole before a new one is built.
#[derive(Debug)]
pub struct Reconnecting<T, F> {
    build: F,
    backoff: Backoff,
    state: State<T>,
    built: u64,
}

#[derive(Debug)]
enum State<T> {
    Up(T),
    Down { failures: u32, next: MonoNanos },
}

impl<T, E, F: FnMut() -> Result<T, E>> Reconnecting<T, F> {
    /// Nothing is built before the first [`Reconnecting::poll`].
    pub const fn new(backoff: Backoff, build: F) -> Self {
        Self {
            build,
            backoff,
            state: State::Down {
                failures: 0,
                next: MonoNanos(0),
            },
            built: 0,
        }
    }

    /// Builds it if it is not there and an attempt is due. At most one attempt per call.
    pub fn poll(&mut self, now: MonoNanos) -> Progress<E> {
        let (failures, next) = match self.state {
            State::Up(_) => return Progress::Up,
            State::Down { failures, next } => (failures, next),
        };
        if now < next {
            return Progress::Waiting { next };
        }
        match (self.build)() {
            Ok(built) => {
                self.state = State::Up(built);
                self.built += 1;
                Progress::Built { failures }
            }
            Err(error) => {
                let failures = failures.saturating_add(1);
                let next = now.saturating_add(self.backoff.after(failures));
                self.state = State::Down { failures, next };
                Progress::Failed { error, next }
            }
        }
    }

    /// Drops it, since it reported that it is dead. The next attempt is due after the first wait.
    pub fn lost(&mut self, now: MonoNanos) {
        self.state = State::Down {
            failures: 0,
            next: now.saturating_add(self.backoff.after(1)),
        };
    }

    /// It, while it is there.
    pub const fn get(&mut self) -> Option<&mut T> {
        match &mut self.state {
            State::Up(built) => Some(built),
            State::Down { .. } => None,
        }
    }

    /// When [`Reconnecting::poll`] has something to do; `None` while it is there.
    #[must_use]
    pub const fn next_attempt(&self) -> Option<MonoNanos> {
        match self.state {
            State::Up(_) => None,
            State::Down { next, .. } => Some(next),
        }
    }

    /// How often it was built. More than once: it was lost in between.
    #[must_use]
    pub const fn built(&self) -> u64 {
        self.built
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const BACKOFF: Backoff = Backoff {
        first_nanos: 10,
        longest_nanos: 35,
    };

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_success() {
        let works = Cell::new(false);
        let mut it = Reconnecting::new(BACKOFF, || works.get().then_some(7).ok_or("no"));
        let mut now = 100;
        for wait in [10, 20, 35, 35] {
            let next = MonoNanos(now + wait);
            assert_eq!(
                it.poll(MonoNanos(now)),
                Progress::Failed { error: "no", next }
            );
            assert_eq!(
                it.poll(MonoNanos(now + wait - 1)),
                Progress::Waiting { next }
            );
            now += wait;
        }
        works.set(true);
        assert_eq!(it.poll(MonoNanos(now)), Progress::Built { failures: 4 });
        assert_eq!(it.poll(MonoNanos(now)), Progress::Up);
        assert_eq!(it.get(), Some(&mut 7));
        assert_eq!(it.next_attempt(), None);
        works.set(false);
        it.lost(MonoNanos(now));
        assert_eq!(it.get(), None);
        assert_eq!(it.next_attempt(), Some(MonoNanos(now + 10)));
        let next = MonoNanos(now + 20);
        assert_eq!(
            it.poll(MonoNanos(now + 10)),
            Progress::Failed { error: "no", next }
        );
        assert_eq!(it.built(), 1);
    }

    #[test]
    fn the_old_one_is_gone_before_the_new_one_is_built() {
        struct Counted<'a>(&'a Cell<i32>);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let alive = Cell::new(0);
        let mut it = Reconnecting::new(BACKOFF, || {
            assert_eq!(alive.get(), 0, "the old one must be gone");
            alive.set(1);
            Ok::<_, ()>(Counted(&alive))
        });
        assert_eq!(it.poll(MonoNanos(0)), Progress::Built { failures: 0 });
        it.lost(MonoNanos(1));
        assert_eq!(alive.get(), 0);
        assert_eq!(it.poll(MonoNanos(11)), Progress::Built { failures: 0 });
        assert_eq!(it.built(), 2);
    }
}
