//! Who has the producer's place on a stream, where a driver tells.

use std::fmt;

use tensorpool_wire::{ClientId, StreamId};

/// The producer that is in the way of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    client: ClientId,
    /// Its process, as the driver's kernel sees it; only of producers on a socket.
    pid: Option<u32>,
}

impl Holder {
    /// By the client id in an announce or a discovery result; 0: there is none.
    pub(crate) fn of_client(client: ClientId) -> Option<Self> {
        (client.get() != 0).then_some(Self { client, pid: None })
    }

    /// By a document of the driver's status (X-2-50). `None` where it is about another stream, or about
    /// one without a producer.
    // spec: X-2-52
    pub(super) fn of_status(document: &[u8], stream: StreamId) -> Option<Self> {
        let document = std::str::from_utf8(document).ok()?;
        if number(document, "\"stream_id\":")? != stream.get() {
            return None;
        }
        // A quotation mark inside a string is escaped, so this can only be the field.
        let (_, producer) = document.split_once("\"producer\":{")?;
        let client = ClientId(number(producer, "\"client_id\":")?);
        let pid = number(producer, "\"pid\":\"").filter(|pid| *pid != 0);
        Some(Self { client, pid })
    }

    pub(super) fn is(&self, client: ClientId) -> bool {
        self.client == client
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.client)?;
        match self.pid {
            Some(pid) => write!(f, " in process {pid}"),
            None => Ok(()),
        }
    }
}

/// The number behind the first `field`.
fn number(text: &str, field: &str) -> Option<u32> {
    let (_, rest) = text.split_once(field)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(producer: &str) -> String {
        format!(
            r#"{{"driver":{{"instance_id":"driver-01","pid":9}},"stream_id":10000,"name":"a \"producer\":{{ b","producer":{producer},"consumers":[{{"client_id":5,"pid":"6"}}]}}"#
        )
    }

    // spec: X-2-52
    #[test]
    fn the_status_names_client_and_process_of_the_streams_producer() {
        let on_socket = document(r#"{"client_id":7,"way":"socket","pid":"4711","frames":null}"#);
        let holder = Holder::of_status(on_socket.as_bytes(), StreamId(10_000));
        assert_eq!(holder.unwrap().to_string(), "client 7 in process 4711");
        let on_aeron = document(r#"{"client_id":7,"way":"aeron","pid":"-"}"#);
        let holder = Holder::of_status(on_aeron.as_bytes(), StreamId(10_000));
        assert_eq!(holder.unwrap().to_string(), "client 7");
    }

    #[test]
    fn other_streams_no_producer_and_garbage_name_nobody() {
        let other = document(r#"{"client_id":7,"pid":"1"}"#);
        assert_eq!(Holder::of_status(other.as_bytes(), StreamId(1)), None);
        let none = document("null");
        assert_eq!(Holder::of_status(none.as_bytes(), StreamId(10_000)), None);
        for garbage in [
            &b"{\"end\":true}"[..],
            b"",
            &[0xFF; 9],
            b"\"stream_id\":10000",
        ] {
            assert_eq!(Holder::of_status(garbage, StreamId(10_000)), None);
        }
        assert_eq!(Holder::of_client(ClientId(0)), None);
    }
}
