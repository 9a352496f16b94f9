//! `csi` killed at every step: what the next one, or kubelet, finds and cleans.

use std::thread;

use tensorpool_node_driver::attachments::calls::{Outcome, Rpc};
use tensorpool_node_driver::attachments::protocol::{Code, Question, Refusal};
use tensorpool_node_driver::csi::mountinfo;

use crate::driver::{Driver, Kind};
use crate::kubelet::{Kubelet, publish_from_elsewhere, unpublish_from_elsewhere};
use crate::node::Node;
use crate::support::wait_until;

fn node(test: &str) -> Option<Node> {
    Node::new(test, |_, directory| {
        // Of a filesystem like any other.
        std::fs::create_dir(directory).expect("it works");
    })
}

impl Node {
    fn is_mounted(&self) -> bool {
        is_mounted(&self.kubelet)
    }

    fn views(&self) -> usize {
        let views = self.base.views.on_disk(self.base.store.path());
        views.expect("it works").len()
    }

    /// Nothing is left of the volume.
    fn assert_as_before(&self) {
        assert_eq!((self.driver.holds().len(), self.views()), (0, 0));
        assert!(!self.is_mounted() && !self.kubelet.target("pod").exists());
    }
}

fn is_mounted(kubelet: &Kubelet) -> bool {
    let mounts = mountinfo::read().expect("it works");
    mountinfo::at(&mounts, &kubelet.target("pod")).is_some()
}

fn wait_until_asked(driver: &Driver, kind: Kind) {
    wait_until("the question", || {
        let asked = driver.was_asked(kind);
        asked
            .then_some(())
            .ok_or_else(|| "nothing asked".to_owned())
    });
}

/// A question of kubelet's that is not answered, because `csi` is killed when the driver has been asked.
fn kill_while_asking(node: &Node, kind: Kind) {
    let Node {
        kubelet, driver, ..
    } = node;
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
        wait_until_asked(driver, kind);
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
    let Some(node) = node(test) else { return };
    let Node {
        kubelet, driver, ..
    } = &node;
    kill_while_asking(&node, Kind::Publish);
    assert_eq!(
        (driver.holds(), node.views()),
        (vec!["csi-1".to_owned()], 1)
    );
    assert!(!node.is_mounted());

    let _csi = kubelet.start_csi();
    wait_until("the volume's end", || {
        let held = driver.holds();
        held.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{held:?}"))
    });
    assert_eq!(node.views(), 0);
}

#[test]
fn killed_before_the_mount_kubelet_publishes_again() {
    let test = "restarts::killed_before_the_mount_kubelet_publishes_again";
    let Some(node) = node(test) else { return };
    let kubelet = &node.kubelet;
    kubelet.note("pod", "csi-1");
    kill_while_asking(&node, Kind::Publish);
    let csi = kubelet.start_csi();
    kubelet.publish("pod", "csi-1").unwrap();
    assert!(node.is_mounted());
    kubelet.unpublish("pod", "csi-1").unwrap();
    node.assert_as_before();
    assert!(csi.terminate().success());
}

#[test]
fn killed_after_the_mount_kubelet_hears_that_it_is_there_before_anything_is_asked() {
    let test =
        "restarts::killed_after_the_mount_kubelet_hears_that_it_is_there_before_anything_is_asked";
    let Some(Node {
        kubelet,
        base,
        driver,
    }) = node(test)
    else {
        return;
    };
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
    let driver = Driver::start(&kubelet.internal_socket(), Some(base));
    kubelet
        .unpublish("pod", "csi-1")
        .expect("kubelet tries again");
    assert!(!is_mounted(&kubelet) && !kubelet.target("pod").exists());
    drop((csi, driver));
}

#[test]
fn killed_between_unmount_and_release_kubelet_unpublishes_again() {
    let test = "restarts::killed_between_unmount_and_release_kubelet_unpublishes_again";
    let Some(node) = node(test) else { return };
    let kubelet = &node.kubelet;
    let csi = kubelet.start_csi();
    kubelet.publish("pod", "csi-1").unwrap();
    csi.kill();
    kill_while_asking(&node, Kind::Unpublish);
    assert!(!node.is_mounted());
    let _csi = kubelet.start_csi();
    kubelet.unpublish("pod", "csi-1").unwrap();
    node.assert_as_before();
}

#[test]
fn two_operations_on_one_volume_do_not_meet() {
    let test = "restarts::two_operations_on_one_volume_do_not_meet";
    let Some(node) = node(test) else { return };
    let Node {
        kubelet, driver, ..
    } = &node;
    kubelet.note("pod", "csi-1");
    let csi = kubelet.start_csi();
    driver.take_asked();
    driver.be_silent(Some(Kind::Publish));
    thread::scope(|scope| {
        let asking =
            scope.spawn(|| publish_from_elsewhere(kubelet.target("pod"), kubelet.plugin_socket()));
        wait_until_asked(driver, Kind::Publish);
        let second = kubelet.unpublish("pod", "csi-1").unwrap_err();
        assert_eq!(second.code(), tonic::Code::Aborted);
        csi.kill();
        assert!(asking.join().unwrap().is_err());
    });
}

#[test]
fn what_kubelet_called_is_told_to_the_driver_with_its_answer() {
    let test = "restarts::what_kubelet_called_is_told_to_the_driver_with_its_answer";
    let Some(node) = node(test) else { return };
    let _csi = node.kubelet.start_csi();
    node.kubelet.publish("pod", "csi-1").unwrap();
    node.driver
        .refuse(Some(Refusal::new(Code::NotFound, "no such stream")));
    node.kubelet.publish("other", "csi-2").unwrap_err();
    let wanted = [
        (Rpc::NodePublishVolume, Outcome::Ok, 1),
        (Rpc::NodePublishVolume, Outcome::Refused(Code::NotFound), 1),
    ];
    wait_until("both calls", || {
        let calls = node.driver.calls();
        let published = calls.iter().filter(|it| it.rpc == wanted[0].0);
        let told: Vec<_> = published
            .map(|it| (it.rpc, it.outcome, it.count()))
            .collect();
        (told == wanted)
            .then_some(())
            .ok_or_else(|| format!("{told:?}"))
    });
}
