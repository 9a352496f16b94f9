//! The socket file: made, replaced, removed, found.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::super::{ConnectError, ListenError};
use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

// spec: X-2-1, X-2-13
#[test]
fn the_file_has_exactly_the_mode_that_was_asked_for() {
    for wanted in [0o600, 0o660, 0o666] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("driver.sock");
        let mut server = SocketServer::new(Limits::default()).unwrap();
        server.add_listener(0, &path, wanted).unwrap();
        assert!(
            std::fs::symlink_metadata(&path)
                .unwrap()
                .file_type()
                .is_socket()
        );
        assert_eq!(mode(&path), wanted);
        assert_eq!(
            names(directory.path()),
            ["driver.sock"],
            "nothing else is left behind"
        );
    }
}

// spec: X-2-12
#[test]
fn a_restart_never_leaves_a_moment_without_a_socket_to_connect_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("driver.sock");
    let mut server = SocketServer::new(Limits::default()).unwrap();
    server.add_listener(0, &path, 0o600).unwrap();
    let done = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut looks, mut inodes) = (0_u64, std::collections::BTreeSet::new());
            while !done.load(Ordering::Relaxed) {
                let found = std::fs::symlink_metadata(&path).expect("the file is always there");
                inodes.insert(found.ino());
                looks += 1;
            }
            (looks, inodes.len())
        });
        for _ in 0..300 {
            let mut next = SocketServer::new(Limits::default()).unwrap();
            next.add_listener(0, &path, 0o600).unwrap();
            SocketClient::connect(&path).expect("the new driver answers before the old one ends");
            drop(std::mem::replace(&mut server, next));
            SocketClient::connect(&path).expect("the new driver answers");
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(looks.0 > 300, "the watcher looked only {} times", looks.0);
    assert!(looks.1 > 1, "the watcher saw no replacement");
}

// spec: X-2-14
#[test]
fn a_path_longer_than_an_address_works_at_both_ends() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("s".repeat(200));
    let mut server = SocketServer::new(Limits::default()).unwrap();
    server.add_listener(0, &path, 0o600).unwrap();
    let mut client = SocketClient::connect(&path).unwrap();
    client.send(LogicalStream::Control, b"far away").unwrap();
    let mut heard = Vec::new();
    for _ in 0..2 {
        let mut keep = |inbound: Inbound<'_>| {
            if let Inbound::Message { bytes, .. } = inbound {
                heard.extend_from_slice(bytes);
            }
        };
        server.poll(MonoNanos(SECOND), &mut keep).unwrap();
    }
    assert_eq!(heard, b"far away");
    assert_eq!(names(&deep).len(), 1);
    assert!(server.remove_listener(0).unwrap());
    assert_eq!(names(&deep), Vec::<String>::new());
}

// spec: X-2-1, X-2-15
#[test]
fn each_attachment_has_its_file_and_removing_one_ends_its_connections_only() {
    let mut desk = Desk::new();
    let other = desk.directory.path().join("other.sock");
    desk.server.add_listener(7, &other, 0o600).unwrap();
    let again = desk.server.add_listener(7, &other, 0o600);
    assert!(matches!(again, Err(ListenError::InUse { attachment: 7 })));
    let (mut stays, staying) = desk.connect();
    let mut goes = SocketClient::connect(&other).unwrap();
    let mut attachments = Vec::new();
    desk.server
        .poll(desk.now, &mut |inbound| {
            if let Inbound::Opened {
                connection,
                attachment,
                uid,
                pid,
            } = inbound
            {
                // spec: X-2-11
                assert_eq!(uid, rustix::process::getuid().as_raw());
                assert_eq!(pid, std::process::id());
                attachments.push((connection, attachment));
            }
        })
        .unwrap();
    let going = ConnectionId(staying.0 + 1);
    assert_eq!(attachments, [(going, 7)]);
    assert!(desk.server.remove_listener(7).unwrap());
    assert!(!desk.server.remove_listener(7).unwrap());
    assert_eq!(names(desk.directory.path()), ["driver.sock"]);
    desk.seen.clear();
    desk.poll_to_empty();
    let text = "the socket file was removed".to_owned();
    assert_eq!(
        desk.seen,
        [Seen::Closing(going, CloseReason::Removed, text)]
    );
    desk.answer(going, b"revoked").unwrap();
    desk.server.disconnect(going, CloseReason::Local);
    let (heard, over) = read_all(&mut goes);
    assert_eq!(heard, [b"revoked".to_vec()]);
    assert!(over.is_some());
    desk.answer(staying, b"you stay").unwrap();
    assert_eq!(read_all(&mut stays), (vec![b"you stay".to_vec()], None));
}

// spec: X-2-15
#[test]
fn a_file_that_a_successor_has_put_there_is_not_removed() {
    let mut desk = Desk::new();
    let mut successor = SocketServer::new(Limits::default()).unwrap();
    successor.add_listener(0, &desk.path(), 0o600).unwrap();
    assert!(desk.server.remove_listener(0).unwrap());
    SocketClient::connect(&desk.path()).expect("the successor's file is still there");
}

#[test]
fn a_socket_file_in_a_missing_directory_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing").join("driver.sock");
    let mut server = SocketServer::new(Limits::default()).unwrap();
    let error = server.add_listener(0, &path, 0o600).unwrap_err();
    assert_eq!(error.reason(), "io");
    let text = format!(
        "could not open the directory for the socket file {}",
        path.display()
    );
    assert_eq!(error.to_string(), text);
    let error = server.add_listener(0, Path::new("/"), 0o600).unwrap_err();
    assert_eq!(error.reason(), "no_name");
}

// spec: X-2-12
#[test]
fn a_failed_rename_leaves_no_temporary_file_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("driver.sock");
    std::fs::create_dir(&path).unwrap();
    let mut server = SocketServer::new(Limits::default()).unwrap();
    let error = server.add_listener(0, &path, 0o600).unwrap_err();
    assert!(
        error.to_string().starts_with("could not publish"),
        "{error}"
    );
    assert_eq!(names(directory.path()), ["driver.sock"]);
}

// spec: X-2-26
#[test]
fn only_a_driver_that_may_come_back_is_worth_another_attempt() {
    let desk = Desk::new();
    let missing = SocketClient::connect(&desk.directory.path().join("missing")).unwrap_err();
    assert!(missing.is_retryable(), "ENOENT: {missing}");
    let path = desk.path();
    let Desk {
        directory, server, ..
    } = desk;
    drop(server);
    let refused = SocketClient::connect(&path).unwrap_err();
    assert!(refused.is_retryable(), "ECONNREFUSED: {refused}");
    assert!(matches!(refused, ConnectError::NoDriver { .. }));

    let full = directory.path().join("full");
    let listen = |kind| {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
                .unwrap();
        let _ = std::fs::remove_file(&full);
        rustix::net::bind(&socket, &SocketAddrUnix::new(&full).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        socket
    };
    let listener = listen(SocketType::SEQPACKET);
    let _first = SocketClient::connect(&full).unwrap();
    let busy = SocketClient::connect(&full).unwrap_err();
    assert!(busy.is_retryable(), "EAGAIN: {busy}");
    drop(listener);

    let _stream = listen(SocketType::STREAM);
    let wrong = SocketClient::connect(&full).unwrap_err();
    assert!(!wrong.is_retryable(), "EPROTOTYPE: {wrong}");
    assert_eq!(wrong.reason(), "failed");
}
