//! Which hub is meant, and with which token: flags and environment first, then a running `towline dev`, then a guess.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use reqwest::Url;
use towline_protocol::InstanceId;

use crate::args::{At, Global};
use crate::context::{self, Context};
use crate::failure::{Exit, Failure, plainly};

/// Where a hub listens unless told otherwise.
const GUESS: &str = "http://127.0.0.1:7400";

/// A token is one line; a file larger than this is something else.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// The address of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubUrl(Url);

impl HubUrl {
    /// The address of a path on this hub.
    pub(crate) fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url
    }

    /// Whether it is on this host.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl FromStr for HubUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with("https://") {
            return Err("this build has no TLS yet: allowed is http://HOST[:PORT]".to_owned());
        }
        let allowed = "allowed is http://HOST[:PORT], such as http://127.0.0.1:7400";
        match text.parse::<Url>() {
            Ok(url) if url.scheme() != "http" || !url.has_host() => Err(allowed.to_owned()),
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                Err(format!("it has parameters: {allowed}"))
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                Err("it has a user: the hub wants a token, see --token-file".to_owned())
            }
            Ok(url) => Ok(Self(url)),
            Err(_) => Err(allowed.to_owned()),
        }
    }
}

/// A token, kept out of logs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    /// The secret, for the one header that carries it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let refused = |why: String| {
            Failure::error(format!("the token file `{}` cannot be used: {why}", path.display()))
                .with_help("name the hub's token file with --token-file or TOWLINE_TOKEN_FILE; the hub's log says where it is")
        };
        let size = path.metadata().map_err(|error| refused(plainly(&error)))?.len();
        if size > TOKEN_BYTES_MAX {
            return Err(refused(format!("it has {size} bytes, and a token is one line")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| refused(plainly(&error)))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused("it should hold one line of visible ASCII characters".to_owned()));
        }
        Ok(Self(token.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The hub that is meant.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Where it is; several are tried in order.
    pub(crate) hubs: Vec<HubUrl>,
    /// What it wants to be shown.
    pub(crate) token: Option<Token>,
    /// The instance of those who name none.
    instance: Option<InstanceId>,
    /// Nobody named a hub, and none was found.
    pub(crate) guessed: bool,
}

impl Target {
    /// Finds out which hub is meant.
    ///
    /// # Errors
    /// When a token file was named and cannot be read.
    pub(crate) fn resolve(global: &Global) -> Result<Self, Failure> {
        Self::choose(global, Context::find(&context::places()))
    }

    /// The hub of a running `towline dev`, for that process itself.
    ///
    /// # Errors
    /// When its token cannot be read.
    pub(crate) fn of_dev(context: &Context) -> Result<Self, Failure> {
        Ok(Self {
            hubs: vec![parse_context_hub(context)?],
            token: Some(Token::read(&context.token_file)?),
            instance: Some(context.instance.clone()),
            guessed: false,
        })
    }

    fn choose(global: &Global, dev: Option<Context>) -> Result<Self, Failure> {
        let named = global.token_file.as_deref().map(Token::read).transpose()?;
        // A hub that was named may be the one of `towline dev` all the same: then its token fits.
        let dev = dev.filter(|dev| {
            global.hub.is_empty()
                || global.hub.iter().all(|hub| Some(hub) == parse_context_hub(dev).ok().as_ref())
        });
        if let Some(dev) = dev {
            let found = Self::of_dev(&dev)?;
            return Ok(Self { token: named.or(found.token), ..found });
        }
        let guessed = global.hub.is_empty();
        let hubs = if guessed { vec![GUESS.parse().map_err(Failure::error)?] } else { global.hub.clone() };
        Ok(Self { hubs, token: named, instance: None, guessed })
    }

    /// The instance that was named, or the one of `towline dev`.
    ///
    /// # Errors
    /// When there is neither.
    pub(crate) fn instance(&self, at: At) -> Result<InstanceId, Failure> {
        at.instance.or_else(|| self.instance.clone()).ok_or_else(|| {
            Failure::new(Exit::Usage, "no instance is named").with_help(
                "name it: `tenant/name`, or `name` in the tenant `default`; `towline instances` lists them",
            )
        })
    }
}

fn parse_context_hub(context: &Context) -> Result<HubUrl, Failure> {
    context.hub.parse().map_err(|why| {
        Failure::error(format!("the hub `{}` of `towline dev` is not one: {why}", context.hub))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Output;

    fn global(hub: &[&str]) -> Global {
        Global {
            hub: hub.iter().map(|hub| hub.parse().unwrap()).collect(),
            token_file: None,
            output: Output::Table,
            timeout: None,
            no_progress: true,
        }
    }

    fn dev(dir: &Path) -> Context {
        let token_file = dir.join("token");
        std::fs::write(&token_file, "a-token-of-some-length\n").unwrap();
        Context::of_this_process("http://127.0.0.1:7499", token_file, "default/local".parse().unwrap())
    }

    #[test]
    fn hubs_are_http_addresses() {
        let hub: HubUrl = "http://hub.example:7400/".parse().unwrap();
        assert_eq!(hub.to_string(), "http://hub.example:7400");
        assert_eq!(hub.join("/v1/instances").as_str(), "http://hub.example:7400/v1/instances");
        assert!(!hub.is_loopback());
        assert!("http://[::1]:7400".parse::<HubUrl>().unwrap().is_loopback());
        let below: HubUrl = "http://proxy/towline/".parse().unwrap();
        assert_eq!(below.join("/v1/events").as_str(), "http://proxy/towline/v1/events");
        for bad in [
            "",
            "hub:7400",
            "127.0.0.1:7400",
            "https://hub",
            "http://",
            "unix:/x",
            "http://a@b",
            "http://a?b=c",
        ] {
            assert!(bad.parse::<HubUrl>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_running_dev_is_used_unless_another_hub_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let found = Target::choose(&global(&[]), Some(dev(dir.path()))).unwrap();
        assert_eq!(found.hubs, global(&["http://127.0.0.1:7499"]).hub);
        assert!(found.token.is_some() && !found.guessed);
        assert_eq!(found.instance(At { instance: None }).unwrap().to_string(), "default/local");
        let same = Target::choose(&global(&["http://127.0.0.1:7499"]), Some(dev(dir.path()))).unwrap();
        assert!(same.token.is_some(), "its token fits, however it was named");
        let other = Target::choose(&global(&["http://hub:7400"]), Some(dev(dir.path()))).unwrap();
        assert_eq!((other.token, other.hubs), (None, global(&["http://hub:7400"]).hub));
        let none = Target::choose(&global(&[]), None).unwrap();
        assert!(none.guessed);
        assert_eq!(none.instance(At { instance: None }).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn a_token_is_one_line_and_is_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " hunter2-hunter2 \n").unwrap();
        let token = Token::read(&path).unwrap();
        assert_eq!(token.expose(), "hunter2-hunter2");
        assert!(!format!("{token:?}").contains("hunter2"));
        for bad in ["", "\n", "two words", "né"] {
            std::fs::write(&path, bad).unwrap();
            assert!(Token::read(&path).is_err(), "{bad:?}");
        }
        assert!(Token::read(&dir.path().join("none")).unwrap_err().render().contains("--token-file"));
    }
}
