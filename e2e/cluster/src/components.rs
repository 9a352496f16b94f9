//! The servers of a whole cluster: their configuration files and command lines.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api_server::{FilesError, SERVICE_CIDR, ServerFiles};
use crate::certificate::{Authority, Identity};
use crate::kubeconfig;
use crate::runtime::{RuntimePrograms, containerd_config};

/// The node's name.
pub(crate) const NODE: &str = "node";
/// The node's address, in the cluster's own network.
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// Addresses of pods.
pub(crate) const POD_CIDR: &str = "10.244.0.0/24";
/// The port of the API server.
pub(crate) const API_PORT: u16 = 6443;
/// The image of each pod's first container.
pub(crate) const PAUSE_IMAGE: &str = "tensorpool.test/pause:1";

/// Every program that a cluster runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Programs {
    pub(crate) etcd: PathBuf,
    pub(crate) api_server: PathBuf,
    pub(crate) controller_manager: PathBuf,
    pub(crate) scheduler: PathBuf,
    pub(crate) kubelet: PathBuf,
    pub(crate) proxy: PathBuf,
    pub(crate) kubectl: PathBuf,
    pub(crate) runtime: RuntimePrograms,
    /// The directory of CNI plugins.
    pub(crate) cni_plugins: PathBuf,
    /// The archive of the pause image.
    pub(crate) pause_archive: PathBuf,
    /// Tools for people and tests, not for the cluster: they only are on the path.
    pub(crate) tools: Vec<PathBuf>,
}

/// One server: what is started.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// Its name, also of its log.
    pub(crate) name: &'static str,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
}

/// The address of the API server.
pub(crate) fn api_address() -> SocketAddr {
    SocketAddr::from((NODE_ADDRESS, API_PORT))
}

/// Files and command lines of one cluster.
#[derive(Debug)]
pub(crate) struct Components {
    servers: ServerFiles,
    directory: PathBuf,
    programs: Programs,
}

impl Components {
    /// Makes the certificates and writes every file into `directory`.
    pub(crate) fn prepare(
        directory: &Path,
        authority: &Authority,
        programs: &Programs,
    ) -> Result<Self, FilesError> {
        let node_address = NODE_ADDRESS.to_string();
        let addresses = ["127.0.0.1", node_address.as_str()];
        let servers = ServerFiles::write(directory, authority, &addresses)?;
        let server = format!("https://{}", api_address());
        let clients: [(&str, &str, Option<&str>); 5] = [
            ("admin", "admin", Some("system:masters")),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
            (
                "kubelet",
                &format!("system:node:{NODE}"),
                Some("system:nodes"),
            ),
            ("proxy", "system:kube-proxy", None),
        ];
        for (file, user, group) in clients {
            let identity: Identity = authority.client(user, group)?;
            let text = kubeconfig::text(&server, authority.pem(), user, &identity);
            servers.put(&format!("{file}.kubeconfig"), &text)?;
        }
        let node_names = [NODE, node_address.as_str(), "127.0.0.1"];
        servers.put_identity("kubelet-server", &authority.server(&node_names)?)?;
        let components = Self {
            servers,
            directory: directory.to_owned(),
            programs: programs.clone(),
        };
        components.put("kubelet.yaml", &components.kubelet_config())?;
        components.put("proxy.yaml", &components.proxy_config())?;
        let containerd = containerd_config(
            &directory.join("containerd"),
            &programs.runtime.runc,
            &programs.cni_plugins,
            PAUSE_IMAGE,
        );
        components.put("containerd.toml", &containerd)?;
        Ok(components)
    }

    /// The kubeconfig of the administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// The file that is there once etcd answers.
    pub(crate) fn etcd_socket(&self) -> PathBuf {
        self.servers.etcd_socket()
    }

    /// etcd.
    pub(crate) fn etcd(&self) -> Component {
        Component {
            name: "etcd",
            program: self.programs.etcd.clone(),
            arguments: self.servers.etcd_flags(),
        }
    }

    /// The API server.
    pub(crate) fn api_server(&self) -> Component {
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, API_PORT));
        let advertise = NODE_ADDRESS.to_string();
        Component {
            name: "kube-apiserver",
            program: self.programs.api_server.clone(),
            arguments: self.servers.api_server_flags(everywhere, &advertise),
        }
    }

    /// The container runtime.
    pub(crate) fn containerd(&self) -> Component {
        Component {
            name: "containerd",
            program: self.programs.runtime.containerd.clone(),
            arguments: vec!["--config".to_owned(), self.file("containerd.toml")],
        }
    }

    /// What runs pods; it needs containerd to be there.
    pub(crate) fn kubelet(&self) -> Component {
        Component {
            name: "kubelet",
            program: self.programs.kubelet.clone(),
            arguments: vec![
                format!("--config={}", self.file("kubelet.yaml")),
                format!("--kubeconfig={}", self.file("kubelet.kubeconfig")),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={NODE_ADDRESS}"),
            ],
        }
    }

    /// What needs the API server to be there.
    pub(crate) fn others(&self) -> [Component; 3] {
        [
            Component {
                name: "kube-controller-manager",
                program: self.programs.controller_manager.clone(),
                arguments: self.controller_manager_flags(),
            },
            Component {
                name: "kube-scheduler",
                program: self.programs.scheduler.clone(),
                arguments: self.scheduler_flags(),
            },
            Component {
                name: "kube-proxy",
                program: self.programs.proxy.clone(),
                arguments: vec![format!("--config={}", self.file("proxy.yaml"))],
            },
        ]
    }

    fn controller_manager_flags(&self) -> Vec<String> {
        let kubeconfig = self.file("controller-manager.kubeconfig");
        vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            format!("--root-ca-file={}", self.file("ca.crt")),
            format!(
                "--service-account-private-key-file={}",
                self.file("service-accounts.key")
            ),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            "--use-service-account-credentials=true".to_owned(),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins".to_owned(),
        ]
    }

    fn scheduler_flags(&self) -> Vec<String> {
        let kubeconfig = self.file("scheduler.kubeconfig");
        vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
        ]
    }

    fn kubelet_config(&self) -> String {
        let (ca, certificate) = (self.file("ca.crt"), self.file("kubelet-server.crt"));
        let key = self.file("kubelet-server.key");
        // Disk and images are the machine's affair: nothing is evicted or collected for them.
        // Names of Services need a DNS server, which a cluster gets only when somebody applies one.
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: "{ca}"}}}}
authorization: {{mode: Webhook}}
tlsCertFile: "{certificate}"
tlsPrivateKeyFile: "{key}"
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: /var/lib/kubelet/volume-plugins
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
resolvConf: ""
evictionHard: {{memory.available: 50Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
"#
        )
    }

    fn proxy_config(&self) -> String {
        let kubeconfig = self.file("proxy.kubeconfig");
        // Limits of connection tracking are the whole machine's, so they stay as they are. Pods of
        // one node talk over a bridge, past the rules that would translate an answer back: their
        // Service connections go through the node's own address.
        format!(
            r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: {NODE}
clientConnection: {{kubeconfig: "{kubeconfig}"}}
clusterCIDR: {POD_CIDR}
oomScoreAdj: 0
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
nftables: {{masqueradeAll: true}}
"#
        )
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn put(&self, name: &str, text: &str) -> Result<(), FilesError> {
        self.servers.put(name, text).map(drop)
    }
}

/// Writes the configuration of the pod network. Only to be called inside the cluster.
pub(crate) fn write_cni_config() -> io::Result<()> {
    let config = format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{{
    "type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true,
    "hairpinMode": true, "ipMasq": false,
    "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{POD_CIDR}"}}]]}}
  }}]
}}
"#
    );
    let directory = Path::new("/etc/cni/net.d");
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join("10-pods.conflist"), config)
}
