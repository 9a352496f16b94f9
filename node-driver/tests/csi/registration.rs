//! Who this is, and when kubelet hears of it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tensorpool_node_driver::csi::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeGetCapabilitiesRequest,
    NodeGetInfoRequest, NodeStageVolumeRequest, ProbeRequest,
};
use tensorpool_node_driver::csi::proto::pluginregistration::{InfoRequest, RegistrationStatus};
use tonic::Code;

use crate::driver::Driver;
use crate::kubelet::Kubelet;
use crate::support::wait_until;

#[test]
fn csi_registers_once_the_driver_answers_and_is_unavailable_until_then() {
    let kubelet = Kubelet::new();
    let csi = kubelet.start_csi();
    kubelet.block_on(async {
        let mut node = kubelet.node().await;
        let refused = node.node_get_info(NodeGetInfoRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(
            refused.message().contains("does not answer"),
            "{}",
            refused.message()
        );
        let request = kubelet.request("1", "csi-1");
        let refused = node.node_publish_volume(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        let probe = kubelet.identity().await.probe(ProbeRequest {}).await;
        assert_eq!(probe.unwrap().into_inner().ready, Some(false));
    });
    assert!(!kubelet.registration_socket().exists());

    let _driver = Driver::start(&kubelet.internal_socket(), None);
    kubelet.await_registration_socket();
    kubelet.block_on(async {
        let mut registration = kubelet.registration().await;
        let info = registration.get_info(InfoRequest {}).await.unwrap();
        let info = info.into_inner();
        assert_eq!(info.r#type, "CSIPlugin");
        assert_eq!(info.name, "csi.tensorpool.io");
        assert_eq!(info.endpoint, kubelet.plugin_socket().display().to_string());
        assert_eq!(info.supported_versions, ["1.0.0"]);
        let mut node = kubelet.node().await;
        let info = node.node_get_info(NodeGetInfoRequest {}).await.unwrap();
        assert_eq!(info.into_inner().node_id, "node-a");
        let probe = kubelet.identity().await.probe(ProbeRequest {}).await;
        assert_eq!(probe.unwrap().into_inner().ready, Some(true));
    });
    assert!(csi.terminate().success());
    assert!(
        !kubelet.registration_socket().exists(),
        "kubelet forgets it"
    );
    assert!(!kubelet.plugin_socket().exists());
}

#[test]
fn a_registration_that_kubelet_refused_is_offered_again() {
    let kubelet = Kubelet::new();
    let _driver = Driver::start(&kubelet.internal_socket(), None);
    let _csi = kubelet.start_csi();
    kubelet.await_registration_socket();
    let first = std::fs::metadata(kubelet.registration_socket()).unwrap();
    assert_eq!(first.permissions().mode() & 0o777, 0o600);
    let say = |plugin_registered, error: &str| {
        let status = RegistrationStatus {
            plugin_registered,
            error: error.to_owned(),
        };
        kubelet.block_on(async {
            let mut registration = kubelet.registration().await;
            registration.notify_registration_status(status).await
        })
    };
    say(true, "").unwrap();
    let same = std::fs::metadata(kubelet.registration_socket()).unwrap();
    assert_eq!(same.ino(), first.ino());
    say(false, "the plugin has another name").unwrap();
    wait_until("another registration socket", || {
        match std::fs::metadata(kubelet.registration_socket()) {
            Ok(found) if (found.ino(), found.ctime_nsec()) != (first.ino(), first.ctime_nsec()) => {
                Ok(())
            }
            Ok(_) => Err("the old one".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    let say_again = || say(true, "");
    say_again().unwrap();
}

#[test]
fn only_what_an_inline_volume_needs_is_offered() {
    let kubelet = Kubelet::new();
    let _csi = kubelet.start_csi();
    kubelet.block_on(async {
        let mut identity = kubelet.identity().await;
        let info = identity.get_plugin_info(GetPluginInfoRequest {}).await;
        let info = info.unwrap().into_inner();
        assert_eq!(info.name, "csi.tensorpool.io");
        assert_eq!(info.vendor_version, env!("CARGO_PKG_VERSION"));
        let offered = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {});
        assert_eq!(offered.await.unwrap().into_inner().capabilities, []);
        let mut node = kubelet.node().await;
        let offered = node.node_get_capabilities(NodeGetCapabilitiesRequest {});
        assert_eq!(offered.await.unwrap().into_inner().capabilities.len(), 1);
        let staged = node.node_stage_volume(NodeStageVolumeRequest::default());
        assert_eq!(staged.await.unwrap_err().code(), Code::Unimplemented);
    });
}

#[test]
fn a_predecessors_registration_is_withdrawn_until_the_driver_answers() {
    let kubelet = Kubelet::new();
    let driver = Driver::start(&kubelet.internal_socket(), None);
    let csi = kubelet.start_csi();
    kubelet.await_registration_socket();
    csi.kill();
    drop(driver);
    assert!(kubelet.registration_socket().exists(), "it was killed");
    let _csi = kubelet.start_csi();
    assert!(!kubelet.registration_socket().exists());
}
