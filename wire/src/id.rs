//! Ids and times as types of their own, so that a stream id can never be passed for a client id.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
        #[repr(transparent)]
        pub struct $name(pub $raw);

        impl $name {
            /// The number as it stands on the wire.
            #[must_use]
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> Self {
                Self(raw)
            }
        }
    };
}

id! {
    /// A data source, for instance one camera. Not an Aeron stream id: those only select a log.
    StreamId(u32)
}
id! {
    /// One lease's holder. Unique over all live leases of a driver; 0 is never valid (D-4.8-5).
    ClientId(u32)
}
id! {
    /// One grant of one role on one stream. Opaque, never reused by a driver process (D-4.8-4).
    LeaseId(u64)
}
id! {
    /// One incarnation of a stream's memory. Rises strictly, never reused.
    Epoch(u64)
}
id! {
    /// One payload pool of a stream. 0 stands for the header ring in a superblock (W-7.1-5).
    PoolId(u16)
}
id! {
    /// A frame's number within an epoch, `0..=2^63-2` (W-8.3-1).
    Seq(u64)
}
id! {
    /// Chosen by the asker, echoed in the answer (D-4.2-8).
    CorrelationId(i64)
}
id! {
    /// A node number for trace ids, `1..=1023` when this driver assigns it.
    NodeId(u32)
}
id! {
    /// Follows a frame through the stages that work on it. 0 on the wire stands for none (T-8.1-1).
    TraceId(u64)
}
id! {
    /// `CLOCK_MONOTONIC` in nanoseconds. Every time on the wire is one, unless it says otherwise.
    MonoNanos(u64)
}
id! {
    /// `CLOCK_REALTIME` in nanoseconds since 1970.
    WallNanos(u64)
}

impl MonoNanos {
    /// This time plus `nanos`, at most `u64::MAX`.
    #[must_use]
    pub const fn saturating_add(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to this time, 0 if `earlier` is not earlier.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Seq {
    /// The highest number that a frame may have: its commit words must differ from the null.
    // spec: W-8.3-1
    pub const MAX: Self = Self((1 << 63) - 2);

    /// The slot's first word while the frame is being written.
    // spec: W-8.3-1
    #[must_use]
    pub const fn in_progress_word(self) -> u64 {
        self.0 << 1
    }

    /// The slot's first word once the frame is committed.
    // spec: W-8.3-1
    #[must_use]
    pub const fn committed_word(self) -> u64 {
        self.0 << 1 | 1
    }

    /// The frame that a slot's first word says is committed; `None` while it is in progress, or if
    /// the number is above [`Self::MAX`].
    // spec: W-8.3-1
    #[must_use]
    pub const fn from_committed_word(word: u64) -> Option<Self> {
        let seq = word >> 1;
        if word & 1 == 1 && seq <= Self::MAX.0 {
            Some(Self(seq))
        } else {
            None
        }
    }

    /// The slot that the frame is in, with `header_nslots` a power of two.
    // spec: W-10.2.1-3
    #[must_use]
    #[inline]
    pub fn index(self, header_nslots: u32) -> u32 {
        let mask = u64::from(header_nslots.saturating_sub(1));
        u32::try_from(self.0 & mask).unwrap_or_default()
    }
}
