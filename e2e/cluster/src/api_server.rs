//! etcd and the API server: the files that they read and the flags that they are started with.
//!
//! The same for a [`ControlPlane`](crate::ControlPlane) and for a whole cluster, so that what the
//! quick tests accept is what the cluster accepts.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::certificate::{self, Authority, CertificateError, Identity};
use crate::kubeconfig;

/// Addresses of Services. The first one is the API server's own.
pub(crate) const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The address of the Service `kubernetes`.
pub(crate) const SERVICE_ADDRESS: &str = "10.96.0.1";

/// The key that signs service account tokens.
pub(crate) const SIGNING_KEY: &str = "service-accounts.key";

/// Every request, by whom and with what answer, without bodies: enough to compare the rights that
/// were given with the rights that were used.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// The directory that the servers read from and write to.
#[derive(Debug)]
pub(crate) struct ServerFiles {
    directory: PathBuf,
}

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("could not write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl ServerFiles {
    /// Writes certificates, keys and policies for a server at `addresses`.
    pub(crate) fn write(
        directory: &Path,
        authority: &Authority,
        addresses: &[&str],
    ) -> Result<Self, FilesError> {
        let names: Vec<&str> = addresses
            .iter()
            .chain(&[
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                SERVICE_ADDRESS,
            ])
            .copied()
            .collect();
        let files = Self {
            directory: directory.to_owned(),
        };
        files.put("ca.crt", authority.pem())?;
        files.put_identity("apiserver", &authority.server(&names)?)?;
        let accounts = certificate::signing_key()?;
        files.put(SIGNING_KEY, &accounts.private)?;
        files.put("service-accounts.pub", &accounts.public)?;
        let kubelet_client =
            authority.client("kube-apiserver-kubelet-client", Some("system:masters"))?;
        files.put_identity("kubelet-client", &kubelet_client)?;
        files.put("audit-policy.yaml", AUDIT_POLICY)?;
        Ok(files)
    }

    /// Writes one file that only its owner may read.
    pub(crate) fn put(&self, name: &str, text: &str) -> Result<PathBuf, FilesError> {
        let path = self.directory.join(name);
        kubeconfig::write_private(&path, text).map_err(|source| FilesError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// Writes a certificate and its key.
    pub(crate) fn put_identity(&self, name: &str, identity: &Identity) -> Result<(), FilesError> {
        self.put(&format!("{name}.crt"), &identity.certificate)?;
        self.put(&format!("{name}.key"), &identity.key)?;
        Ok(())
    }

    /// Where the audit log is written.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.directory.join("audit.log")
    }

    /// The socket on which etcd serves; it is there once etcd answers.
    pub(crate) fn etcd_socket(&self) -> PathBuf {
        self.directory.join("etcd-client.sock:0")
    }

    /// Flags of etcd. It listens on sockets in its working directory, where nobody else can reach
    /// it (etcd wants each to look like `host:port`), and does not wait for the disk: its data never survive it.
    pub(crate) fn etcd_flags(&self) -> Vec<String> {
        [
            "--name=default",
            "--data-dir=etcd",
            "--listen-client-urls=unix://etcd-client.sock:0",
            "--advertise-client-urls=unix://etcd-client.sock:0",
            "--listen-peer-urls=unix://etcd-peer.sock:0",
            "--initial-advertise-peer-urls=unix://etcd-peer.sock:0",
            "--initial-cluster=default=unix://etcd-peer.sock:0",
            "--unsafe-no-fsync=true",
            "--log-level=warn",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Flags of the API server. `at` is where it listens and what it tells others.
    pub(crate) fn api_server_flags(&self, listen: SocketAddr, advertise: &str) -> Vec<String> {
        let (host, port) = (listen.ip(), listen.port());
        let file = |name: &str| self.directory.join(name).display().to_string();
        let ca = file("ca.crt");
        vec![
            "--etcd-servers=unix://etcd-client.sock:0".to_owned(),
            format!("--bind-address={host}"),
            format!("--secure-port={port}"),
            format!("--advertise-address={advertise}"),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            format!("--client-ca-file={ca}"),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--kubelet-certificate-authority={ca}"),
            format!(
                "--kubelet-client-certificate={}",
                file("kubelet-client.crt")
            ),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
            // A node's name may be in no DNS.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!(
                "--service-account-key-file={}",
                file("service-accounts.pub")
            ),
            format!("--service-account-signing-key-file={}", file(SIGNING_KEY)),
            "--authorization-mode=Node,RBAC".to_owned(),
            // Pod Security and ServiceAccount are on by default; named so that nobody wonders.
            "--enable-admission-plugins=NodeRestriction,PodSecurity,ServiceAccount".to_owned(),
            // A node driver's `mount` container is privileged; Pod Security decides where.
            "--allow-privileged=true".to_owned(),
            format!("--audit-policy-file={}", file("audit-policy.yaml")),
            format!("--audit-log-path={}", self.audit_log().display()),
            "--profiling=false".to_owned(),
        ]
    }
}
