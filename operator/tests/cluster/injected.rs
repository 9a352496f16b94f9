//! An API server that fails at every request, and an operator that dies at every write.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kube::api::DeleteParams;
use tensorpool_cluster::{Asked, Fate};
use tensorpool_crds::{TensorPoolNode, TensorStream};

use crate::process::Operator;
use crate::world::{World, reason};

/// A write that is part of the operator's work: no lease, no event for people.
fn is_work(asked: &Asked) -> bool {
    asked.is_write() && !asked.path.contains("/leases") && !asked.path.contains("/events")
}

/// Each work write fails once, each list and watch as well.
fn is_answered_once(asked: &Asked) -> bool {
    let is_look = !asked.is_write() && !asked.path.contains("/leases");
    is_work(asked) || is_look
}

/// A stream from its creation to its end, with one node that serves it meanwhile.
async fn a_life(world: &World, name: &str) {
    world.make_stream(name).await;
    let told = |it: &TensorPoolNode| it.spec.streams.iter().any(|it| it.name == name);
    world.when(world.all(), "n1", told).await;
    world.driver_serves("n1", &[name]).await;
    world
        .when(world.vision(), name, |it: &TensorStream| {
            reason(it, "Ready", "True").as_deref() == Some("Ready")
        })
        .await;
    let streams = world.vision::<TensorStream>();
    let deleted = streams.delete(name, &DeleteParams::default()).await;
    deleted.expect("it was there");
    let untold = |it: &TensorPoolNode| it.spec.streams.iter().all(|it| it.name != name);
    world.when(world.all(), "n1", untold).await;
    world.driver_serves("n1", &[]).await;
    world.gone(streams, name).await;
}

#[tokio::test]
async fn control_plane_that_fails_once_at_everything_delays_and_loses_nothing() {
    let world = World::start(&["n1"]).await;
    let proxy = world.proxy();
    // Already the first list of each kind fails.
    proxy.refuse_once(503, is_answered_once);
    let operator = Operator::start(&proxy.kubeconfig(), "one");
    a_life(&world, "camera-503").await;
    for (code, result) in [
        (409, "conflict"),
        (410, "gone"),
        (429, "throttled"),
        (500, "server"),
    ] {
        proxy.refuse_once(code, is_answered_once);
        a_life(&world, &format!("camera-{code}")).await;
        let metric = format!(
            r#"tensorpool_operator_writes_total{{part="stream_status",result="{result}"}}"#
        );
        assert!(operator.metric(&metric) >= 1.0, "{metric}");
    }
    assert_eq!(world.forbidden(), Vec::<String>::new());
}

#[tokio::test]
async fn control_plane_whose_watches_expire_is_listed_again() {
    let world = World::start(&["n1"]).await;
    let proxy = world.proxy();
    // The first watch of each kind begins and says that it is too old.
    let mut expired = BTreeSet::new();
    proxy.judge(move |asked| {
        if asked.is_watch && expired.insert(asked.path.clone()) {
            Fate::Expired
        } else {
            Fate::Passed
        }
    });
    let _operator = Operator::start(&proxy.kubeconfig(), "one");
    a_life(&world, "camera").await;
}

/// Starts an operator anew each time that it is to be killed, under the name of its pod.
struct Supervisor {
    thread: Option<JoinHandle<usize>>,
    over: std::sync::mpsc::Sender<()>,
}

impl Supervisor {
    fn start(kubeconfig: &Path, kills: Receiver<Asked>) -> Self {
        let (over, ended) = channel();
        let kubeconfig = kubeconfig.to_owned();
        let thread = thread::spawn(move || {
            let mut killed = 0;
            let mut operator = Operator::start(&kubeconfig, "one");
            while ended.try_recv().is_err() {
                match kills.recv_timeout(Duration::from_millis(50)) {
                    Ok(_) => {
                        operator.kill();
                        // What others of its requests were on their way died with it.
                        while kills.try_recv().is_ok() {}
                        killed += 1;
                        operator = Operator::start(&kubeconfig, "one");
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            killed
        });
        Self {
            thread: Some(thread),
            over,
        }
    }

    /// Ends it; how often the operator was killed.
    fn end(mut self) -> usize {
        // It may have ended already.
        self.over.send(()).unwrap_or_default();
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("the operator could be started again")
    }
}

#[tokio::test]
async fn control_plane_sees_the_end_of_a_stream_whose_operator_dies_before_and_after_each_write() {
    let world = World::start(&["n1"]).await;
    let proxy = world.proxy();
    let killed = proxy.kills();
    // Each kind of write kills it twice: once before it is done, once after.
    let seen: Arc<Mutex<[BTreeSet<String>; 2]>> = Arc::default();
    let judged = Arc::clone(&seen);
    proxy.judge(move |asked| {
        if !is_work(asked) {
            return Fate::Passed;
        }
        let mut seen = judged.lock().unwrap_or_else(PoisonError::into_inner);
        let [before, after] = &mut *seen;
        let write = format!("{} {}", asked.method, asked.path);
        if before.insert(write.clone()) {
            Fate::KilledBefore
        } else if after.insert(write) {
            Fate::KilledAfter
        } else {
            Fate::Passed
        }
    });
    let supervisor = Supervisor::start(&proxy.kubeconfig(), killed);
    a_life(&world, "camera").await;
    // The same writes once more, for a stream of the same name that is another one.
    seen.lock().unwrap_or_else(PoisonError::into_inner)[1].clear();
    a_life(&world, "camera").await;
    let deaths = supervisor.end();
    let [before, after] = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    println!("the operator died {deaths} times, at {before:#?}");
    for part in [
        "tensorstreams/camera",
        "tensorstreams/camera/status",
        "tensorpoolnodes/n1",
        "tensorpoolclasses/default/status",
        "nodes/n1",
    ] {
        for set in [&before, &after] {
            assert!(set.iter().any(|it| it.ends_with(part)), "{part}: {set:?}");
        }
    }
    assert!(deaths >= 10, "{deaths}");
    assert_eq!(world.forbidden(), Vec::<String>::new());
}
