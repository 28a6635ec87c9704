//! Where an app runs, where there are several hosts.

use std::{collections::BTreeMap, fmt, str::FromStr};

use towline_protocol::Name;

/// The host of an app: one by its name, or one of those that bear labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostChoice {
    /// This one.
    Named(Name),
    /// One that bears all of these labels; never of none.
    Labelled(BTreeMap<String, String>),
}

/// What was found is no choice of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "found {found:?}, allowed is the name of a configured host, or labels such as disk=ssd,site=north, each key once"
)]
pub struct ParseHostChoiceError {
    found: String,
}

impl FromStr for HostChoice {
    type Err = ParseHostChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseHostChoiceError { found: text.chars().take(80).collect() };
        if !text.contains('=') {
            return text.parse().map(Self::Named).map_err(|_| refused());
        }
        let mut labels = BTreeMap::new();
        for label in text.split(',') {
            let (key, value) = label.split_once('=').ok_or_else(refused)?;
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() || labels.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(refused());
            }
        }
        Ok(Self::Labelled(labels))
    }
}

/// As it can be read again; equal choices have equal text.
impl fmt::Display for HostChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => name.fmt(f),
            Self::Labelled(labels) => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                f.write_str(&labels.join(","))
            }
        }
    }
}

impl serde::Serialize for HostChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_chosen_by_name_or_by_labels() {
        let choice = |text: &str| text.parse::<HostChoice>();
        assert_eq!(choice("edge-1"), Ok(HostChoice::Named("edge-1".parse().unwrap())));
        let labels = choice("site=north, disk=ssd").unwrap();
        assert_eq!(labels.to_string(), "disk=ssd,site=north", "in one order");
        assert_eq!(choice(&labels.to_string()), Ok(labels));
        for bad in ["", "Edge 1", "=ssd", "a=1,a=2", "a=1,", "a=1,edge-1"] {
            let said = choice(bad).unwrap_err().to_string();
            assert!(said.contains(&format!("{bad:?}")) && said.contains("disk=ssd"), "{said}");
        }
    }
}
