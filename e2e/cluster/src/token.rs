//! Service account tokens that end sooner than the API server gives them out (ten minutes at least).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

/// The API server still takes a token that ended so long ago, for clocks that differ.
const LEEWAY: Duration = Duration::from_secs(60);

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// What was given is no token.
    #[error("this is no service account token: {0}")]
    NoToken(&'static str),
    /// The key of the control plane cannot be used.
    #[error("the control plane's key cannot sign: {0}")]
    Key(String),
}

/// The same token, signed again, refused by the API server once `left` has passed.
pub(crate) fn ending_in(token: &str, key_pem: &str, left: Duration) -> Result<String, TokenError> {
    let mut parts = token.split('.');
    let (Some(head), Some(claims), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(TokenError::NoToken("it has fewer than three parts"));
    };
    let claims = URL_SAFE_NO_PAD.decode(claims);
    let claims = claims.map_err(|_| TokenError::NoToken("its claims are not base64"))?;
    let claims = serde_json::from_slice(&claims);
    let mut claims: Value = claims.map_err(|_| TokenError::NoToken("its claims are not JSON"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let end = now.unwrap_or_default().saturating_add(left);
    claims["exp"] = end.saturating_sub(LEEWAY).as_secs().into();
    let text = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = sign(key_pem, text.as_bytes()).map_err(TokenError::Key)?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn sign(key_pem: &str, text: &[u8]) -> Result<Vec<u8>, String> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes());
    let key = key.map_err(|error| error.to_string())?;
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        key.secret_pkcs8_der(),
        &random,
    );
    let key = key.map_err(|error| error.to_string())?;
    let signature = key.sign(&random, text);
    let signature = signature.map_err(|error| error.to_string())?;
    Ok(signature.as_ref().to_vec())
}
