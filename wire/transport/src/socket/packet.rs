//! The packet of the socket: an 8-byte prefix and one message (docs/extensions.md §2.1).
//!
//! This module owns the prefix and nothing else. It refuses every packet that breaks a rule of the
//! framing; what the body means is not its business.

use tensorpool_wire::LogicalStream;

/// The only version of the framing.
pub const VERSION: u8 = 1;

/// Bytes of the prefix.
pub const PREFIX_LEN: usize = 8;

/// Longest packet in bytes, prefix included.
pub const MAX_PACKET_LEN: usize = 131_072;

/// Longest body in bytes.
pub const MAX_BODY_LEN: usize = MAX_PACKET_LEN - PREFIX_LEN;

/// Why a packet is garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than the prefix; the empty packet too.
    #[error("the packet has {len} bytes, its prefix alone needs 8")]
    TooShort {
        /// Received length in bytes.
        len: usize,
    },
    /// Longer than [`MAX_PACKET_LEN`].
    #[error("the packet has {len} bytes, at most 131072 are allowed")]
    TooLong {
        /// Received length in bytes, as far as known.
        len: usize,
    },
    /// Another version than [`VERSION`].
    #[error("the packet has version {version}, only 1 is known")]
    Version {
        /// The version byte.
        version: u8,
    },
    /// A logical stream that does not exist.
    #[error("the packet is for logical stream {number}, only 1 to 6 exist")]
    Stream {
        /// The stream byte.
        number: u8,
    },
    /// The reserved field is not zero.
    #[error("the packet's reserved field is {value}, it must be 0")]
    Reserved {
        /// The reserved field.
        value: u16,
    },
    /// The length field differs from the received length.
    #[error("the packet says it has {stated} bytes, {len} were received")]
    Length {
        /// The length field.
        stated: u32,
        /// Received length in bytes.
        len: usize,
    },
}

impl PacketError {
    /// Bounded label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooShort { .. } => "too_short",
            Self::TooLong { .. } => "too_long",
            Self::Version { .. } => "version",
            Self::Stream { .. } => "stream",
            Self::Reserved { .. } => "reserved",
            Self::Length { .. } => "length",
        }
    }
}

/// The prefix of a packet whose body has `body_len` bytes, or `None` where the packet would be too
/// long to send.
// spec: X-2-2, X-2-4
#[must_use]
pub fn prefix(stream: LogicalStream, body_len: usize) -> Option<[u8; PREFIX_LEN]> {
    if body_len > MAX_BODY_LEN {
        return None;
    }
    let length = u32::try_from(body_len + PREFIX_LEN).ok()?.to_le_bytes();
    Some([
        VERSION,
        stream.number(),
        0,
        0,
        length[0],
        length[1],
        length[2],
        length[3],
    ])
}

/// Beginning and end of the body that says why a connection is closed.
const CLOSING: (&[u8], &[u8]) = (b"{\"closing\":\"", b"\"}");

/// The body, on [`LogicalStream::Status`], that says why a connection is closed: a JSON document.
// spec: X-2-38
#[must_use]
pub fn closing(text: &str) -> Vec<u8> {
    // Our texts have none of the characters that JSON wants escaped; a quotation would be one.
    let plain = text.bytes().map(|byte| match byte {
        b'"' | b'\\' => b'\'',
        control if control.is_ascii_control() => b' ',
        other => other,
    });
    let (begin, end) = CLOSING;
    let body = begin.iter().copied().chain(plain);
    body.chain(end.iter().copied()).collect()
}

/// The text of such a body; `None` for every other.
// spec: X-2-38
#[must_use]
pub fn closing_text(body: &[u8]) -> Option<&str> {
    let (begin, end) = CLOSING;
    let text = body.strip_prefix(begin)?.strip_suffix(end)?;
    std::str::from_utf8(text).ok()
}

/// Takes a received packet apart. `packet` is exactly what was received.
///
/// # Errors
/// [`PacketError`] where the packet is garbage.
// spec: X-2-2, X-2-3, X-2-5
pub fn parse(packet: &[u8]) -> Result<(LogicalStream, &[u8]), PacketError> {
    let len = packet.len();
    if len > MAX_PACKET_LEN {
        return Err(PacketError::TooLong { len });
    }
    let Some((prefix, body)) = packet.split_first_chunk::<PREFIX_LEN>() else {
        return Err(PacketError::TooShort { len });
    };
    let [version, number, r0, r1, l0, l1, l2, l3] = *prefix;
    if version != VERSION {
        return Err(PacketError::Version { version });
    }
    let Some(stream) = LogicalStream::from_number(number) else {
        return Err(PacketError::Stream { number });
    };
    let value = u16::from_le_bytes([r0, r1]);
    if value != 0 {
        return Err(PacketError::Reserved { value });
    }
    let stated = u32::from_le_bytes([l0, l1, l2, l3]);
    if usize::try_from(stated) != Ok(len) {
        return Err(PacketError::Length { stated, len });
    }
    Ok((stream, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(stream: LogicalStream, body: &[u8]) -> Vec<u8> {
        let mut packet = prefix(stream, body.len()).unwrap().to_vec();
        packet.extend_from_slice(body);
        packet
    }

    // spec: X-2-2, X-2-3
    #[test]
    fn a_packet_is_the_prefix_and_the_message() {
        assert_eq!(
            packet(LogicalStream::Qos, b"abc"),
            [1, 3, 0, 0, 11, 0, 0, 0, b'a', b'b', b'c']
        );
        for stream in LogicalStream::ALL {
            assert_eq!(parse(&packet(stream, b"xy")), Ok((stream, &b"xy"[..])));
        }
    }

    #[test]
    fn the_longest_body_fits_and_one_byte_more_does_not() {
        let longest = packet(LogicalStream::Metadata, &vec![7; MAX_BODY_LEN]);
        assert_eq!(longest.len(), MAX_PACKET_LEN);
        assert!(parse(&longest).is_ok());
        // spec: X-2-4
        assert_eq!(prefix(LogicalStream::Metadata, MAX_BODY_LEN + 1), None);
        let mut longer = longest;
        longer.push(0);
        assert_eq!(parse(&longer), Err(PacketError::TooLong { len: 131_073 }));
    }

    // spec: X-2-5
    #[test]
    fn every_broken_rule_has_its_own_error() {
        let good = packet(LogicalStream::Control, b"abcd");
        let changed = |at: usize, to: u8| {
            let mut bad = good.clone();
            bad[at] = to;
            bad
        };
        assert_eq!(parse(&[]), Err(PacketError::TooShort { len: 0 }));
        assert_eq!(parse(&good[..7]), Err(PacketError::TooShort { len: 7 }));
        assert_eq!(
            parse(&changed(0, 2)),
            Err(PacketError::Version { version: 2 })
        );
        assert_eq!(
            parse(&changed(1, 0)),
            Err(PacketError::Stream { number: 0 })
        );
        assert_eq!(
            parse(&changed(1, 7)),
            Err(PacketError::Stream { number: 7 })
        );
        assert_eq!(
            parse(&changed(3, 1)),
            Err(PacketError::Reserved { value: 256 })
        );
        assert_eq!(
            parse(&changed(4, 11)),
            Err(PacketError::Length {
                stated: 11,
                len: 12
            })
        );
        assert_eq!(parse(&changed(7, 255)).unwrap_err().reason(), "length");
    }

    // spec: X-2-38
    #[test]
    fn the_reason_of_a_close_is_a_json_document_whatever_its_text() {
        let body = closing("64 connections are open");
        assert_eq!(body, b"{\"closing\":\"64 connections are open\"}");
        assert_eq!(closing_text(&body), Some("64 connections are open"));
        let odd = closing("a \"quoted\" C:\\path\n");
        assert_eq!(odd, b"{\"closing\":\"a 'quoted' C:'path \"}");
        assert_eq!(closing_text(b"{\"end\":true}"), None);
        assert_eq!(closing_text(b""), None);
    }

    #[test]
    fn an_empty_body_is_a_packet() {
        assert_eq!(
            parse(&packet(LogicalStream::Status, &[])),
            Ok((LogicalStream::Status, &[][..]))
        );
    }
}
