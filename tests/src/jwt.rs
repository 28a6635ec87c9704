//! Who may connect to a nats-server in operator mode: an operator, one account, and its users, as JWTs.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use towline_bus::clock;
use uuid::Uuid;

/// An operator with one account. The account's users are signed by its own key.
pub struct Operator {
    operator: KeyPair,
    /// Made once: a server that runs takes a change of its accounts, but none of its operator, not even the same one signed
    /// anew.
    jwt: String,
    account: KeyPair,
}

/// What a user may do; nothing is limited unless said.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// Patterns that it may publish to and subscribe.
    pub allow: Option<Vec<String>>,
    /// The largest payload in bytes.
    pub payload: Option<u64>,
    /// When the credentials end, in seconds from now.
    pub expires_in: Option<u64>,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("account", &self.account.public_key()).finish_non_exhaustive()
    }
}

impl Default for Operator {
    fn default() -> Self {
        let operator = KeyPair::new_operator();
        let claims = json!({ "type": "operator", "version": 2 });
        let jwt = sign(&operator, &operator, "operator", None, &claims);
        Self { operator, jwt, account: KeyPair::new_account() }
    }
}

impl Operator {
    /// Another account of this operator, which its servers do not know.
    #[must_use]
    pub fn with_unknown_account(&self) -> Self {
        let operator =
            KeyPair::from_seed(&self.operator.seed().expect("it was made here")).expect("as above");
        Self { operator, jwt: self.jwt.clone(), account: KeyPair::new_account() }
    }

    /// What makes a server ask for JWTs of this operator, for its configuration.
    #[must_use]
    pub fn config(&self) -> String {
        self.config_with(&json!({}))
    }

    /// The same, with all credentials revoked that were made up to this second.
    #[must_use]
    pub fn config_that_revokes(&self) -> String {
        self.config_with(&json!({ "*": now() }))
    }

    fn config_with(&self, revocations: &Value) -> String {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1
        });
        let account = sign(
            &self.operator,
            &self.account,
            "account",
            None,
            &json!({ "type": "account", "version": 2, "limits": limits, "revocations": revocations }),
        );
        let mut config = String::new();
        let key = self.account.public_key();
        write!(
            config,
            "operator: \"{}\"\nresolver: MEMORY\nresolver_preload: {{ {key}: \"{account}\" }}\n",
            self.jwt
        )
        .expect("a string takes all text");
        config
    }

    /// The text of a `.creds` file for a new user.
    ///
    /// # Panics
    /// Never: keys made here have seeds.
    #[must_use]
    pub fn credentials(&self, user: &User) -> String {
        let key = KeyPair::new_user();
        let allowed = user.allow.as_ref().map_or_else(|| json!({}), |allow| json!({ "allow": allow }));
        let claims = json!({
            "type": "user", "version": 2, "pub": allowed, "sub": allowed, "subs": -1, "data": -1,
            "payload": user.payload.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX)),
        });
        let expires = user.expires_in.map(|seconds| now() + seconds);
        let jwt = sign(&self.account, &key, "user", expires, &claims);
        let seed = key.seed().expect("it was made here");
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    /// Writes credentials in one step, as whoever renews them should.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_credentials(&self, user: &User, path: &Path) {
        let partial = path.with_extension("partial");
        std::fs::write(&partial, self.credentials(user)).expect("the place can be written");
        std::fs::rename(&partial, path).expect("the place can be written");
    }
}

fn now() -> u64 {
    clock::unix_ms() / 1_000
}

/// A JWT of NATS (ADR-14): a header of its own, and an ed25519 signature of the issuer's nkey.
fn sign(issuer: &KeyPair, subject: &KeyPair, name: &str, expires: Option<u64>, nats: &Value) -> String {
    let claims = json!({
        "jti": Uuid::new_v4().simple().to_string(), "iat": now(), "iss": issuer.public_key(),
        "name": name, "sub": subject.public_key(), "exp": expires.unwrap_or(0), "nats": nats,
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(&claims));
    let signature = issuer.sign(signed.as_bytes()).expect("a key made here signs");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
