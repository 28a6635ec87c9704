//! What a second stage becomes.

use std::fmt;

use super::{spec::ShimProbe, spec::ShimSpec};
use crate::manifest::Hooks;

/// Which command of a unit is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum Role {
    /// The one that the unit is for.
    #[default]
    Main,
    /// The hook before a start.
    PreStart,
    /// The hook after a start.
    PostStart,
    /// The hook before the signal to stop.
    PreStop,
    /// The hook after the end.
    PostStop,
    /// The command of the health check.
    Health,
}

impl Role {
    /// As it is spelled on the command line, and in a manifest.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::PreStart => "preStart",
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
            Self::PostStop => "postStop",
            Self::Health => "health",
        }
    }

    /// The words of a hook; none where it is not declared, or this is no hook.
    pub(crate) fn among(self, hooks: &Hooks) -> &[String] {
        match self {
            Self::PreStart => &hooks.pre_start,
            Self::PostStart => &hooks.post_start,
            Self::PreStop => &hooks.pre_stop,
            Self::PostStop => &hooks.post_stop,
            Self::Main | Self::Health => &[],
        }
    }

    /// Its words; none where it is not declared.
    pub(super) fn argv(self, spec: &ShimSpec) -> &[String] {
        match self {
            Self::Main => &spec.argv,
            Self::PreStart | Self::PostStart | Self::PreStop | Self::PostStop => self.among(&spec.hooks),
            Self::Health => match spec.health.as_ref().map(|health| &health.probe) {
                Some(ShimProbe::Exec { command }) => command,
                _ => &[],
            },
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn each_role_is_read_as_it_is_spelled() {
        for role in Role::value_variants() {
            assert_eq!(Role::from_str(role.as_str(), false), Ok(*role));
        }
    }
}
