//! Credentials that may be renewed under a connection.

use std::path::PathBuf;

use async_nats::ConnectOptions;

/// Credentials that are read again at every connect: the file may have been renewed meanwhile.
pub(super) fn with_credentials(path: PathBuf) -> ConnectOptions {
    ConnectOptions::with_auth_callback(move |nonce| {
        let path = path.clone();
        async move {
            let text = tokio::fs::read_to_string(&path).await.map_err(async_nats::AuthError::new)?;
            sign(&text, &nonce).map_err(async_nats::AuthError::new)
        }
    })
}

/// What a `.creds` file says to a nonce.
fn sign(credentials: &str, nonce: &[u8]) -> Result<async_nats::Auth, String> {
    let block = |name: &str| {
        let begin = credentials.find(&format!("-----BEGIN {name}-----"))?;
        let inside = credentials.get(begin..)?.split_once("-----\n")?.1;
        Some(inside.split_once("\n-")?.0.trim().to_owned())
    };
    let jwt = block("NATS USER JWT").ok_or("the credentials file holds no user JWT")?;
    let seed = block("USER NKEY SEED").ok_or("the credentials file holds no user key")?;
    let key =
        nkeys::KeyPair::from_seed(&seed).map_err(|error| format!("the user key is malformed: {error}"))?;
    let signature = key.sign(nonce).map_err(|error| format!("the user key cannot sign: {error}"))?;
    let mut auth = async_nats::Auth::new();
    auth.jwt = Some(jwt);
    auth.signature = Some(signature);
    Ok(auth)
}
