//! Connections of kubelet's plugin watcher, in a form that HTTP/2 here takes.
//!
//! It dials a socket by its path, and its gRPC library sends that path, percent-encoded, as the request's
//! `:authority`. That is no authority by RFC 3986, and the `h2` crate ends such a stream with
//! PROTOCOL_ERROR before anybody sees the request. Each connection goes through here: in header blocks the
//! value of `:authority` becomes `localhost`; every other byte stays. Values are only measured, never
//! decoded, so the two ends' tables of headers stay alike but for that value.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;

/// Bytes that a client sends before its first frame (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
/// Bytes of a frame's head (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;
/// No frame is longer unless we allow it, which nobody here does.
const FRAME_MAX_BYTES: usize = 16_384;
/// Frame type HEADERS.
const HEADERS: u8 = 1;
/// Flags of HEADERS that put other bytes around the block: PADDED and PRIORITY.
const SURROUNDED: u8 = 0x08 | 0x20;
/// Index of `:authority` in the static table (RFC 7541 appendix A).
const AUTHORITY: u64 = 1;
/// What is sent instead: its length without Huffman coding, and its bytes.
const LOCALHOST: &[u8] = b"\x09localhost";

/// The connection with its authorities replaced. Ends when either end does.
pub(super) fn replaced(connection: UnixStream) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(4 * FRAME_MAX_BYTES);
    let (mut from_kubelet, mut to_kubelet) = connection.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(theirs);
    tokio::spawn(async move {
        if let Err(error) = forward(&mut from_kubelet, &mut to_server).await {
            tracing::debug!(%error, "a connection of kubelet's plugin watcher broke");
        }
        drop(to_server.shutdown().await);
    });
    tokio::spawn(async move {
        // Whoever closes first ends both; kubelet dials anew.
        drop(tokio::io::copy(&mut from_server, &mut to_kubelet).await);
        drop(to_kubelet.shutdown().await);
    });
    ours
}

/// Frame by frame, until the end.
async fn forward(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut preface = [0; PREFACE_BYTES];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    let mut head = [0; HEAD_BYTES];
    loop {
        match from.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FRAME_MAX_BYTES {
            return Err(io::Error::other("a frame is longer than allowed"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        if kind == HEADERS && flags & SURROUNDED == 0 {
            // A block that cannot be read is the server's to refuse.
            payload = with_localhost(&payload).unwrap_or(payload);
            let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            let [_, a, b, c] = length.to_be_bytes();
            (head[0], head[1], head[2]) = (a, b, c);
        }
        to.write_all(&head).await?;
        to.write_all(&payload).await?;
        to.flush().await?;
    }
}

/// The header block (RFC 7541 §6) with another `:authority`.
fn with_localhost(block: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(block.len());
    let mut rest = block;
    while let Some(&first) = rest.first() {
        let (index_bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40..=0x7F => (6, true),
            // A change of the table's size.
            0x20..=0x3F => (5, false),
            0x00..=0x1F => (4, true),
        };
        let (index, value) = integer(rest, index_bits)?;
        let after = match (is_literal, index) {
            (false, _) => value,
            (true, 0) => after_text(after_text(value)?)?,
            (true, _) => after_text(value)?,
        };
        if is_literal && index == AUTHORITY {
            out.extend_from_slice(rest.get(..rest.len() - value.len())?);
            out.extend_from_slice(LOCALHOST);
        } else {
            out.extend_from_slice(rest.get(..rest.len() - after.len())?);
        }
        rest = after;
    }
    Some(out)
}

/// An integer (RFC 7541 §5.1) and what follows it.
fn integer(bytes: &[u8], prefix_bits: u32) -> Option<(u64, &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    let largest = (1_u64 << prefix_bits) - 1;
    let mut value = u64::from(first) & largest;
    if value < largest {
        return Some((value, rest));
    }
    // More than this is no length or index of a block of 16 KiB.
    for shift in [0, 7, 14, 21] {
        let (&next, after) = rest.split_first()?;
        rest = after;
        value += u64::from(next & 0x7F) << shift;
        if next & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// What follows a text (RFC 7541 §5.2).
fn after_text(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = integer(bytes, 7)?;
    rest.get(usize::try_from(length).ok()?..)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubelet's library writes a call: indexed method and scheme, literal path and authority that
    /// enter the table, a literal that does not, and one with a name of its own.
    fn block(authority: &[u8]) -> Vec<u8> {
        let path = [b'/'; 200];
        let mut block = vec![0x83, 0x86, 0x44, 0x7F, 200 - 127];
        block.extend(path);
        block.extend([0x41, u8::try_from(authority.len()).unwrap()]);
        block.extend(authority);
        block.extend(b"\x0F\x10\x02aa\x40\x02te\x88abcdefgh\xBE\x3F\xE1\x1F");
        block
    }

    #[test]
    fn only_the_value_of_the_authority_is_another() {
        let block_of = |authority: &[u8]| with_localhost(&block(authority));
        assert_eq!(block_of(b"%2Fvar%2Flib"), Some(block(b"localhost")));
        assert_eq!(block_of(b""), Some(block(b"localhost")));
        assert_eq!(with_localhost(b"\x41\x09short"), None, "cut off");
        assert_eq!(with_localhost(b"\x7F\xFF\xFF\xFF\xFF\x01"), None);
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1][..], payload].concat()
    }

    #[tokio::test]
    async fn every_other_byte_of_a_connection_stays() {
        let sent = |authority: &[u8]| {
            [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                frame(4, 0, b""),
                frame(HEADERS, 4, &block(authority)),
                frame(0, 1, b"\0\0\0\0\0"),
                frame(HEADERS, 4 | 0x20, &block(authority)),
            ]
            .concat()
        };
        let mut arrived = Vec::new();
        let end = forward(&mut &sent(b"%2Fa")[..], &mut arrived).await;
        end.unwrap();
        let mut expected = sent(b"localhost");
        let kept = frame(HEADERS, 4 | 0x20, &block(b"localhost")).len();
        expected.truncate(expected.len() - kept);
        expected.extend(frame(HEADERS, 4 | 0x20, &block(b"%2Fa")));
        assert_eq!(arrived, expected);
        let long = [&[0; PREFACE_BYTES][..], &[0xFF; HEAD_BYTES]].concat();
        assert!(forward(&mut &long[..], &mut arrived).await.is_err());
    }
}
