//! `csi` killed at every step: what the next one, or kubelet, finds and cleans.

use std::sync::Arc;
use std::thread;

use tensorpool_node_driver::attachments::protocol::Question;
use tensorpool_node_driver::csi::mountinfo;

use crate::driver::{Base, Driver, Kind};
use crate::inside::own_mounts;
use crate::kubelet::{Kubelet, publish_from_elsewhere, unpublish_from_elsewhere};
use crate::support::wait_until;

/// A base that is a directory of a filesystem like any other.
fn base(kubelet: &Kubelet) -> Arc<Base> {
    let directory = kubelet.shm_dir().join("4Ki");
    std::fs::create_dir(&directory).expect("it works");
    let base = Base::new(&directory);
    base.make(1, 5);
    Arc::new(base)
}

fn is_mounted(kubelet: &Kubelet) -> bool {
    let mounts = mountinfo::read().expect("it works");
    mountinfo::at(&mounts, &kubelet.target("pod")).is_some()
}

fn views(base: &Base) -> usize {
    base.views
        .on_disk(base.store.path())
        .expect("it works")
        .len()
}

/// A publish that is not answered, because `csi` is killed when the driver has been asked.
fn kill_while_asking(kubelet: &Kubelet, driver: &Driver, kind: Kind) {
    driver.be_silent(Some(kind));
    driver.take_asked();
    let csi = kubelet.start_csi();
    thread::scope(|scope| {
        let asking = scope.spawn(|| match kind {
            Kind::Publish => publish_from_elsewhere(kubelet.target("pod"), kubelet.plugin_socket()),
            Kind::Unpublish => {
                unpublish_from_elsewhere(kubelet.target("pod"), kubelet.plugin_socket())
            }
        });
        wait_until("the question", || {
            let asked = driver.was_asked(kind);
            asked
                .then_some(())
                .ok_or_else(|| "nothing asked".to_owned())
        });
        csi.kill();
        assert!(
            asking.join().expect("it works").is_err(),
            "nobody was left to answer"
        );
    });
    driver.be_silent(None);
    driver.take_asked();
}

#[test]
fn killed_before_the_mount_and_forgotten_by_kubelet_the_volume_is_collected() {
    let test = "restarts::killed_before_the_mount_and_forgotten_by_kubelet_the_volume_is_collected";
    if !own_mounts(test) {
        return;
    }
    let kubelet = Kubelet::new();
    let base = base(&kubelet);
    let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
    kill_while_asking(&kubelet, &driver, Kind::Publish);
    assert_eq!(
        (driver.holds(), views(&base)),
        (vec!["csi-1".to_owned()], 1)
    );
    assert!(!is_mounted(&kubelet));

    let _csi = kubelet.start_csi();
    wait_until("the volume's end", || {
        let held = driver.holds();
        held.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{held:?}"))
    });
    assert_eq!(views(&base), 0);
}

#[test]
fn killed_before_the_mount_kubelet_publishes_again() {
    if !own_mounts("restarts::killed_before_the_mount_kubelet_publishes_again") {
        return;
    }
    let kubelet = Kubelet::new();
    let base = base(&kubelet);
    let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
    kubelet.note("pod", "csi-1");
    kill_while_asking(&kubelet, &driver, Kind::Publish);
    let csi = kubelet.start_csi();
    kubelet.publish("pod", "csi-1").unwrap();
    assert!(is_mounted(&kubelet));
    kubelet.unpublish("pod", "csi-1").unwrap();
    assert_eq!((driver.holds().len(), views(&base)), (0, 0));
    assert!(!is_mounted(&kubelet) && !kubelet.target("pod").exists());
    assert!(csi.terminate().success());
}

#[test]
fn killed_after_the_mount_kubelet_hears_that_it_is_there_before_anything_is_asked() {
    let test =
        "restarts::killed_after_the_mount_kubelet_hears_that_it_is_there_before_anything_is_asked";
    if !own_mounts(test) {
        return;
    }
    let kubelet = Kubelet::new();
    let base = base(&kubelet);
    let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
    let csi = kubelet.start_csi();
    kubelet.publish("pod", "csi-1").unwrap();
    csi.kill();
    assert!(is_mounted(&kubelet), "the pod notices nothing");

    let csi = kubelet.start_csi();
    driver.take_asked();
    kubelet.publish("pod", "csi-1").unwrap();
    let asked = driver.take_asked();
    let [Question::Publish(told)] = asked.as_slice() else {
        panic!("{asked:?}");
    };
    assert!(told.already_mounted);
    let mounts = mountinfo::read().unwrap();
    let here = mounts.iter().filter(|it| it.point == kubelet.target("pod"));
    assert_eq!(here.count(), 1, "not mounted twice");

    drop(driver);
    kubelet
        .publish("pod", "csi-1")
        .expect("what is mounted stays so without the driver, too");
    let without_driver = kubelet.unpublish("pod", "csi-1").unwrap_err();
    assert_eq!(without_driver.code(), tonic::Code::Unavailable);
    let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
    kubelet
        .unpublish("pod", "csi-1")
        .expect("kubelet tries again");
    assert!(!is_mounted(&kubelet) && !kubelet.target("pod").exists());
    drop((csi, driver));
}

#[test]
fn killed_between_unmount_and_release_kubelet_unpublishes_again() {
    if !own_mounts("restarts::killed_between_unmount_and_release_kubelet_unpublishes_again") {
        return;
    }
    let kubelet = Kubelet::new();
    let base = base(&kubelet);
    let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
    let csi = kubelet.start_csi();
    kubelet.publish("pod", "csi-1").unwrap();
    csi.kill();
    kill_while_asking(&kubelet, &driver, Kind::Unpublish);
    assert!(!is_mounted(&kubelet));
    let _csi = kubelet.start_csi();
    kubelet.unpublish("pod", "csi-1").unwrap();
    assert_eq!((driver.holds().len(), views(&base)), (0, 0));
    assert!(!kubelet.target("pod").exists());
}

#[test]
fn two_operations_on_one_volume_do_not_meet() {
    if !own_mounts("restarts::two_operations_on_one_volume_do_not_meet") {
        return;
    }
    let kubelet = Kubelet::new();
    let base = base(&kubelet);
    let driver = Driver::start(&kubelet.internal_socket(), Some(Arc::clone(&base)));
    kubelet.note("pod", "csi-1");
    let csi = kubelet.start_csi();
    driver.take_asked();
    driver.be_silent(Some(Kind::Publish));
    thread::scope(|scope| {
        let asking =
            scope.spawn(|| publish_from_elsewhere(kubelet.target("pod"), kubelet.plugin_socket()));
        wait_until("the question", || {
            let asked = driver.was_asked(Kind::Publish);
            asked
                .then_some(())
                .ok_or_else(|| "nothing asked".to_owned())
        });
        let second = kubelet.unpublish("pod", "csi-1").unwrap_err();
        assert_eq!(second.code(), tonic::Code::Aborted);
        csi.kill();
        assert!(asking.join().unwrap().is_err());
    });
}
