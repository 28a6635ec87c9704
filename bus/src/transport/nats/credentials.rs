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
///
/// # Errors
/// What is wrong with the file; never what stands in it.
pub(crate) fn sign(credentials: &str, nonce: &[u8]) -> Result<async_nats::Auth, String> {
    let jwt = block(credentials, "NATS USER JWT").ok_or("the credentials file holds no user JWT")?.to_owned();
    let seed = block(credentials, "USER NKEY SEED").ok_or("the credentials file holds no user key")?;
    let key =
        nkeys::KeyPair::from_seed(seed).map_err(|error| format!("the user key is malformed: {error}"))?;
    let signature = key.sign(nonce).map_err(|error| format!("the user key cannot sign: {error}"))?;
    let mut auth = async_nats::Auth::new();
    auth.jwt = Some(jwt);
    auth.signature = Some(signature);
    Ok(auth)
}

/// The one word between the lines that begin and end the block `name`.
fn block<'a>(credentials: &'a str, name: &str) -> Option<&'a str> {
    let is_mark = |line: &str| line.starts_with("---");
    let begins = |line: &str| is_mark(line) && line.trim_matches('-').strip_prefix("BEGIN ") == Some(name);
    let mut lines = credentials.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.find(|line| begins(line))?;
    let word = lines.next().filter(|line| !is_mark(line) && !line.contains(char::is_whitespace))?;
    lines.next().filter(|line| is_mark(line)).map(|_| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(jwt: &str, seed: &str, line_end: &str) -> String {
        [
            "-----BEGIN NATS USER JWT-----",
            jwt,
            "------END NATS USER JWT------",
            "",
            "-----BEGIN USER NKEY SEED-----",
            seed,
            "------END USER NKEY SEED------",
            "",
        ]
        .join(line_end)
    }

    #[test]
    fn a_file_is_read_whatever_ends_its_lines() {
        let key = nkeys::KeyPair::new_user();
        let seed = key.seed().unwrap();
        for line_end in ["\n", "\r\n", "\n\n"] {
            let auth = sign(&file("a.b.c", &seed, line_end), b"nonce").unwrap();
            assert_eq!(auth.jwt.as_deref(), Some("a.b.c"));
            assert!(key.verify(b"nonce", &auth.signature.unwrap()).is_ok());
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_a_secret() {
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        let spoilt = seed.replace(&seed[8..12], "0189");
        for (text, expected) in [
            (String::new(), "no user JWT"),
            (file("", &seed, "\n"), "no user JWT"),
            (file("a b", &seed, "\n"), "no user JWT"),
            (file("a.b.c\nd", &seed, "\n"), "no user JWT"),
            (file("a.b.c", "", "\n"), "no user key"),
            (file("a.b.c", &spoilt, "\n"), "malformed"),
            (file("a.b.c", "SU", "\n"), "malformed"),
        ] {
            let said = sign(&text, b"nonce").err().unwrap();
            assert!(said.contains(expected) && !said.contains(&seed[4..]), "{said}");
        }
    }
}
