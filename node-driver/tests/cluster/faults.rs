//! An API server that fails: at every request, in the middle of an answer, for a while, for a token.
//! Frames go on meanwhile, and in the end everything is as if nothing had been.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tensorpool_cluster::Fate;
use tensorpool_node_driver::cluster::access::{Question, Reviewer, Verb, Verdict};
use tokio::runtime::Handle;

use crate::node::{Node, condition};
use crate::objects::{node, stream};
use crate::witness::Witness;
use crate::world::{World, eventually, eventually_within, the_lease_says};

/// Another policy, in another object of the same name: list, watch, status and Lease are all due.
fn renew(world: &World, revision: &str) {
    world.kubectl(&["delete", "tpn", "n1"]);
    let streams = [stream("camera", 20_000)];
    world.apply("n1.json", &node("n1", revision, &streams).to_string());
}

/// The Lease belongs to the object that is there now.
fn the_lease_follows(world: &World, n1: &Node<'_>) {
    let uid = n1.object()["metadata"]["uid"].clone();
    let uid = uid.as_str().expect("every object has one");
    the_lease_says(world, "{.metadata.ownerReferences[0].uid}", uid);
}

fn requests(request: &str, result: &str) -> String {
    format!(r#"tensorpool_driver_api_requests_total{{request="{request}",result="{result}"}}"#)
}

#[test]
fn control_plane_that_fails_once_at_everything_delays_and_loses_nothing() {
    let world = World::start();
    let streams = [stream("camera", 20_000)];
    world.apply("n1.json", &node("n1", "r0", &streams).to_string());
    let proxy = world.proxy();
    let n1 = Node::behind(&world, "n1", &proxy);
    // Already the first list fails.
    proxy.refuse_once(503, |_| true);
    let driver = n1.start();
    n1.follows("r0");
    n1.kubelet_registers();
    n1.status("the node is ready", |status| {
        condition(status, "Ready")["status"] == "True"
    });
    let witness = Witness::start(&n1.socket(), "camera");
    for (code, result) in [
        (409, "conflict"),
        (410, "refused"),
        (429, "throttled"),
        (500, "server"),
        (503, "server"),
    ] {
        proxy.refuse_once(code, |_| true);
        proxy.cut_open();
        let revision = format!("r{code}");
        renew(&world, &revision);
        n1.follows(&revision);
        the_lease_follows(&world, &n1);
        for request in ["status", "lease"] {
            let counted = requests(request, result);
            assert!(driver.metric(&counted) >= Some(1.0), "{counted}");
        }
        witness.goes_on();
    }
    assert!(driver.metric(&requests("watch", "broken")) >= Some(5.0));
    println!("{} frames, none lost", witness.end());
}

#[test]
fn control_plane_whose_answers_break_off_is_asked_again() {
    let world = World::start();
    let streams = [stream("camera", 20_000)];
    world.apply("n1.json", &node("n1", "r0", &streams).to_string());
    let proxy = world.proxy();
    let n1 = Node::behind(&world, "n1", &proxy);
    // Each is met by the first requests of its kind, one after the other.
    let fates = |kind: &str| match kind {
        "list" => vec![Fate::Cut(100), Fate::Cut(0)],
        "watch" => vec![Fate::Expired, Fate::Cut(20)],
        "status" | "lease" => vec![Fate::Cut(50), Fate::Away],
        other => panic!("{other}"),
    };
    let left: BTreeMap<&str, Vec<Fate>> = ["list", "watch", "status", "lease"]
        .map(|kind| (kind, fates(kind)))
        .into();
    let left = Arc::new(Mutex::new(left));
    let judged = Arc::clone(&left);
    proxy.judge(move |asked| {
        let kind = match asked.path.as_str() {
            _ if asked.is_watch => "watch",
            path if path.ends_with("/status") => "status",
            path if path.contains("/leases/") => "lease",
            path if path.ends_with("/tensorpoolnodes") => "list",
            _ => return Fate::Passed,
        };
        let mut left = judged.lock().unwrap_or_else(PoisonError::into_inner);
        let fates = left.get_mut(kind).expect("it is one of these");
        if fates.is_empty() {
            return Fate::Passed;
        }
        fates.remove(0)
    });
    let driver = n1.start();
    n1.follows("r0");
    let witness = Witness::start(&n1.socket(), "camera");
    // The watch breaks off in the middle of what it says of these.
    for number in 1..=3 {
        let revision = format!("r{number}");
        renew(&world, &revision);
        n1.follows(&revision);
    }
    the_lease_follows(&world, &n1);
    let left = left.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(
        left.values().all(Vec::is_empty),
        "all of it happened: {left:?}"
    );
    assert!(driver.metric(&requests("watch", "broken")) >= Some(3.0));
    println!("{} frames, none lost", witness.end());
}

#[test]
fn control_plane_that_is_away_for_many_lives_of_a_lease_is_not_missed() {
    let world = World::start();
    let streams = [stream("camera", 20_000)];
    world.apply("n1.json", &node("n1", "r1", &streams).to_string());
    let proxy = world.proxy();
    let rhythm = Duration::from_millis(200);
    let n1 = Node::behind(&world, "n1", &proxy).keepalive(200);
    let mut driver = n1.start();
    n1.follows("r1");
    let witness = Witness::start(&n1.socket(), "camera");
    n1.status("the pair is reported", |status| status["attachments"] == 2);
    proxy.go_away();
    let away = Instant::now();
    let before = witness.seen();
    world.apply("n1.json", &node("n1", "r2", &streams).to_string());
    driver.wait_for("the watch of the node's object broke and is taken up again");
    eventually("leases would have ended twenty times", || {
        let passed = away.elapsed();
        if passed > rhythm * 20 {
            Ok(())
        } else {
            Err(format!("{passed:?}"))
        }
    });
    witness.goes_on();
    let during = witness.seen() - before;
    assert_ne!(n1.object()["status"]["observedPolicyRevision"], "r2");
    proxy.pass_everything();
    let back = Instant::now();
    let status = n1.follows("r2");
    assert_eq!(status["attachments"], 2, "{status}");
    println!(
        "away for {:?} with {during} frames; followed again after {:?}",
        back - away,
        back.elapsed()
    );
    println!("{} frames, none lost", witness.end());
}

#[test]
fn control_plane_that_takes_the_token_no_more_is_asked_with_the_next_one() {
    let world = World::start();
    let streams = [stream("camera", 20_000)];
    world.apply("n1.json", &node("n1", "r1", &streams).to_string());
    let n1 = Node::new(&world, "n1");
    let token = world.token(Some("n1"));
    let short = world
        .control_plane
        .token_ending_in(&token, Duration::from_secs(5));
    world.write("n1.token", &short.expect("it is a token"));
    let mut driver = n1.start();
    n1.follows("r1");
    let witness = Witness::start(&n1.socket(), "camera");
    // Something to write each time that the answer is still yes.
    let mut client = n1.client();
    let mut number = 100;
    eventually("the token has ended", || {
        number += 1;
        let lease = client.lease(tensorpool_wire::Role::Consumer, 20_000, number);
        client.detach(&lease);
        let refused = driver.metric(&requests("status", "unauthorized"));
        if refused >= Some(1.0) {
            Ok(())
        } else {
            Err(format!("{refused:?}"))
        }
    });
    let refused = driver.wait_for_line("the refusal", |line| line["reason"] == "unauthorized");
    assert!(
        refused["error"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    witness.goes_on();
    // As kubelet does it: the file has another token. Nobody tells the driver.
    world.write("n1.token", &token);
    client.lease(tensorpool_wire::Role::Consumer, 20_000, 9);
    // The file is read once a minute, and a writer that failed pauses for half a minute.
    let late = Duration::from_secs(150);
    eventually_within(late, "the status is written with the next token", || {
        let status = n1.object()["status"].clone();
        if status["attachments"] == 3 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    println!("{} frames, none lost", witness.end());
}

#[tokio::test]
async fn control_plane_that_cannot_say_allows_nobody() {
    let world = World::start();
    world.kubectl(&["create", "namespace", "apps"]);
    let role = ["--verb=consume", "--resource=tensorstreams.tensorpool.io"];
    world.kubectl(&[&["create", "role", "all", "-n", "vision"][..], &role].concat());
    let group = "--group=system:serviceaccounts:apps";
    world.kubectl(&[
        "create",
        "rolebinding",
        "all",
        "-n",
        "vision",
        "--role=all",
        group,
    ]);
    let proxy = world.proxy();
    let file = world.kubeconfig_at(Some("n1"), &proxy.server());
    let file = Kubeconfig::read_from(file).expect("it was written");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.expect("it is complete");
    config.default_retry = false;
    let client = Client::try_from(config).expect("a client");
    let question = Question {
        pod_namespace: "apps".to_owned(),
        service_account: "viewer".to_owned(),
        verb: Verb::Consume,
        stream_namespace: "vision".to_owned(),
        stream: "camera".to_owned(),
    };
    let fates = [409, 410, 429, 500, 503].map(Fate::Refused);
    let mut reasons = BTreeSet::new();
    for fate in fates
        .into_iter()
        .chain([Fate::Away, Fate::Cut(10), Fate::Silent])
    {
        let reviewer = Reviewer::new(client.clone(), Handle::current());
        proxy.judge(move |_| fate);
        let error = reviewer.review(&question).await;
        let error = error.expect_err("without an answer there is no access");
        let text = error.to_string();
        assert!(
            text.starts_with("the API server did not say"),
            "{fate:?}: {text}"
        );
        if matches!(fate, Fate::Refused(_)) {
            assert!(text.ends_with("injected by the test"), "{fate:?}: {text}");
        }
        reasons.insert(error.reason());
        proxy.pass_everything();
        let allowed = reviewer.review(&question).await;
        assert_eq!(allowed.expect("it answers"), Verdict::Allowed, "{fate:?}");
        // What was allowed a moment ago is, whatever the API server does now.
        proxy.judge(|_| Fate::Refused(503));
        let remembered = reviewer.review(&question).await;
        assert_eq!(remembered.expect("it remembers"), Verdict::Allowed);
    }
    assert_eq!(reasons, BTreeSet::from(["api", "timeout"]));
}
