//! Readers of foreign bytes for the fuzzer: nothing else may reach them from outside.

use crate::transport::nats::sign;

/// What a `.creds` file says to a server's nonce: the user's JWT, and the signature.
///
/// # Errors
/// What is wrong with the file.
pub fn credentials(text: &str, nonce: &[u8]) -> Result<(String, Vec<u8>), String> {
    let auth = sign(text, nonce)?;
    Ok((auth.jwt.unwrap_or_default(), auth.signature.unwrap_or_default()))
}
