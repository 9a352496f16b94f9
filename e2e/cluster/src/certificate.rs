//! Certificates of one cluster: an authority that lives as long as the cluster does.
//!
//! They are made in this process (`rcgen`), not by the `openssl` program: no configuration files,
//! no dependency on a program's version, and a wrong field is an error here instead of a server
//! that nobody can reach.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("could not make the certificate of {subject}: this is a mistake in its names")]
pub struct CertificateError {
    subject: String,
    source: rcgen::Error,
}

impl CertificateError {
    fn of(subject: &str) -> impl FnOnce(rcgen::Error) -> Self {
        let subject = subject.to_owned();
        |source| Self { subject, source }
    }
}

/// The authority of one cluster. Its key never leaves this process.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    /// The certificate.
    pub(crate) certificate: String,
    /// Its private key.
    pub(crate) key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority with a new key.
    pub(crate) fn new() -> Result<Self, CertificateError> {
        let subject = "the authority";
        let key = key_pair(subject)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, "tensorpool test cluster");
        let certificate = params
            .self_signed(&key)
            .map_err(CertificateError::of(subject))?;
        Ok(Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's own certificate, PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server with these DNS names and IP addresses, the first one its name.
    pub(crate) fn server(&self, names: &[&str]) -> Result<Identity, CertificateError> {
        let subject = names.first().copied().unwrap_or("a server without a name");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(CertificateError::of(subject))?;
        params
            .distinguished_name
            .push(DnType::CommonName, subject.to_owned());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(subject, params)
    }

    /// A certificate by which the API server knows a user and the one group that it names.
    pub(crate) fn client(
        &self,
        user: &str,
        group: Option<&str>,
    ) -> Result<Identity, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, user.to_owned());
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group.to_owned());
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, params)
    }

    fn sign(
        &self,
        subject: &str,
        mut params: CertificateParams,
    ) -> Result<Identity, CertificateError> {
        let key = key_pair(subject)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(CertificateError::of(subject))?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A key pair to sign service account tokens with and to check them, both PEM.
pub(crate) struct SigningKey {
    /// Signs.
    pub(crate) private: String,
    /// Checks.
    pub(crate) public: String,
}

/// A new key pair for service account tokens.
pub(crate) fn signing_key() -> Result<SigningKey, CertificateError> {
    let pair = key_pair("the service account issuer")?;
    Ok(SigningKey {
        private: pair.serialize_pem(),
        public: pair.public_key_pem(),
    })
}

fn key_pair(subject: &str) -> Result<KeyPair, CertificateError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertificateError::of(subject))
}
