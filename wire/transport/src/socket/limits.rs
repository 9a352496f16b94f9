//! What a connection may cost the driver (docs/extensions.md §2.6).

use tensorpool_wire::{LogicalStream, MonoNanos};

/// How a packet counts towards the rate limits. The transport does not know what a message means, so
/// the driver says it with [`Limits::classify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketClass {
    /// Counts towards [`Limits::packets_per_second`].
    Ordinary,
    /// Counts towards [`Limits::keyed_per_second`] of its own key: FrameProgress, by stream id.
    Keyed(u64),
}

/// Bounds of a socket server. The defaults are those of docs/extensions.md.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Ordinary packets that may arrive from one connection within one second.
    pub packets_per_second: u32,
    /// Packets of one key that may arrive from one connection within one second.
    pub keyed_per_second: u32,
    /// Packets taken from one connection in one poll.
    pub packets_per_poll: usize,
    /// Bytes that may wait for one connection beside the kernel's send buffer.
    pub backlog_bytes: usize,
    /// Nanoseconds from accept until [`crate::port::ServerPort::mark_attached`].
    pub attach_within_ns: u64,
    /// Connections through one socket file.
    pub per_attachment: usize,
    /// Connections of one uid.
    pub per_uid: usize,
    /// Connections in all.
    pub total: usize,
    /// How a packet's body counts. Called once per packet; must not be slow.
    pub classify: fn(LogicalStream, &[u8]) -> PacketClass,
}

impl Default for Limits {
    // spec: X-2-30, X-2-32, X-2-34, X-2-35, X-2-36
    fn default() -> Self {
        Self {
            packets_per_second: 1_000,
            keyed_per_second: 2_000,
            packets_per_poll: 32,
            backlog_bytes: 256 * 1024,
            attach_within_ns: 5_000_000_000,
            per_attachment: 4_096,
            per_uid: 4_096,
            total: 16_384,
            classify: |_, _| PacketClass::Ordinary,
        }
    }
}

/// Keys that one connection may use within one second; packets of further ones count as ordinary.
const KEYS_MAX: usize = 64;

const SECOND_NS: u64 = 1_000_000_000;

/// A rate limit that was passed: what the limit is and what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFast {
    pub(crate) limit: u32,
    pub(crate) key: Option<u64>,
}

/// Counts the packets of one connection in windows of one second.
#[derive(Debug)]
pub(crate) struct Meter {
    window_began: MonoNanos,
    ordinary: u32,
    keyed: Vec<(u64, u32)>,
}

impl Meter {
    pub(crate) const fn new() -> Self {
        Self {
            window_began: MonoNanos(0),
            ordinary: 0,
            keyed: Vec::new(),
        }
    }

    /// Counts one packet.
    // spec: X-2-32
    pub(crate) fn count(
        &mut self,
        now: MonoNanos,
        class: PacketClass,
        limits: &Limits,
    ) -> Result<(), TooFast> {
        if now.saturating_since(self.window_began) >= SECOND_NS {
            self.window_began = now;
            self.ordinary = 0;
            self.keyed.clear();
        }
        if let PacketClass::Keyed(key) = class {
            if let Some((_, count)) = self.keyed.iter_mut().find(|(k, _)| *k == key) {
                *count += 1;
                let within = *count <= limits.keyed_per_second;
                return if within {
                    Ok(())
                } else {
                    Err(TooFast {
                        limit: limits.keyed_per_second,
                        key: Some(key),
                    })
                };
            }
            if self.keyed.len() < KEYS_MAX {
                self.keyed.push((key, 1));
                return Ok(());
            }
        }
        self.ordinary += 1;
        if self.ordinary <= limits.packets_per_second {
            Ok(())
        } else {
            Err(TooFast {
                limit: limits.packets_per_second,
                key: None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn count(
        meter: &mut Meter,
        at_ms: u64,
        class: PacketClass,
        packets: u32,
    ) -> Result<(), TooFast> {
        let limits = Limits::default();
        let now = MonoNanos(at_ms * MS + SECOND_NS);
        (0..packets).try_for_each(|_| meter.count(now, class, &limits))
    }

    // spec: X-2-32
    #[test]
    fn a_thousand_packets_in_a_second_are_allowed_and_one_more_is_not() {
        let mut meter = Meter::new();
        assert_eq!(count(&mut meter, 0, PacketClass::Ordinary, 1_000), Ok(()));
        assert_eq!(
            count(&mut meter, 999, PacketClass::Ordinary, 1),
            Err(TooFast {
                limit: 1_000,
                key: None
            })
        );
        assert_eq!(
            count(&mut meter, 1_000, PacketClass::Ordinary, 1_000),
            Ok(())
        );
    }

    // spec: X-2-32
    #[test]
    fn progress_has_its_own_limit_per_stream() {
        let mut meter = Meter::new();
        assert_eq!(count(&mut meter, 0, PacketClass::Keyed(1), 2_000), Ok(()));
        assert_eq!(count(&mut meter, 0, PacketClass::Keyed(2), 2_000), Ok(()));
        assert_eq!(count(&mut meter, 0, PacketClass::Ordinary, 1_000), Ok(()));
        assert_eq!(
            count(&mut meter, 500, PacketClass::Keyed(1), 1),
            Err(TooFast {
                limit: 2_000,
                key: Some(1)
            })
        );
    }

    #[test]
    fn inventing_keys_does_not_buy_a_higher_rate() {
        let mut meter = Meter::new();
        let made_up =
            (0..2_000).try_for_each(|key| count(&mut meter, 0, PacketClass::Keyed(key), 1));
        assert_eq!(
            made_up,
            Err(TooFast {
                limit: 1_000,
                key: None
            })
        );
        assert_eq!(meter.keyed.len(), KEYS_MAX);
    }
}
