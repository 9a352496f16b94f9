//! More than one process: killed, forked, executed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tensorpool_client::{
    ClaimError, ClientOptions, Consumer, FrameError, PollError, Producer, Seq, TensorSpec,
};

use crate::peer::{NAME, Peer, eventually};
use crate::stream::{consumer, producer, seqs};

/// Runs one of the tests below as a process of its own.
fn child(peer: &Peer, test: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("process::{test}"),
            "--ignored",
            "--nocapture",
        ])
        .env("TENSORPOOL_SOCKET", peer.socket())
        .env("TENSORPOOL_ALLOWED_BASE_DIRS", peer.dir.path().join("base"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary runs");
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

fn wait_for_line(output: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    while output.read_line(&mut line).expect("the child speaks") > 0 {
        if line.contains(wanted) {
            return;
        }
        line.clear();
    }
    panic!("the child ended without `{wanted}`");
}

fn wait_for_end_of_input() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[test]
#[ignore = "runs as a child of a_producer_killed_inside_a_claim_takes_nothing_with_it"]
fn child_claims() {
    let mut producer = Producer::builder(NAME)
        .build()
        .expect("found by TENSORPOOL_SOCKET");
    for _ in 0..3 {
        producer.publish(b"before").unwrap();
    }
    let spec = TensorSpec::bytes(5).unwrap();
    let mut claim = producer.claim(&spec).unwrap();
    claim.write(b"never").unwrap();
    println!("claimed");
    wait_for_end_of_input();
}

#[test]
fn a_producer_killed_inside_a_claim_takes_nothing_with_it() {
    let peer = Peer::start();
    let (mut victim, mut output) = child(&peer, "child_claims");
    wait_for_line(&mut output, "claimed");
    let mut consumer = consumer(&peer).build().expect("attached");
    assert_eq!(
        seqs(&mut consumer),
        [2],
        "the newest committed frame, not the claim"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
    let mut next = producer(&peer);
    next.publish(b"after").unwrap();
    let frame = eventually("the next producer's frame", || {
        let frame = consumer.next().unwrap()?;
        Some((frame.seq(), frame.to_vec().unwrap()))
    });
    assert_eq!(frame, (Seq(0), b"after".to_vec()));
    assert_eq!(consumer.stats().delivered, 2);
}

#[test]
#[ignore = "runs as a child of frames_cross_processes_unharmed"]
fn child_produces() {
    let mut producer = Producer::builder(NAME)
        .build()
        .expect("found by TENSORPOOL_SOCKET");
    println!("ready");
    wait_for_end_of_input();
    for n in 0..20_000_u32 {
        let bytes: Vec<u8> = n.to_le_bytes().repeat(16);
        producer.publish(&bytes).unwrap();
    }
    println!("done");
    wait_for_end_of_input();
}

// spec: W-8.3-5 W-15.21-1
#[test]
fn frames_cross_processes_unharmed() {
    use std::io::Write;
    let peer = Peer::start();
    let (mut other, mut output) = child(&peer, "child_produces");
    wait_for_line(&mut output, "ready");
    let mut consumer = consumer(&peer).build().expect("attached");
    let mut input = other.stdin.take().unwrap();
    input.write_all(b"go\n").unwrap();
    let mut last = None;
    while last != Some(19_999) {
        let Some(frame) = consumer.wait(std::time::Duration::from_secs(10)).unwrap() else {
            panic!("no frame within 10 s, last {last:?}");
        };
        let seq = frame.seq().get();
        // Overwritten meanwhile: allowed, and told.
        if let Ok(bytes) = frame.to_vec() {
            let expected = u32::try_from(seq).unwrap().to_le_bytes().repeat(16);
            assert_eq!(bytes, expected, "frame {seq}");
        }
        assert!(last.is_none_or(|last| seq > last), "numbers rise");
        last = Some(seq);
    }
    let stats = consumer.stats();
    let dropped: u64 = stats.drops().map(|(_, frames)| frames).sum();
    assert_eq!(
        stats.delivered + dropped,
        20_000,
        "each frame is delivered or counted"
    );
    drop(input);
    assert!(other.wait().unwrap().success());
}

// spec: X-2-24
#[test]
fn a_forked_child_can_do_nothing_with_its_parents_attachments() {
    let peer = Peer::start();
    let mut producer = producer(&peer);
    let mut consumer = consumer(&peer).build().expect("attached");
    producer.publish(b"x").unwrap();
    let held = consumer.next().unwrap().expect("a frame").hold();
    match fork::fork().expect("a child") {
        fork::Fork::Child => {
            let is_refused = producer.publish(b"y") == Err(ClaimError::ForkedChild)
                && consumer.next().err() == Some(PollError::ForkedChild)
                && consumer.latest().err() == Some(PollError::ForkedChild)
                && held.frame().to_vec() == Err(FrameError::ForkedChild)
                && !held.frame().still_valid();
            drop((producer, consumer, held));
            std::process::exit(if is_refused { 0 } else { 1 });
        }
        fork::Fork::Parent(child) => {
            let child = rustix::process::Pid::from_raw(child).expect("a pid");
            let ended =
                rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
            let (_, status) = ended.expect("the child ends").expect("it was waited for");
            assert_eq!(
                status.exit_status(),
                Some(0),
                "every call is refused, and dropping hangs nowhere"
            );
        }
    }
    assert_eq!(producer.publish(b"z"), Ok(Seq(1)), "the parent goes on");
    assert_eq!(seqs(&mut consumer), [1]);
    assert_eq!(
        peer.with(|state| state.leases.len()),
        2,
        "the child ended no lease"
    );
}

// spec: X-2-10 X-2-24
#[test]
fn an_executed_child_inherits_neither_socket_nor_memory() {
    let peer = Peer::start();
    let _producer = producer(&peer);
    let listing = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .output()
        .unwrap();
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    assert!(listing.contains("/proc/"), "{listing}");
    for forbidden in ["socket:", "eventfd", "header.ring", ".pool"] {
        assert!(!listing.contains(forbidden), "{forbidden} in {listing}");
    }
}

#[test]
fn without_any_driver_the_error_names_the_places() {
    let options = ClientOptions {
        socket: Some("/nowhere/driver.sock".into()),
        ..ClientOptions::default()
    };
    let error = Consumer::builder(NAME)
        .client_options(options)
        .timeout(std::time::Duration::from_millis(100))
        .build()
        .expect_err("there is none");
    let words = error.to_string();
    assert!(words.contains("/nowhere/driver.sock"), "{words}");
    assert!(words.contains("start tensorpool-node-driver"), "{words}");
}
