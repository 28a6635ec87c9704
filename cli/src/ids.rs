//! How people name an app: `web` for short, `default/App/web` in full.

use std::fmt;
use std::str::FromStr;

use towline_protocol::{Name, ResourceId};

/// The namespace of an app that is named without one.
const NAMESPACE: &str = "default";

/// The kind of a resource that is named without one.
const KIND: &str = "App";

/// The id of an app (or of another kind of resource, which is then named).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppId(ResourceId);

impl AppId {
    pub(crate) fn as_resource(&self) -> &ResourceId {
        &self.0
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AppId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, kind, name) = match parts.as_slice() {
            [name] => (NAMESPACE, KIND, *name),
            [kind, name] => (NAMESPACE, *kind, *name),
            [namespace, kind, name] => (*namespace, *kind, *name),
            _ => return Err(refused()),
        };
        let is_kind = kind.starts_with(|c: char| c.is_ascii_uppercase())
            && kind.bytes().all(|b| b.is_ascii_alphanumeric());
        let are_names = [namespace, name].iter().all(|part| part.parse::<Name>().is_ok());
        if !is_kind || !are_names {
            return Err(refused());
        }
        format!("{namespace}/{kind}/{name}").parse().map(Self).map_err(|_| refused())
    }
}

fn refused() -> String {
    "allowed are `web`, `App/web` and `namespace/App/web`, names in lower case, kinds with a capital letter"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        for (short, full) in [
            ("web", "default/App/web"),
            ("App/web", "default/App/web"),
            ("File/motd", "default/File/motd"),
            ("shop/App/web-2", "shop/App/web-2"),
        ] {
            assert_eq!(short.parse::<AppId>().unwrap().as_str(), full, "{short}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for bad in [
            "",
            "Web",
            "shop/web",
            "a/b/c",
            "a/App/b/c",
            "/web",
            "web/",
            "App/",
            "shop/App/We",
            "w eb",
            "App/w\n",
        ] {
            assert!(bad.parse::<AppId>().unwrap_err().contains("namespace/App/web"), "{bad:?}");
        }
    }
}
