//! Who we are to registries: the file that `docker login` writes, read anew for each pull, so that it may change at any time.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use bollard::auth::DockerCredentials;
use serde::Deserialize;

/// The largest file that is read: some thousand registries.
const BYTES_MAX: u64 = 1 << 20;

/// The registry of images that name none, and how its entry is spelled in the file.
const DEFAULT: &str = "docker.io";
const DEFAULT_SPELLINGS: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Why there are no credentials to be had from a file.
#[derive(Debug, thiserror::Error)]
#[error("registry credentials in {file}: {why}", file = file.display())]
pub struct RegistryAuthError {
    file: PathBuf,
    why: String,
}

/// A name and its password, or a token; shown without them.
#[derive(Clone, PartialEq, Eq)]
struct Login {
    username: String,
    password: String,
    token: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// Credentials by registry.
#[derive(Debug, Default)]
pub struct RegistryAuth {
    logins: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl RegistryAuth {
    /// Reads the file. Waits for the disk.
    ///
    /// # Errors
    /// What is wrong with it; never what stands in it.
    pub fn read(file: &Path) -> Result<Self, RegistryAuthError> {
        let failed = |why: String| RegistryAuthError { file: file.to_owned(), why };
        let too_large = || io::Error::other(format!("it has more than {BYTES_MAX} bytes"));
        let text = fs::metadata(file)
            .and_then(|found| if found.len() > BYTES_MAX { Err(too_large()) } else { fs::read(file) })
            .map_err(|error| failed(error.to_string()))?;
        Self::parse(&text).map_err(failed)
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        // The text of such an error may show what was found, and that is a secret.
        let config: ConfigFile = serde_json::from_slice(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("line {line}, column {column}: not the format of Docker's config.json")
        })?;
        let mut logins = BTreeMap::new();
        for (name, entry) in config.auths {
            let login = entry.login().map_err(|why| format!("auths.{name}: {why}"))?;
            logins.insert(registry_of_entry(&name), login);
        }
        Ok(Self { logins })
    }

    /// Registries that there are credentials for.
    pub fn registries(&self) -> impl Iterator<Item = &str> {
        self.logins.keys().map(String::as_str)
    }

    /// What is sent to the registry of `image`, if there is something.
    ///
    /// # Errors
    /// That it cannot be sent.
    pub(super) fn of_image(&self, image: &str) -> Result<Option<DockerCredentials>, String> {
        let registry = registry_of_image(image);
        let Some(login) = self.logins.get(registry) else { return Ok(None) };
        let credentials = DockerCredentials {
            username: Some(login.username.clone()),
            password: Some(login.password.clone()),
            identitytoken: login.token.clone(),
            serveraddress: Some(registry.to_owned()),
            ..DockerCredentials::default()
        };
        if is_sent_whole(&credentials) {
            return Ok(Some(credentials));
        }
        Err(format!(
            "the credentials for {registry} hold one of `~`, `>`, `?` or a character beyond ASCII in a place where it does not \
             reach the engine; choose another password"
        ))
    }
}

/// The client encodes with another alphabet than the engine decodes with; where they differ, the engine drops all of it.
fn is_sent_whole(credentials: &DockerCredentials) -> bool {
    serde_json::to_vec(credentials).is_ok_and(|json| STANDARD.encode(&json) == URL_SAFE.encode(&json))
}

impl Entry {
    fn login(self) -> Result<Login, &'static str> {
        let token = self.identitytoken.filter(|token| !token.is_empty());
        let pair = match (self.auth.filter(|auth| !auth.is_empty()), self.username, self.password) {
            (Some(auth), ..) => {
                let not_encoded = "`auth` is not base64 of `name:password`";
                let decoded = STANDARD.decode(auth).map_err(|_| not_encoded)?;
                let text = String::from_utf8(decoded).map_err(|_| not_encoded)?;
                let (name, password) = text.split_once(':').ok_or(not_encoded)?;
                Some((name.to_owned(), password.trim_end_matches('\0').to_owned()))
            }
            (None, Some(name), Some(password)) => Some((name, password)),
            (None, ..) => None,
        };
        match (pair, token) {
            (None, None) => {
                Err("no credentials; where `credsStore` or `credHelpers` keep them, write them into `auth`")
            }
            (pair, token) => {
                let (username, password) = pair.unwrap_or_default();
                Ok(Login { username, password, token })
            }
        }
    }
}

/// The registry that an entry of the file is for: older ones are addresses.
fn registry_of_entry(name: &str) -> String {
    let host = name.split_once("://").map_or(name, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    if DEFAULT_SPELLINGS.contains(&host) { DEFAULT.to_owned() } else { host.to_owned() }
}

/// The registry that an image is of: what stands before its first slash, if that is a host.
pub(super) fn registry_of_image(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if DEFAULT_SPELLINGS.contains(&host) => DEFAULT,
        Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => host,
        _ => DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(config: &str, image: &str) -> Option<(String, String)> {
        let credentials = RegistryAuth::parse(config.as_bytes()).unwrap().of_image(image).unwrap()?;
        Some((credentials.username.unwrap(), credentials.password.unwrap()))
    }

    #[test]
    fn each_registry_has_its_own() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "aHViOm9uZQ=="},
            "127.0.0.1:5000": {"auth": "bG9jYWw6dHdvOnRocmVl"}, "ghcr.io": {"username": "gh", "password": "p"}},
            "HttpHeaders": {"x": "y"}, "credsStore": "ignored"}"#;
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        for (image, expected) in [
            ("busybox", pair("hub", "one")),
            ("library/busybox:1", pair("hub", "one")),
            ("docker.io/library/busybox", pair("hub", "one")),
            ("127.0.0.1:5000/a/b@sha256:00", pair("local", "two:three")),
            ("ghcr.io/acme/app:v1", pair("gh", "p")),
            ("localhost/app", None),
            ("quay.io/acme/app", None),
        ] {
            assert_eq!(sent(config, image), expected, "{image}");
        }
        let auth = RegistryAuth::parse(config.as_bytes()).unwrap();
        assert_eq!(auth.registries().collect::<Vec<_>>(), ["127.0.0.1:5000", "docker.io", "ghcr.io"]);
    }

    #[test]
    fn what_is_wrong_is_said_without_a_secret() {
        for (config, expected) in [
            (r#"{"auths": {"a.b": {"auth": "c2VjcmV0"}}}"#, "auths.a.b: `auth` is not base64"),
            (r#"{"auths": {"a.b": {"auth": "secret!"}}}"#, "auths.a.b: `auth` is not base64"),
            (r#"{"auths": {"a.b": {}}, "credsStore": "secretservice"}"#, "auths.a.b: no credentials"),
            (r#"{"auths": {"a.b": "secret"}}"#, "line 1, column"),
            ("secret", "line 1, column"),
        ] {
            let said = RegistryAuth::parse(config.as_bytes()).unwrap_err();
            assert!(said.contains(expected) && !said.contains("secret"), "{said}");
        }
        let auth = RegistryAuth::parse(br#"{"auths": {"a.b": {"username": "u", "password": "hidden"}}}"#);
        assert!(!format!("{:?}", auth.unwrap()).contains("hidden"));
    }

    #[test]
    fn what_would_not_reach_the_engine_is_refused() {
        let refused = |password: &str| {
            let config = serde_json::json!({"auths": {"a.b": {"username": "u", "password": password}}});
            RegistryAuth::parse(config.to_string().as_bytes()).unwrap().of_image("a.b/c").is_err()
        };
        assert!(refused("~~~") && refused("a???") && refused("p\u{e4}\u{ff}ss\u{e4}\u{ff}"));
        assert!(!refused("plain+/=password"));
    }
}
