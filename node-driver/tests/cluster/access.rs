//! Whether a pod may use a stream: the driver's own questions, answered by real RBAC.

use std::time::Instant;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tensorpool_node_driver::cluster::access::{Question, ReviewError, Reviewer, Verb, Verdict};
use tokio::runtime::Handle;

use crate::world::{LIMIT, World};

fn question(account: &str, verb: Verb, stream: &str) -> Question {
    Question {
        pod_namespace: "apps".to_owned(),
        service_account: account.to_owned(),
        verb,
        stream_namespace: "vision".to_owned(),
        stream: stream.to_owned(),
    }
}

/// A reviewer with the rights of a node driver, and an empty memory.
async fn reviewer(world: &World) -> Reviewer {
    let file = Kubeconfig::read_from(world.kubeconfig(Some("n1"))).expect("it was written");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("it is complete")).expect("a client");
    Reviewer::new(client, Handle::current())
}

/// The first answer; a busy machine may need longer than one question waits.
async fn answer<Q>(ask: impl Fn() -> Q) -> Verdict
where
    Q: Future<Output = Result<Verdict, ReviewError>>,
{
    let deadline = Instant::now() + LIMIT;
    loop {
        match ask().await {
            Ok(verdict) => return verdict,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test]
async fn control_plane_answers_whether_a_pod_may_use_a_stream() {
    let world = World::start();
    world.kubectl(&["create", "namespace", "apps"]);
    let grants: [&[&str]; 4] = [
        &[
            "create",
            "role",
            "viewers",
            "--verb=consume",
            "--resource=tensorstreams.tensorpool.io",
            "--resource-name=camera",
        ],
        &[
            "create",
            "rolebinding",
            "viewers",
            "--role=viewers",
            "--serviceaccount=apps:viewer",
        ],
        &[
            "create",
            "role",
            "all-of-apps",
            "--verb=consume",
            "--resource=tensorstreams.tensorpool.io",
            "--resource-name=lidar",
        ],
        &[
            "create",
            "rolebinding",
            "all-of-apps",
            "--role=all-of-apps",
            "--group=system:serviceaccounts:apps",
        ],
    ];
    for grant in grants {
        let mut grant = grant.to_vec();
        grant.extend(["-n", "vision"]);
        world.kubectl(&grant);
    }
    let is_allowed = async |question: &Question| {
        let reviewer = reviewer(&world).await;
        answer(|| reviewer.review(question)).await == Verdict::Allowed
    };
    let viewer = question("viewer", Verb::Consume, "camera");
    assert!(is_allowed(&viewer).await);
    assert!(
        !is_allowed(&question("viewer", Verb::Produce, "camera")).await,
        "another verb"
    );
    assert!(
        !is_allowed(&question("viewer", Verb::Aeron, "camera")).await,
        "another verb"
    );
    assert!(
        !is_allowed(&question("other", Verb::Consume, "camera")).await,
        "another account"
    );
    let by_group = question("other", Verb::Consume, "lidar");
    assert!(is_allowed(&by_group).await, "by the group of its namespace");
    let mut elsewhere = viewer.clone();
    elsewhere.stream_namespace = "apps".to_owned();
    assert!(!is_allowed(&elsewhere).await, "another namespace");
    let mut stranger = by_group;
    stranger.pod_namespace = "vision".to_owned();
    assert!(!is_allowed(&stranger).await, "another namespace's group");
    a_removed_binding_is_noticed(&world, &viewer).await;
}

async fn a_removed_binding_is_noticed(world: &World, viewer: &Question) {
    let known = reviewer(world).await;
    let allowed = answer(|| known.review(viewer)).await;
    assert_eq!(allowed, Verdict::Allowed);
    world.kubectl(&["delete", "rolebinding", "viewers", "-n", "vision"]);
    let unknown = reviewer(world).await;
    let deadline = Instant::now() + LIMIT;
    loop {
        match unknown.review_anew(viewer).await {
            Ok(Verdict::Denied(_)) => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    // What was allowed a moment ago is believed, but not by who asks in any case; and that ends it.
    let remembered = known.review(viewer).await.expect("it remembers");
    assert_eq!(remembered, Verdict::Allowed);
    let anew = answer(|| known.review_anew(viewer)).await;
    let Verdict::Denied(denial) = anew else {
        panic!("it is not allowed any more");
    };
    let text = denial.to_string();
    assert!(
        text.contains("apps/viewer may not `consume` TensorStream vision/camera"),
        "{text}"
    );
    let after = answer(|| known.review(viewer)).await;
    assert_eq!(after, Verdict::Denied(denial));
    // Nobody answers: no access.
    world.freeze();
    let frozen = unknown.review(viewer).await;
    world.thaw();
    let error = frozen.expect_err("without an answer there is no access");
    assert_eq!(error.reason(), "timeout");
}
