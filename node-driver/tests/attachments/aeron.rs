//! Volumes with `transport: aeron` beside volumes with a socket, on one node with a real media driver.

use std::error::Error;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tensorpool_client::{BuildError, ClientId, ClientOptions, Consumer, Producer};
use tonic::Code;

use crate::inside::own_mounts;
use crate::one_frame_passes;
use crate::rig::{Rig, Transports, Wanted};
use crate::support::wait_until;
use crate::world::World;

/// The process of the container `aeronmd`. Killed when dropped.
struct MediaDriver(Child);

impl MediaDriver {
    fn start(rig: &Rig<'_>) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
            .args(["media-driver", "--dir"])
            .arg(rig.aeron_dir())
            .stdin(Stdio::null())
            .spawn();
        Self(child.expect("the binary starts"))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has an id"), signal).expect("it runs");
    }

    fn kill(mut self) {
        self.signal(Signal::KILL);
        self.0.wait().expect("it ends");
    }
}

impl Drop for MediaDriver {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn volumes_on_aeron_with_a_media_driver_and_a_control_plane() {
    if !own_mounts("aeron::volumes_on_aeron_with_a_media_driver_and_a_control_plane") {
        return;
    }
    let world = World::start();
    let rig = Rig::start_with(&world, Transports::SocketAndAeron);
    let media_driver = MediaDriver::start(&rig);
    for (account, verb) in [
        ("sensor", "produce"),
        ("viewer", "consume"),
        ("sensor", "aeron"),
        ("viewer", "aeron"),
    ] {
        rig.allow(account, verb);
    }
    publish_all(&rig);
    frames_pass_between_the_two_ways(&rig);
    ids_of_nobody_and_of_others_are_refused(&rig);
    a_lost_media_driver_costs_sockets_nothing(&rig, media_driver);
    all_are_gone_after_unpublish(&rig);
}

/// Pods `sensor` and `viewer` on sockets, `sensor-aeron` and `viewer-aeron` on Aeron.
fn publish_all(rig: &Rig<'_>) {
    let on_aeron = |wanted: Wanted| wanted.with("transport", "aeron");
    let refused = rig.publish("refused", &on_aeron(Wanted::produce("camera")));
    let refused = refused.expect_err("a producer on Aeron writes");
    assert_eq!(refused.code(), Code::InvalidArgument);
    for (pod, wanted) in [
        ("sensor", Wanted::produce("camera")),
        ("viewer", Wanted::consume("camera")),
        (
            "sensor-aeron",
            on_aeron(Wanted::produce("camera")).writable(),
        ),
        ("viewer-aeron", on_aeron(Wanted::consume("camera"))),
        ("lidar-aeron", on_aeron(Wanted::consume("lidar"))),
    ] {
        rig.publish(pod, &wanted).expect(pod);
    }
}

/// What a client in a pod finds by itself. A pod has the volume where the announced paths lead; here
/// they lead to the node's own directory.
fn options(rig: &Rig<'_>) -> ClientOptions {
    ClientOptions {
        allowed_base_dirs: vec![rig.kubelet.node_dir()],
        ..ClientOptions::default()
    }
}

fn produce(rig: &Rig<'_>, pod: &str) -> Result<Producer, BuildError> {
    let builder = Producer::builder("camera").client_options(options(rig));
    builder.socket(rig.socket(pod)).build()
}

fn consume(rig: &Rig<'_>, pod: &str) -> Result<Consumer, BuildError> {
    let builder = Consumer::builder("camera").client_options(options(rig));
    builder.socket(rig.socket(pod)).build()
}

/// A media driver that has just started answers a little later.
fn eventually<T>(what: &str, build: impl Fn() -> Result<T, BuildError>) -> T {
    wait_until(what, || build().map_err(|error| format!("{error:?}")))
}

/// The consumer may still have to change to the producer's epoch.
fn a_frame_arrives(sensor: &mut Producer, viewer: &mut Consumer) {
    wait_until("a frame of the new epoch", || {
        let sent = sensor.publish(b"tensor");
        sent.map_err(|error| error.to_string())?;
        match viewer.next() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

// spec: X-2-58, X-2-75, X-2-76
fn frames_pass_between_the_two_ways(rig: &Rig<'_>) {
    let mut viewer = eventually("a consumer on Aeron", || consume(rig, "viewer-aeron"));
    let mut sensor = produce(rig, "sensor").expect("a producer on its socket");
    a_frame_arrives(&mut sensor, &mut viewer);
    drop((viewer, sensor));

    let mut viewer = consume(rig, "viewer").expect("a consumer on its socket");
    let mut sensor = eventually("a producer on Aeron", || produce(rig, "sensor-aeron"));
    a_frame_arrives(&mut sensor, &mut viewer);
}

// spec: X-2-73
fn ids_of_nobody_and_of_others_are_refused(rig: &Rig<'_>) {
    let with_id = |client: u32| {
        let builder = Consumer::builder("camera")
            .client_options(options(rig))
            .client_id(ClientId(client));
        let refused = builder.socket(rig.socket("viewer-aeron")).build();
        let refused = refused.expect_err("it is refused");
        let mut text = refused.to_string();
        let mut cause = refused.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    };
    let nobodys = with_id(5);
    assert!(
        nobodys.contains("client_id 5 was not given to any volume"),
        "{nobodys}"
    );
    // The ids of the pod that may consume another stream.
    let output = Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
        .args(["client-ids", "--volume"])
        .arg(rig.kubelet.target("lidar-aeron"))
        .output()
        .expect("the binary runs");
    let ids = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let (first, _) = ids.split_once('-').expect("FIRST-LAST");
    let others = with_id(first.parse().expect("a number"));
    assert!(others.contains("stream not provisioned"), "{others}");
}

fn a_lost_media_driver_costs_sockets_nothing(rig: &Rig<'_>, media_driver: MediaDriver) {
    let mut sensor = produce(rig, "sensor").expect("a producer on its socket");
    let mut on_socket = consume(rig, "viewer").expect("a consumer on its socket");
    let mut on_aeron = eventually("a consumer on Aeron", || consume(rig, "viewer-aeron"));
    one_frame_passes(&mut sensor, &mut on_socket);
    media_driver.kill();
    for _ in 0..3 {
        one_frame_passes(&mut sensor, &mut on_socket);
    }
    // What its clients left stands in nobody's way.
    std::fs::create_dir(rig.aeron_dir().join("left")).expect("the directory is there");
    let _next = MediaDriver::start(rig);
    wait_until("the consumer on Aeron", || {
        sensor
            .publish(b"tensor")
            .map_err(|error| error.to_string())?;
        match on_aeron.next() {
            Ok(Some(frame)) if frame.seq() > tensorpool_client::Seq(4) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(!rig.aeron_dir().join("left").exists());
}

fn all_are_gone_after_unpublish(rig: &Rig<'_>) {
    for pod in [
        "sensor",
        "viewer",
        "sensor-aeron",
        "viewer-aeron",
        "lidar-aeron",
    ] {
        rig.unpublish(pod).expect(pod);
        assert!(!rig.kubelet.target(pod).exists(), "{pod}");
    }
    assert_eq!(rig.views(), Vec::<String>::new());
    assert_eq!(rig.records(), Vec::<String>::new());
}
