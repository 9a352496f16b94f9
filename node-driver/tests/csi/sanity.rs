//! The conformance tests of CSI itself, `csi-sanity`, for Identity and Node.
//!
//! It creates volumes through a controller, which an inline-only driver has not got: a stub stands in
//! for that. What it skips is listed here with the reason; a case that is skipped otherwise fails this
//! test. What it cannot ask of a driver without a controller (publishing works, and works again) is
//! tested in `mounts` and `restarts`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tensorpool_cluster::{Binaries, Program, Progress};
use tensorpool_node_driver::csi::proto::csi::controller_server::{Controller, ControllerServer};
use tensorpool_node_driver::csi::proto::csi::identity_server::{Identity, IdentityServer};
use tensorpool_node_driver::csi::proto::csi::{
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse, CreateVolumeRequest,
    CreateVolumeResponse, DeleteVolumeRequest, DeleteVolumeResponse, GetPluginCapabilitiesRequest,
    GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse, ProbeRequest,
    ProbeResponse, Volume,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::driver::{Base, Driver};
use crate::inside::own_mounts;
use crate::kubelet::Kubelet;

/// The services that an inline-only driver has.
const FOCUS: [&str; 2] = ["Identity Service", "Node Service"];
/// Cases that pass.
const PASSED: usize = 15;

/// Beginnings of the reasons that `csi-sanity` gives, and why they are right.
const SKIPPED: [(&str, &str); 7] = [
    (
        "Service does not have single node multi writer capability",
        "a volume belongs to one pod",
    ),
    (
        "NodeStageVolume not supported",
        "nothing is staged: a view is mounted at once",
    ),
    ("NodeUnstageVolume not supported", "nothing is staged"),
    (
        "NodeExpandVolume not supported",
        "a stream's layout never changes",
    ),
    (
        "NodeGetVolumeHealth not supported",
        "alpha; the stream's health is in its TensorStream",
    ),
    (
        "NodeGetStorageHealth not supported",
        "alpha; the node's health is in its TensorPoolNode",
    ),
    (
        "Controller Service not provided",
        "inline volumes have none: `mounts` and `restarts` show that publishing works and repeats",
    ),
];

#[test]
fn csi_sanity_passes_for_identity_and_node() {
    if !own_mounts("sanity::csi_sanity_passes_for_identity_and_node") {
        return;
    }
    let kubelet = Kubelet::new();
    let directory = kubelet.shm_dir().join("4Ki");
    std::fs::create_dir(&directory).unwrap();
    let base = Arc::new(Base::new(&directory));
    base.make(1, 5);
    let _driver = Driver::start(&kubelet.internal_socket(), Some(base));
    let _csi = kubelet.start_csi();
    let controller = kubelet.dir().join("controller.sock");
    serve_controller(&controller);

    let report = kubelet.dir().join("report.json");
    let sanity = Binaries::from_environment()
        .and_then(|mut programs| programs.ensure(Program::CsiSanity, &Progress::stderr()))
        .expect("csi-sanity can be built");
    let output = Command::new(sanity)
        .arg(format!(
            "-csi.endpoint={}",
            kubelet.plugin_socket().display()
        ))
        .arg(format!("-csi.controllerendpoint={}", controller.display()))
        .arg(format!(
            "-csi.mountdir={}",
            kubelet.root().join("sanity").display()
        ))
        .arg(format!(
            "-csi.stagingdir={}",
            kubelet.root().join("staging").display()
        ))
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .args([
            "-ginkgo.focus=Identity Service|Node Service",
            "-ginkgo.no-color",
        ])
        .output()
        .expect("csi-sanity runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    judge(&std::fs::read(&report).expect("it wrote a report"), &said);
}

/// Every case passed, was not chosen, or was skipped for a reason that is known.
fn judge(report: &[u8], said: &str) {
    let report: Value = serde_json::from_slice(report).expect("a report is JSON");
    let cases = report[0]["SpecReports"]
        .as_array()
        .expect("a report has cases");
    let mut passed = 0;
    let mut reasons = BTreeSet::new();
    let chosen = |case: &&Value| {
        let service = case["ContainerHierarchyTexts"][0].as_str();
        service.is_some_and(|it| FOCUS.iter().any(|chosen| it.starts_with(chosen)))
    };
    for case in cases.iter().filter(chosen) {
        match case["State"].as_str() {
            Some("passed") => passed += 1,
            Some("skipped") => {
                let reason = case["Failure"]["Message"].as_str().unwrap_or_default();
                reasons.insert(reason.to_owned());
            }
            other => panic!("{other:?}: {case}"),
        }
    }
    let known: BTreeMap<&str, &str> = SKIPPED.into();
    for reason in &reasons {
        let why = known.iter().find(|(known, _)| reason.starts_with(**known));
        let (_, why) = why.unwrap_or_else(|| panic!("skipped without need: {reason}\n{said}"));
        println!("csi-sanity skips: {reason} ({why})");
    }
    println!("csi-sanity: {passed} passed");
    assert_eq!((passed, reasons.len()), (PASSED, SKIPPED.len()), "{said}");
}

fn serve_controller(socket: &Path) {
    let socket = socket.to_owned();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let listener = UnixListener::bind(&socket).expect("a socket");
            ready.send(()).expect("the test waits");
            Server::builder()
                .add_service(IdentityServer::new(Stub))
                .add_service(ControllerServer::new(Stub))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .expect("the stub serves");
        });
    });
    is_ready.recv().expect("the stub starts");
}

/// A controller that only names volumes.
struct Stub;

#[tonic::async_trait]
impl Controller for Stub {
    async fn controller_get_capabilities(
        &self,
        _request: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let volume = Volume {
            volume_id: request.into_inner().name,
            ..Volume::default()
        };
        Ok(Response::new(CreateVolumeResponse {
            volume: Some(volume),
        }))
    }

    async fn delete_volume(
        &self,
        _request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl Identity for Stub {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: "stub.tensorpool.io".to_owned(),
            vendor_version: "1".to_owned(),
            ..GetPluginInfoResponse::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn probe(
        &self,
        _request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}
