//! Which programs there are, and how each is built.

/// One program that a cluster needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// The key-value store under the API server.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// The controllers of Kubernetes itself.
    KubeControllerManager,
    /// What assigns pods to nodes.
    KubeScheduler,
    /// What runs pods on a node.
    Kubelet,
    /// What makes Service addresses work.
    KubeProxy,
    /// The command line client.
    Kubectl,
    /// The container runtime.
    Containerd,
    /// containerd's process beside each pod.
    ContainerdShim,
    /// containerd's command line client.
    Ctr,
    /// What makes a container of a description.
    Runc,
    /// The package manager.
    Helm,
    /// The conformance tests of the Container Storage Interface.
    CsiSanity,
    /// Pid 1 of each pod: it waits.
    Pause,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 14] = [
        Self::Etcd,
        Self::Kubectl,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::Kubelet,
        Self::KubeProxy,
        Self::Containerd,
        Self::ContainerdShim,
        Self::Ctr,
        Self::Runc,
        Self::Helm,
        Self::CsiSanity,
        Self::Pause,
    ];

    /// The name of its file.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.recipe().name
    }

    /// How it is built.
    pub(super) fn recipe(self) -> Recipe {
        match self {
            Self::Etcd => Recipe {
                name: "etcd",
                module: "etcd",
                requires: "go.etcd.io/etcd/server/v3",
                package: "go.etcd.io/etcd/server/v3",
                ..NOTHING
            },
            Self::KubeApiserver => kubernetes("kube-apiserver"),
            Self::KubeControllerManager => kubernetes("kube-controller-manager"),
            Self::KubeScheduler => kubernetes("kube-scheduler"),
            Self::Kubelet => kubernetes("kubelet"),
            Self::KubeProxy => kubernetes("kube-proxy"),
            Self::Kubectl => kubernetes("kubectl"),
            Self::Containerd => containerd("containerd"),
            Self::ContainerdShim => containerd("containerd-shim-runc-v2"),
            Self::Ctr => containerd("ctr"),
            Self::Runc => Recipe {
                name: "runc",
                module: "runc",
                requires: "github.com/opencontainers/runc",
                package: "github.com/opencontainers/runc",
                version_variable: "main.version",
                tags: "seccomp",
                cgo: true,
                ..NOTHING
            },
            Self::Helm => Recipe {
                name: "helm",
                module: "helm",
                requires: "helm.sh/helm/v4",
                package: "helm.sh/helm/v4/cmd/helm",
                version_variable: "helm.sh/helm/v4/internal/version.version",
                ..NOTHING
            },
            Self::CsiSanity => Recipe {
                name: "csi-sanity",
                module: "csi-sanity",
                requires: "github.com/kubernetes-csi/csi-test/v5",
                package: "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity",
                ..NOTHING
            },
            Self::Pause => Recipe {
                name: "pause",
                module: "pause",
                package: "tensorpool.io/e2e/cluster/pause",
                ..NOTHING
            },
        }
    }
}

/// How one program is built.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The program's file name.
    pub(super) name: &'static str,
    /// The directory below `go/`.
    pub(super) module: &'static str,
    /// The required module whose version is the program's; empty where the program is ours.
    pub(super) requires: &'static str,
    /// What is compiled: where it begins, and below that.
    pub(super) package: &'static str,
    /// What follows `package`.
    pub(super) command: &'static str,
    /// The variable that takes the version; without one the program knows it by itself.
    pub(super) version_variable: &'static str,
    /// Build tags.
    pub(super) tags: &'static str,
    /// Whether it needs a C compiler. All others are static.
    pub(super) cgo: bool,
}

const NOTHING: Recipe = Recipe {
    name: "",
    module: "",
    requires: "",
    package: "",
    command: "",
    version_variable: "",
    tags: "",
    cgo: false,
};

const fn kubernetes(name: &'static str) -> Recipe {
    Recipe {
        name,
        module: "kubernetes",
        requires: "k8s.io/kubernetes",
        package: "k8s.io/kubernetes/cmd/",
        command: name,
        // Clients would see v0.0.0.
        version_variable: "k8s.io/component-base/version.gitVersion",
        ..NOTHING
    }
}

const fn containerd(name: &'static str) -> Recipe {
    Recipe {
        name,
        module: "containerd",
        requires: "github.com/containerd/containerd/v2",
        package: "github.com/containerd/containerd/v2/cmd/",
        command: name,
        version_variable: "github.com/containerd/containerd/v2/version.Version",
        ..NOTHING
    }
}
