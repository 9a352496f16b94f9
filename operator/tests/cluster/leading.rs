//! Two operators, one leader.

use std::time::Instant;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tensorpool_crds::TensorStream;
use tensorpool_operator::LEASE;

use crate::world::{World, reason};

#[tokio::test]
async fn control_plane_sees_the_lease_handed_over_on_sigterm_and_after_a_crash() {
    let world = World::start(&["n1"]).await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "tensorpool-system");
    let held_by = |name: &'static str| {
        move |lease: &Lease| {
            let holder = lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_deref());
            holder == Some(name)
        }
    };
    let one = world.operator("one");
    world.when(leases.clone(), LEASE, held_by("one")).await;
    let two = world.operator("two");
    // It waits, and is ready to take over.
    two.is_ready();
    assert!(two.metric("tensorpool_operator_leading").abs() < f64::EPSILON);
    assert!(one.terminate_after("gave the lease back").success());
    world.when(leases.clone(), LEASE, held_by("two")).await;
    world.make_stream("camera").await;
    world
        .when(world.vision(), "camera", |it: &TensorStream| {
            reason(it, "Accepted", "True").is_some()
        })
        .await;
    two.kill();
    let crashed = Instant::now();
    let three = world.operator("three");
    world.when(leases, LEASE, held_by("three")).await;
    let took = crashed.elapsed();
    assert!(
        took.as_secs() >= 10,
        "taken from a holder that could still have lived: {took:?}"
    );
    world.make_stream("second").await;
    let second = world
        .when(world.vision(), "second", |it: &TensorStream| {
            reason(it, "Accepted", "True").is_some()
        })
        .await;
    assert_eq!(second.status.and_then(|it| it.stream_id), Some(20_001));
    assert!(three.terminate().success());
}
