//! Asking the API server whether it is ready, without starting a client for each question.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::certificate::Identity;

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(2);

/// A client that trusts one cluster's authority only, so that another cluster's server on a port
/// that changed hands is never taken for this one's.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Probe {
    /// A probe of the server at `address`.
    pub(crate) fn new(address: SocketAddr, authority_pem: &str) -> io::Result<Self> {
        Ok(Self {
            address,
            config: trusting(authority_pem, None)?,
        })
    }

    /// Whether `GET /readyz` is answered with 200. Anybody may ask that.
    pub(crate) fn is_ready(&self) -> bool {
        self.status_line()
            .is_ok_and(|line| line.split(' ').nth(1) == Some("200"))
    }

    fn status_line(&self) -> io::Result<String> {
        let socket = TcpStream::connect_timeout(&self.address, LIMIT)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        let name = server_name(self.address);
        let connection =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        let host = self.address;
        write!(
            stream,
            "GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    }
}

/// What a client believes that trusts one authority only, and who it is, if anybody.
pub(crate) fn trusting(
    authority_pem: &str,
    identity: Option<&Identity>,
) -> io::Result<Arc<ClientConfig>> {
    let authority =
        CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())
                .map_err(io::Error::other)?;
            let key =
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(io::Error::other)?;
            builder
                .with_client_auth_cert(vec![certificate], key)
                .map_err(io::Error::other)?
        }
    };
    Ok(Arc::new(config))
}

/// The name by which a server is known that has only an address.
pub(crate) fn server_name(address: SocketAddr) -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::from(address.ip()))
}
