//! Channel texts: the little that must be known about them.

/// `channel` with `tether=false`, unless it already says how it is tethered. A subscription that
/// stops reading then loses messages instead of stopping its publisher.
#[must_use]
pub fn untethered(channel: &str) -> String {
    let params = channel.split_once('?').map_or("", |(_, params)| params);
    if params.split('|').any(|param| param.starts_with("tether=")) {
        return channel.to_owned();
    }
    let joint = match channel.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "|",
    };
    format!("{channel}{joint}tether=false")
}

/// Whether messages on `channel` stay on this machine.
#[must_use]
pub fn is_ipc(channel: &str) -> bool {
    channel == "aeron:ipc" || channel.starts_with("aeron:ipc?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_becomes_untethered_however_it_is_written() {
        for (channel, wanted) in [
            ("aeron:ipc", "aeron:ipc?tether=false"),
            ("aeron:ipc?", "aeron:ipc?tether=false"),
            (
                "aeron:ipc?term-length=4m",
                "aeron:ipc?term-length=4m|tether=false",
            ),
        ] {
            assert_eq!(untethered(channel), wanted);
        }
    }

    #[test]
    fn a_channel_that_says_how_it_is_tethered_is_left_alone() {
        for channel in ["aeron:ipc?tether=true", "aeron:ipc?mtu=1408|tether=true"] {
            assert_eq!(untethered(channel), channel);
        }
    }

    #[test]
    fn only_the_ipc_medium_is_ipc() {
        assert!(is_ipc("aeron:ipc"));
        assert!(is_ipc("aeron:ipc?term-length=64k"));
        assert!(!is_ipc("aeron:ipcx"));
        assert!(!is_ipc("aeron:udp?endpoint=localhost:1"));
        assert!(!is_ipc(""));
    }
}
