//! Frames as a stream, on the smallest executor there is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use futures_core::Stream;
use tensorpool_client::{FrameStream, HeldFrame, PollError, Seq};
use tensorpool_wire::{LeaseRevokeReason, Role};

use crate::peer::{Peer, eventually};
use crate::stream::{consumer, producer};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The next item; parks until it is woken. Nothing else ever looks at the stream.
fn next(stream: &mut FrameStream) -> Result<HeldFrame, PollError> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match Pin::new(&mut *stream).poll_next(&mut context) {
            Poll::Ready(item) => return item.expect("the stream never ends"),
            Poll::Pending => std::thread::park(),
        }
    }
}

// spec: X-1-22
#[test]
fn a_task_is_woken_for_each_frame_and_for_the_end_of_its_lease() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut stream = consumer(&peer).build().unwrap().into_stream().unwrap();
    let (go, gone) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        while gone.recv_timeout(Duration::from_secs(30)).is_ok() {
            producer.publish(b"frame").unwrap();
        }
    });
    for n in 0..50 {
        go.send(()).unwrap();
        let frame = next(&mut stream).unwrap();
        assert_eq!(frame.frame().seq(), Seq(n));
        assert_eq!(frame.frame().to_vec().unwrap(), b"frame");
    }
    peer.with(|state| {
        let (id, _) = state.lease_of(Role::Consumer).unwrap();
        state.end(id, LeaseRevokeReason::Revoked, "for the test");
    });
    assert!(matches!(next(&mut stream), Err(PollError::LeaseEnded(_))));
    eventually("attached again", || {
        stream.consumer().status().is_mapped.then_some(())
    });
    go.send(()).unwrap();
    next(&mut stream).expect("frames go on");
    drop(go);
    writer.join().unwrap();
}
